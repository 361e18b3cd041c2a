"""WaveMix: a Haar wavelet transform of several levels mixes the pixels, and transposed convolutions undo its halvings.

Jeevan et al., 2022, "WaveMix: A Resource-efficient Neural Network for Image Analysis",
https://arxiv.org/abs/2205.14375. Reference: https://github.com/pranavphoenix/WaveMix (MIT), commit ba3d1b4; `NAMES` and
`SUPER_RESOLUTION_NAMES` map its parameter names.

All blocks have one resolution and one width. With one level of the transform the paper calls the network WaveMix-Lite.
Details of the published code, kept here: there is no activation in the stem but before its norm, and none between a
feed-forward layer and the transposed convolution; the network ends with the last block, without a norm; the last third
of the channels of a level's input comes from the next deeper one.

Where sides are odd we differ: a zero is appended before they are halved, and what is too much is cut off behind the
transposed convolution, where the reference fails; maps that do not divide into patches are padded with zeros, where the
reference crops them.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from longview.kernels.conv2d import conv2d
from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.dropout import dropout, dropout_keys
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.patch import Patches
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


def haar(x: Float[Array, 'b h w c']) -> tuple[Float[Array, 'b h2 w2 c'], Float[Array, 'b h2 w2 c3']]:
    """One level of the two-dimensional Haar transform, which is orthogonal (Haar, 1910).

    Args:
        x: maps; a zero is appended to an odd side.

    Returns:
        Sums over 2x2 pixels, and of each channel the three differences next to each other: between rows, between
        columns, and between diagonals. All are divided by 2.
    """
    x = jnp.pad(x, ((0, 0), *((0, side % 2) for side in x.shape[1:3]), (0, 0)))
    a, b, c, d = (x[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
    highs = jnp.stack([a + b - c - d, a - b + c - d, a - b - c + d], axis=-1)
    return (a + b + c + d) / 2, highs.reshape(*highs.shape[:3], -1) / 2


class Upsample(nn.Module):
    """The transposed 4x4 convolution of stride 2, which doubles both sides; torch's with a padding of 1.

    Each of its outputs has 2x2 of the taps. Outputs of odd and even places have different ones, so that it is four
    convolutions, whose results are woven together: an input with zeros between its pixels would cost four times as
    much.

    Attributes:
        features: output channels.
        dtype: compute type.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of 2 h by 2 w pixels."""
        batch, height, width, channels = x.shape
        torch_s = init.uniform_fan_in(16 * self.features)  # torch counts the outputs of a transposed convolution
        # In the layout of the convolution that this one transposes: its outputs are our inputs.
        kernel = self.param('kernel', torch_s, (4, 4, self.features, channels)).astype(self.dtype).swapaxes(2, 3)
        bias = self.param('bias', torch_s, (self.features,)).astype(self.dtype)
        before = lambda place: (1 - place, place)
        taps = lambda row, column: kernel[3 - row :: -2, 3 - column :: -2]
        rows = [
            [conv2d(x, taps(row, column), padding=(before(row), before(column))) for column in (0, 1)] for row in (0, 1)
        ]
        y = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)
        return y.reshape(batch, 2 * height, 2 * width, self.features) + bias[None, None, None]


class Level(nn.Module):
    """``norm(upsample(down(dropout(gelu(up(x))))))``: what follows a level of the transform.

    Attributes:
        width: channels between the feed-forward layer and the transposed convolution.
        features: output channels.
        ratio: hidden width over `width`.
        rate: of the dropout.
        norm: factory of the normalization.
        dtype: compute type.
    """

    width: int
    features: int
    ratio: int
    rate: float
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], keys: Key[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of twice the height and the width; `keys` are those of the dropout."""
        y = gelu(Conv(self.ratio * self.width, 1, dtype=self.dtype, name='up')(x))
        y = Conv(self.width, 1, dtype=self.dtype, name='down')(dropout(y, keys, self.rate))
        y = Upsample(self.features, self.dtype, name='upsample')(y)
        return self.norm(dtype=self.dtype, name='norm')(y, train=train)


class Block(nn.Module):
    """``x + branch(x)``: a quarter of the channels is transformed, and the levels are joined from the deepest on.

    Attributes:
        levels: of the transform; each halves the sides once more.
        ratio: see `Level`.
        rate: of the dropout.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    levels: int = 1
    ratio: int = 2
    rate: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        drawn: tuple[Float[Array, '1 b'] | None, Key[Array, 'p b'] | None],
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w c']:
        """Keeps the shape; `drawn` are the mask of stochastic depth and the dropout's keys of each level.

        Raises:
            ValueError: the channels do not divide by 4.
        """
        (mask, keys), width = drawn, x.shape[-1]
        if width % 4:
            raise ValueError(f'WaveMix.width is {width}: use a multiple of 4.')
        low, inputs = Conv(width // 4, 1, dtype=self.dtype, name='reduction')(x), []
        for _ in range(self.levels):
            low, highs = haar(low)
            inputs.append(jnp.concatenate([low, highs], axis=-1))
        y = inputs.pop()
        for index in reversed(range(self.levels)):
            features = width // 2 if index else width
            level = Level(width, features, self.ratio, self.rate, self.norm, self.dtype, name=f'level{index}')
            y = level(y, None if keys is None else keys[index], train=train)
            above = inputs.pop() if index else x
            y = y[:, : above.shape[1], : above.shape[2]]
            y = jnp.concatenate([above, y], axis=-1) if index else y
        return x + drop_path(y, None if mask is None else mask[0])


class PatchStem(nn.Module):
    """``norm(gelu(patches(conv(conv(x)))))``: two 3x3 convolutions, and one of each patch.

    Attributes:
        features: output channels.
        stride: side of a patch.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = Conv(self.features // 4, 3, 1, 1, self.dtype, name='conv0')(x)
        x = Conv(self.features // 2, 3, 1, 1, self.dtype, name='conv1')(x)
        x = gelu(Patches(self.features, self.stride, dtype=self.dtype, name='conv2')(x))
        return self.norm(dtype=self.dtype, name='norm')(x, train=train)


class Strided(nn.Module):
    """Two 3x3 convolutions with strides, and nothing else.

    Attributes:
        features: output channels.
        stride: of both together.
        dtype: compute type.
    """

    features: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: a stride that is no square.
        """
        del train
        each = math.isqrt(self.stride)
        if each * each != self.stride:
            raise ValueError(f'stem_stride is {self.stride}, which two equal strides do not make: use 1 or 4.')
        x = Conv(self.features // 2, 3, each, 1, self.dtype, name='conv0')(x)
        return Conv(self.features, 3, each, 1, self.dtype, name='conv1')(x)


class WaveMix(ft.PyramidBackbone):
    """The network; as a pyramid it has one stage.

    Attributes:
        width: channels of every block.
        depth: number of blocks.
        levels: of the transform in each block.
        ratio: hidden width over width.
        dropout: of the hidden activations of every level; 0.5 as published.
        stem_stride: input pixels per pixel of the blocks along each side.
        strided: whether the stem is `Strided` instead of `PatchStem`.
        norm: factory of every normalization.
        drop_path: stochastic depth of the last block, which the paper has not; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        scan: whether the blocks share one compiled body.
    """

    width: int = 192
    depth: int = 16
    levels: int = 3
    ratio: int = 2
    dropout: float = 0.5
    stem_stride: int = 4
    strided: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """That of the stem."""
        return (self.stem_stride,)

    @property
    def channels(self) -> tuple[int, ...]:
        """The width."""
        return (self.width,)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0``, which is ``map``, and ``pooled``."""
        form = Strided if self.strided else functools.partial(PatchStem, norm=self.norm)
        stem = form(self.width, self.stem_stride, dtype=self.dtype, name='stem')(x, train=train)
        names = trunk.names(self.depth)
        blocks = [Block(self.levels, self.ratio, self.dropout, self.norm, self.dtype, name=name) for name in names]
        drawn = (
            path_masks(self, self.drop_path, self.depth, x.shape[0], branches=1, train=train),
            dropout_keys(self, self.dropout, self.depth, x.shape[0], places=self.levels, train=train),
        )
        y = trunk.run(self, blocks, stem, drawn, train=train, remat=self.remat, scan=self.scan)
        return {ft.STEM: stem, ft.stage(0): y, ft.MAP: y, ft.POOLED: global_mean(y)}


class SuperResolution(nn.Module):
    """The paper's network for images of twice the height and the width: `Strided` without strides, blocks, `Upsample`.

    Attributes:
        width: channels of every block.
        depth: number of blocks.
        levels: of the transform in each block.
        dtype: compute type.
    """

    width: int = 144
    depth: int = 4
    levels: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns an image of 2 h by 2 w pixels."""
        y = Strided(self.width, 1, self.dtype, name='stem')(x)
        for name in trunk.names(self.depth):
            y = Block(self.levels, dtype=self.dtype, name=name)(y, (None, None), train=train)
        y = Upsample(self.width // 2, self.dtype, name='upsample')(y)
        return Conv(x.shape[-1], 1, dtype=self.dtype, name='out')(y)


_CIFAR = {'levels': 1, 'stem_stride': 1, 'strided': True}

# The networks of whose weights the authors give links, named by width, depth and levels as in the paper.
VARIANTS = {
    'wavemix_192_16_level3': WaveMix(),
    'wavemix_192_16_level1': WaveMix(levels=1),
    'wavemix_256_16_level3': WaveMix(256),
    'wavemix_256_16_level4_strided': WaveMix(256, levels=4, strided=True),
    'wavemix_256_12_level2': WaveMix(256, 12, 2, stem_stride=8),
    'wavemix_144_7_level1_cifar': WaveMix(144, 7, **_CIFAR),
    'wavemix_256_10_level1_cifar': WaveMix(256, 10, **_CIFAR),
    'wavemix_320_8_level1_cifar': WaveMix(320, 8, **_CIFAR),
    'wavemix_test': WaveMix(16, 2, 2),
}

# Accuracies: those in the names of the files of weights; sizes of images: the README's example, and CIFAR's own.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/2205.14375')
PUBLISHED = {
    'wavemix_192_16_level3': _FIGURES((256, 256), top1=75.06),
    'wavemix_192_16_level1': _FIGURES((256, 256), top1=71.18),
    'wavemix_256_16_level3': _FIGURES((256, 256), top1=73.03),
    'wavemix_256_16_level4_strided': _FIGURES((256, 256), top1=70.42),
    'wavemix_256_12_level2': _FIGURES((256, 256)),
    **{name: _FIGURES((32, 32)) for name in VARIANTS if name.endswith('_cifar')},
}


# Published names of parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_ARRAYS = (('weight', 'kernel'), ('bias', 'bias'))


def _level_names(there: str, here: str) -> list[tuple[str, str]]:
    layers = ((0, 'up'), (3, 'down'), (4, 'upsample'))
    return [
        *((f'{there}.{k}.{a}', f'{here}/{layer}/{b}') for k, layer in layers for a, b in _ARRAYS),
        *((f'{there}.5.{a}', f'{here}/norm/{b}') for a, b in _NORM),
    ]


def _trunk_names(root: str) -> Sequence[tuple[str, str]]:
    """The stem and the blocks, in which a single level has no number."""
    block = f'{root}block{{i:02d}}'
    return (
        *((f'conv.{{k}}.{a}', f'{root}stem/conv{{k}}/{b}') for a, b in _ARRAYS),
        *((f'layers.{{i}}.reduction.{a}', f'{block}/reduction/{b}') for a, b in _ARRAYS),
        *(
            pair
            for level in range(4)
            for pair in _level_names(f'layers.{{i}}.feedforward{level + 1}', f'{block}/level{level}')
        ),
        *_level_names('layers.{i}.feedforward', f'{block}/level0'),
    )


NAMES = {
    'WaveMix': (
        *((f'conv.4.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *_trunk_names('backbone/'),
        *((f'pool.2.{a}', f'head/{b}') for a, b in _ARRAYS),
    ),
}

SUPER_RESOLUTION_NAMES = (
    *_trunk_names(''),
    *((f'expand.{k}.{a}', f'{part}/{b}') for k, part in ((0, 'upsample'), (1, 'out')) for a, b in _ARRAYS),
)
