"""MAXIM: U-Nets one after the other, whose pixels are mixed by gated MLPs within blocks and along a coarse grid.

Tu et al., 2022, "MAXIM: Multi-Axis MLP for Image Processing", https://arxiv.org/abs/2201.02973. Reference:
https://github.com/google-research/maxim (Apache-2.0), commit 3c82651, maxim/models/maxim.py; `NAMES` maps its parameter
names, those of the published .npz files among them.

The published networks are ``MAXIM(width, stages)``:

| | S-1 | S-2 | S-3 | M-1 | M-2 | M-3 |
|---|---|---|---|---|---|---|
| width | 32 | 32 | 32 | 64 | 64 | 64 |
| stages | 1 | 2 | 3 | 1 | 2 | 3 |
| parameters in millions, 3 scales | 6.14 | 14.18 | 22.21 | 19.46 | 43.23 | 66.99 |
| one scale, as the reference counts | 6.11 | 13.35 | 20.60 | 19.36 | 40.84 | 62.32 |

Details of the published code, kept here: GELU is the tanh approximation; the grid has as many cells a side as a block
has pixels, 16 in the two finest maps and 8 below; maps are resized by the bilinear rule of `jax.image.resize`, which
averages where it shrinks; images of the coarser scales have every second pixel of the one before; a cross-gating block
gives the gated signal of its second input to the next one.

Where sides do not divide into blocks, images are filled up by reflection, in equal parts, and what is too much is cut
off again; the reference's evaluation script does that outside of the network, and adds 64 pixels also where nothing is
lacking.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers.multi_axis import (
    LECUN,
    NORMAL,
    ZEROS,
    CrossGating,
    Doubled,
    MultiAxis,
    gelu_tanh,
    norm,
)

_SLOPE = 0.2  # of the leaky rectifiers


class ConvAttention(nn.Module):
    """``x + squeeze_excite(conv(leaky(conv(norm(x)))))``: the residual block with channel attention.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Keeps the shape."""
        y = _conv3(x.shape[-1], self.dtype, 'conv1')(norm(self.dtype, 'norm')(x))
        y = _conv3(x.shape[-1], self.dtype, 'conv2')(nn.leaky_relu(y, _SLOPE))
        return x + SqueezeExcite(1 / 4, 1, self.dtype, name='excite')(y)


class MlpAttention(nn.Module):
    """``x + squeeze_excite(mlp(norm(x)))``: the same at the bottom, without convolutions.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Keeps the shape."""
        y = Mlp(1.0, gelu_tanh, NORMAL, self.dtype, name='mlp')(norm(self.dtype, 'norm')(x))
        return x + SqueezeExcite(1 / 4, 1, self.dtype, name='excite')(y)


class Resized(nn.Module):
    """A 1x1 convolution of a map that is enlarged or shrunk to a size.

    Attributes:
        features: output channels.
        dtype: compute type.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of that size."""
        x = jax.image.resize(x, (len(x), *size, x.shape[-1]), 'bilinear')
        return _conv1(self.features, self.dtype, 'conv')(x)


class Level(nn.Module):
    """One level of a U-Net: ``x + groups(x)`` behind a 1x1 convolution, each group a `MultiAxis` and a `ConvAttention`.

    Attributes:
        features: channels.
        side: see `GatedMlp`.
        groups: their number.
        multi_axis: whether each has a `MultiAxis`.
        dtype: compute type.
    """

    features: int
    side: int
    groups: int
    multi_axis: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], before: Float[Array, 'b h w d'] | None = None
    ) -> Float[Array, 'b h w d']:
        """Returns the map, crossed with `before`, that of the same level in the U-Net before."""
        x = y = _conv1(self.features, self.dtype, 'in')(x)
        for index in range(self.groups):
            if self.multi_axis:
                y = MultiAxis(self.side, self.dtype, name=f'mix{index}')(y)
            y = ConvAttention(self.dtype, name=f'conv{index}')(y)
        y = x + y
        if before is not None:
            y, _ = CrossGating(self.features, self.side, dtype=self.dtype, name='cross')(y, before)
        return y


class Bottom(nn.Module):
    """The same between encoder and decoder, with `MlpAttention` in the place of `ConvAttention`.

    Attributes:
        features: channels.
        side: see `GatedMlp`.
        groups: their number.
        multi_axis: whether each has a `MultiAxis`.
        dtype: compute type.
    """

    features: int
    side: int
    groups: int
    multi_axis: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        """Returns a map of the same size."""
        x = y = _conv1(self.features, self.dtype, 'in')(x)
        for index in range(self.groups):
            if self.multi_axis:
                y = MultiAxis(self.side, self.dtype, name=f'mix{index}')(y)
            y = MlpAttention(self.dtype, name=f'mlp{index}')(y)
        return x + y


class Supervised(nn.Module):
    """The supervised attention of MPRNet (Zamir et al., 2021): an image, and features weighted by what it shows.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], image: Float[Array, 'b h w k']
    ) -> tuple[Float[Array, 'b h w c'], Float[Array, 'b h w k']]:
        """Returns the features for the next U-Net, and this one's image."""
        restored = image + _conv3(image.shape[-1], self.dtype, 'image')(x)
        weights = nn.sigmoid(_conv3(x.shape[-1], self.dtype, 'weights')(restored))
        return x + _conv3(x.shape[-1], self.dtype, 'features')(x) * weights, restored


class _Left(NamedTuple):
    """What a U-Net leaves for the next one.

    Attributes:
        supervised: features by scale.
        maps: by level, the encoder's and the decoder's added.
    """

    supervised: dict[int, Float[Array, 'b ...']]
    maps: dict[int, Float[Array, 'b ...']]


class MAXIM(ft.Restorer):
    """The network.

    Attributes:
        width: channels at full resolution; doubled from level to level.
        stages: number of U-Nets.
        depth: levels of each.
        groups: see `Level`.
        bottoms: number of `Bottom` blocks in a row.
        multi_axis: whether there are multi-axis MLPs; without them groups are convolutions, or matrices at the bottom.
        scales: number of resolutions at which an image is read and given back, each half of the one before.
        sides: of blocks and grids at each level; that of the last holds between encoder and decoder too.
        dtype: compute type; parameters are float32.
    """

    width: int = 32
    stages: int = 1
    depth: int = 3
    groups: int = 2
    bottoms: int = 2
    multi_axis: bool = True
    scales: int = 3
    sides: tuple[int, ...] = (16, 16, 8)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> tuple[Float[Array, 'b ...'], ...]:
        """Returns images of all stages, those of a stage from the smallest to one like `x`.

        Raises:
            ValueError: `sides` or `scales` do not fit `depth`.
        """
        del train
        self._check()
        size = x.shape[1:3]
        x, first = self._filled(x)
        # Every second pixel, and every fourth, as resizing by the nearest one takes them.
        images = [x[:, 2**i // 2 :: 2**i, 2**i // 2 :: 2**i] for i in range(self.scales)]
        number, left, found = itertools.count(), None, []
        for stage in range(self.stages):
            restored, left = self._stage(stage, images, left, number)
            found += [self._cropped(image, size, first, i) for i, image in restored.items()]
        return tuple(found)

    def _stage(
        self, stage: int, images: list[Float[Array, 'b ...']], left: _Left | None, number: Iterator[int]
    ) -> tuple[dict[int, Float[Array, 'b ...']], _Left]:
        """Returns what a U-Net makes of the images, from the last scale to the first, and what the next one reads."""
        dtype, levels, at = self.dtype, range(self.depth), f'stage{stage}_'
        features = [2**i * self.width for i in levels]
        read = [_conv3(features[i], dtype, f'{at}input{i}')(image) for i, image in enumerate(images)]
        if left is not None:
            fuse = lambda i: CrossGating(features[i], self.sides[i], dtype=dtype, name=f'{at}fuse{i}')
            read = [fuse(i)(y, left.supervised[i])[0] for i, y in enumerate(read)]
        x, encoded = read[0], []
        for i in levels:
            x = jnp.concatenate([x, read[i]], axis=-1) if i < self.scales else x
            level = Level(features[i], self.sides[i], self.groups, self.multi_axis, dtype, name=f'{at}encoder{i}')
            encoded.append(level(x, None if left is None else left.maps[i]))
            down = Conv(features[i], 4, 2, 1, dtype, kernel_init=LECUN, bias_init=ZEROS, name=f'{at}down{i}')
            x = down(encoded[i])
        for i in range(self.bottoms):
            x = Bottom(features[-1], self.sides[-1], self.groups, self.multi_axis, dtype, name=f'{at}bottom{i}')(x)
        signal, skips = x, []
        for i in reversed(levels):
            cross = CrossGating(features[i], self.sides[i], True, dtype, name=f'{at}cross{i}')
            skip, signal = cross(self._fused(encoded, features[i], encoded[i].shape[1:3], number), signal)
            skips.append(skip)
        maps, supervised, restored = {}, {}, {}
        for i in reversed(levels):
            fused = self._fused(skips, features[i], encoded[i].shape[1:3], number)
            x = jnp.concatenate([Doubled(features[i], dtype, name=f'{at}up{i}')(x), fused], axis=-1)
            x = Level(features[i], self.sides[i], self.groups, self.multi_axis, dtype, name=f'{at}decoder{i}')(x)
            maps[i] = encoded[i] + x
            if i < self.scales and stage < self.stages - 1:
                supervised[i], restored[i] = Supervised(dtype, name=f'{at}supervised{i}')(x, images[i])
            elif i < self.scales:
                restored[i] = images[i] + _conv3(images[i].shape[-1], dtype, f'{at}output{i}')(x)
        return restored, _Left(supervised, maps)

    def _fused(
        self, maps: list[Float[Array, 'b ...']], features: int, size: tuple[int, int], number: Iterator[int]
    ) -> Float[Array, 'b h w c']:
        """Returns maps of all levels side by side, in the size of one."""
        resized = lambda x: Resized(features, self.dtype, name=f'resized{next(number)}')(x, size)
        return jnp.concatenate([resized(x) for x in maps], axis=-1)

    @property
    def multiple(self) -> int:
        """What both sides of an image are filled up to a multiple of."""
        return math.lcm(*(2**i * side for i, side in enumerate(self.sides)), 2**self.depth * self.sides[-1])

    def _filled(self, x: Float[Array, 'b h w c']) -> tuple[Float[Array, 'b h2 w2 c'], tuple[int, int]]:
        """Returns images whose sides divide into blocks at each level, and where they begin."""
        lacking = [-side % self.multiple for side in x.shape[1:3]]
        # A multiple of the strides, so that the smaller images begin with a whole pixel, too.
        stride = 2 ** (self.scales - 1)
        first = tuple(more // 2 // stride * stride for more in lacking)
        if not any(lacking):
            return x, (0, 0)
        ends = [(begin, more - begin) for begin, more in zip(first, lacking)]
        return jnp.pad(x, ((0, 0), *ends, (0, 0)), 'reflect'), first

    def _cropped(
        self, x: Float[Array, 'b h w c'], size: tuple[int, int], first: tuple[int, int], scale: int
    ) -> Float[Array, 'b h2 w2 c']:
        """Returns what there is of the image itself; sides that do not divide are rounded up."""
        rows, columns = (slice(begin >> scale, (begin >> scale) - (-side >> scale)) for begin, side in zip(first, size))
        return x[:, rows, columns]

    def _check(self) -> None:
        if len(self.sides) != self.depth:
            raise ValueError(f'MAXIM.sides has {len(self.sides)} numbers; wanted one a level, depth={self.depth}.')
        if not 1 <= self.scales <= self.depth:
            raise ValueError(f'MAXIM.scales is {self.scales}; wanted 1 to depth={self.depth}.')


def _conv1(features: int, dtype: DTypeLike, name: str) -> Conv:
    return Conv(features, 1, dtype=dtype, kernel_init=LECUN, bias_init=ZEROS, name=name)


def _conv3(features: int, dtype: DTypeLike, name: str) -> Conv:
    return Conv(features, 3, 1, 1, dtype, kernel_init=LECUN, bias_init=ZEROS, name=name)


# Published names of parameters and ours; see weights.py.
_ARRAYS = (('kernel', 'kernel'), ('bias', 'bias'))
_NORM = (('scale', 'scale'), ('bias', 'bias'))


def _pairs(there: str, here: str, parts: dict[str, str]) -> list[tuple[str, str]]:
    """Returns the names of layers, given theirs and ours; those of norms end with ``norm``."""
    return [
        (f'{there}/{theirs}/{a}', f'{here}/{ours}/{b}')
        for theirs, ours in parts.items()
        for a, b in (_NORM if 'norm' in ours.rpartition('/')[2] else _ARRAYS)
    ]


def _multi_axis(there: str, here: str) -> list[tuple[str, str]]:
    axes = {
        f'{big}GmlpLayer/{theirs}': f'{small}/{ours}'
        for big, small in (('Grid', 'grid'), ('Block', 'block'))
        for theirs, ours in (
            ('LayerNorm', 'norm'),
            ('in_project', 'up'),
            (f'{big}GatingUnit/intermediate_layernorm', 'mix_norm'),
            (f'{big}GatingUnit/Dense_0', 'mix'),
            ('out_project', 'out'),
        )
    }
    return _pairs(there, here, {'LayerNorm_in': 'norm', 'in_project': 'up', 'out_project': 'out'} | axes)


def _cross_gating(there: str, here: str) -> list[tuple[str, str]]:
    parts = {'ConvTranspose_0': 'doubled', 'Conv_0': 'in_x', 'Conv_1': 'in_y'}
    for x in 'xy':
        parts |= {f'LayerNorm_{x}': f'norm_{x}', f'in_project_{x}': f'up_{x}', f'out_project_{x}': f'out_{x}'}
        gates = {
            'LayerNorm_in': 'norm',
            'in_project': 'up',
            'Dense_0': 'grid',
            'Dense_1': 'block',
            'out_project': 'out',
        }
        parts |= {f'SplitHeadMultiAxisGating_{x}/{a}': f'gates_{x}/{b}' for a, b in gates.items()}
    return _pairs(there, here, parts)


def _excite(there: str, here: str) -> list[tuple[str, str]]:
    squeezed = {f'channel_attention/Conv_{n}': f'excite/{name}' for n, name in enumerate(('down', 'up'))}
    return _pairs(there, here, squeezed)


def _level(there: str, here: str) -> list[tuple[str, str]]:
    attention = f'{there}/channel_attention_block_1{{g}}', f'{here}/conv{{g}}'
    return [
        *_pairs(there, here, {'Conv_0': 'in'}),
        *_multi_axis(f'{there}/SplitHeadMultiAxisGmlpLayer_{{g}}', f'{here}/mix{{g}}'),
        *_pairs(*attention, {'LayerNorm': 'norm', 'conv1': 'conv1', 'conv2': 'conv2'}),
        *_excite(*attention),
        *_cross_gating(f'{there}/cross_gating_block', f'{here}/cross'),
    ]


def _names() -> tuple[tuple[str, str], ...]:
    at, ours = 'stage_{s}_', 'stage{s}_'
    bottom = f'{at}global_block_{{i}}', f'{ours}bottom{{i}}'
    attention = f'{bottom[0]}/channel_attention_block_1_{{g}}', f'{bottom[1]}/mlp{{g}}'
    encoder, decoder = f'{at}encoder_block_{{i}}', f'{at}decoder_block_{{i}}'
    supervised = {'Conv_0': 'features', 'Conv_1': 'image', 'Conv_2': 'weights'}
    alone = {f'{at}input_conv_{{i}}': f'{ours}input{{i}}', f'{at}output_conv_{{i}}': f'{ours}output{{i}}'}
    alone |= {f'{encoder}/Conv_1': f'{ours}down{{i}}', f'{decoder}/ConvTranspose_0': f'{ours}up{{i}}'}
    alone |= {'UpSampleRatio_{n}/Conv_0': 'resized{n}/conv', f'{bottom[0]}/input_proj': f'{bottom[1]}/in'}
    return (
        *((f'{a}/{x}', f'{b}/{y}') for a, b in alone.items() for x, y in _ARRAYS),
        *_level(encoder, f'{ours}encoder{{i}}'),
        *_level(f'{decoder}/UNetEncoderBlock_0', f'{ours}decoder{{i}}'),
        *_multi_axis(f'{bottom[0]}/SplitHeadMultiAxisGmlpLayer_{{g}}', f'{bottom[1]}/mix{{g}}'),
        *_pairs(*attention, {'LayerNorm': 'norm'}),
        *_pairs(*attention, {f'channel_mixing/Dense_{n}': f'mlp/{name}' for n, name in enumerate(('up', 'down'))}),
        *_excite(*attention),
        *_cross_gating(f'{at}input_fuse_sam_{{i}}', f'{ours}fuse{{i}}'),
        *_cross_gating(f'{at}cross_gating_block_{{i}}', f'{ours}cross{{i}}'),
        *_pairs(f'{at}supervised_attention_module_{{i}}', f'{ours}supervised{{i}}', supervised),
    )


NAMES = _names()
