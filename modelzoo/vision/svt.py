"""SVT: a pyramid whose first stage mixes pixels and channels in a complex wavelet transform, whose others attend.

Patro and Agneeswaran, 2023, "Scattering Vision Transformer: Spectral Mixing Matters",
https://arxiv.org/abs/2311.01310. Reference: https://github.com/badripatro/svt (no licence), commit fcbc9b3, svt.py;
`NAMES` maps its parameter names.

A scattering block takes its map apart by one level of the dual-tree complex wavelet transform (layers/convolutions/
dual_tree.py). Each value of the low-pass part has a learned gain; the high-pass part, six orientations, goes through
two complex matrices on groups of channels, and the inverse transform joins both. What is mixed is the same at every
pixel, in the token-mixing variant along the rows too. After the stages a class token, the mean of all pixels, attends
to them once.

Details of the published code, kept here:
  * the gain of the low-pass part is real, and there is one for each pixel: for another image size it is resized;
  * biases of the complex matrices are groups by channels, and decay like matrices;
  * LayerNorm's epsilon is 1e-6 in blocks and after stages, and 1e-5 in the stem and after downsampling;
  * logits are those of the class token plus half of the greatest of all pixels, by a matrix of their own (`HEADS`),
    which token labelling trains: a teacher's map of labels, which no method of ours has.

Where sides are odd we differ: the map of a scattering block is filled up to even sides by its last row or column, and
cut again, where the reference refuses it.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads.token_labels import TokenLabels
from longview.modelzoo.layers.attention import attention, posemb
from longview.modelzoo.layers.convolutions import dual_tree
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.convolutions.conv_norm import PlainConv
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add

_NORMAL = jax.nn.initializers.normal(0.02)
_ZEROS = jax.nn.initializers.zeros
_HE = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ComplexChannels(nn.Module):
    """``x @ kernel + bias`` in complex numbers, on groups of channels.

    Attributes:
        groups: number of groups; divides the channels.
        dtype: compute type.
    """

    groups: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w n 2 c']) -> Float[Array, 'b h w n 2 c']:
        """Returns complex maps of the same shape.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        channels, groups = x.shape[-1], self.groups
        if channels % groups:
            raise ValueError(f'{channels} channels do not divide into {groups} groups: change the width or the groups.')
        kernel = self.param('kernel', _NORMAL, (channels // groups, channels // groups, groups, 2))
        bias = self.param('complex_bias', _NORMAL, (2, groups, channels // groups))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        grouped = x.reshape(-1, 2, groups, channels // groups)
        return (jnp.einsum('npgi,pqiog->nqgo', grouped, _as_real(kernel)) + bias[None]).reshape(x.shape)


class ComplexColumns(nn.Module):
    """``kernel @ x + bias`` in complex numbers, on the columns of each row: a matrix for each row of a map.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w n 2 c']) -> Float[Array, 'b h w n 2 c']:
        """Returns complex maps of the same shape, which is that of all maps of these parameters."""
        rows, columns = x.shape[1:3]
        kernel = self.param('kernel', _NORMAL, (columns, columns, rows, 2))
        bias = self.param('complex_bias', _NORMAL, (2, rows, columns))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        y = jnp.einsum('bhinpc,pqioh->bhonqc', x, _as_real(kernel))
        return y + jnp.transpose(bias, (1, 2, 0))[None, :, :, None, :, None]


def _as_real(kernel: Float[Array, 'i o k 2']) -> Float[Array, '2 2 i o k']:
    """Returns the real matrix that multiplies real and imaginary parts, (from, to, ...)."""
    real, imaginary = kernel[..., 0], kernel[..., 1]
    return jnp.stack([jnp.stack([real, imaginary]), jnp.stack([-imaginary, real])])


class Scattering(nn.Module):
    """Gains on the low-pass part of a map, two complex matrices with ReLU between on the high-pass part.

    Attributes:
        grid: rows and columns of the gains; those of a map of another size are resized, linearly.
        groups: groups of channels of the matrices.
        columns: whether two more matrices mix the columns of the high-pass part, row by row. Their maps have one size.
        dtype: compute type; the transform is float32.
    """

    grid: ft.Grid
    groups: int = 4
    columns: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Mixes a map."""
        del train
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
        padded = padded.astype(jnp.float32)
        low = dual_tree.low_pass(padded)
        gain = self.param('pos_embed', _NORMAL, (x.shape[-1], *self.grid))
        y = dual_tree.from_low_pass(low * _resized(gain, low.shape[1:3])[None])
        # One pair of orientations after the other, made anew for the gradient: a quarter of the memory in training.
        add = nn.scan(
            nn.remat(Scattering._pair, prevent_cse=False),
            variable_broadcast='params',
            split_rngs={'params': False},
            in_axes=(nn.broadcast, 0),
        )
        y, _ = add(self, y, padded, tuple(map(jnp.asarray, dual_tree.pairs(*padded.shape[1:3]))))
        return y[:, :height, :width].astype(self.dtype)

    def _pair(self, y: Array, x: Array, matrices: tuple[Array, Array]) -> tuple[Array, None]:
        """Adds what two orientations of `x` become to `y`."""
        mixed = self._mixed(dual_tree.analyze_pair(x, *matrices))
        return y + dual_tree.synthesize_pair(mixed.astype(y.dtype), *matrices), None

    def _mixed(self, high: Float[Array, 'b h w n 2 c']) -> Float[Array, 'b h w n 2 c']:
        channels = [ComplexChannels(self.groups, self.dtype, name=f'channels{n}') for n in (0, 1)]
        high = channels[1](nn.relu(channels[0](high)))
        if not self.columns:
            return high
        if high.shape[1:3] != tuple(side // 2 for side in self.grid):
            sides = 'x'.join(str(2 * side) for side in high.shape[1:3])
            raise ValueError(
                f'columns are mixed in maps of {self.grid[0]}x{self.grid[1]} only, not {sides}: change image_size.'
            )
        columns = [ComplexColumns(self.dtype, name=f'columns{n}') for n in (0, 1)]
        return columns[1](nn.relu(columns[0](high)))


def _resized(gain: Float[Array, 'c h w'], grid: ft.Grid) -> Float[Array, 'h2 w2 c']:
    channels, *source = gain.shape
    table = jnp.moveaxis(gain, 0, -1).reshape(1, -1, channels)
    return posemb.resize(table, tuple(source), grid, matrix=posemb.linear_matrix).reshape(*grid, channels)


class ScatteringTokens(nn.Module):
    """A 3x3 kernel per channel on half of the channels, `Scattering` with columns on the others, which alternate.

    Attributes:
        grid, groups, dtype: as in `Scattering`.
    """

    grid: ft.Grid
    groups: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Mixes a map; the first half of its channels goes to the even ones.

        Raises:
            ValueError: the map has another size than the grid.
        """
        near, far = jnp.split(x, 2, axis=-1)
        near = _depthwise(self.dtype, 'conv')(near)
        far = Scattering(self.grid, self.groups, True, self.dtype, name='scattering')(far, train=train)
        return jnp.stack([near, far], axis=-1).reshape(x.shape)


def _depthwise(dtype: DTypeLike, name: str) -> DepthwiseConv:
    # He's rule with the fan-out, which counts one channel.
    he = jax.nn.initializers.normal((2 / 9) ** 0.5)
    return DepthwiseConv(3, he, dtype, use_bias=True, bias_init=_ZEROS, name=name)


class Attention(nn.Module):
    """Attention of tokens, or of a few of them, to all; keys and values come from one matrix.

    Attributes:
        heads: number of heads; divides the width.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n d'], *, first: int | None = None, train: bool = False) -> Array:
        """Mixes a map or tokens; returns as many, or the `first` ones alone."""
        del train
        width = x.shape[-1]
        memory = x.reshape(x.shape[0], -1, width)
        asking = memory[:, :first]
        q = Dense(width, dtype=self.dtype, name='q')(asking)
        kv = Dense(2 * width, dtype=self.dtype, name='kv')(memory)
        q, k, v = (attention.split_heads(part, self.heads) for part in (q, *jnp.split(kv, 2, axis=-1)))
        mixed = Dense(width, dtype=self.dtype, name='out')(attention.merge_heads(attention.attend(q, k, v)))
        return mixed.reshape(x.shape) if first is None else mixed


class ConvMlp(nn.Module):
    """``down(gelu(conv(up(x))))`` with a 3x3 kernel per channel, all with biases.

    Attributes:
        ratio: hidden width over width.
        dtype: compute type.
    """

    ratio: float = 4.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        y = Dense(int(x.shape[-1] * self.ratio), dtype=self.dtype, name='up')(x)
        y = gelu(_depthwise(self.dtype, 'conv')(y))
        return Dense(x.shape[-1], dtype=self.dtype, name='down')(y)


class Stem(nn.Module):
    """Three convolutions with norms and ReLU, 7x7 and 3x3; a last one, 3x3 with a bias, and LayerNorm.

    Attributes:
        features, hidden: channels of the last convolution and of those before it.
        stride: 4 as published, 2 or 1.
        norm: factory of the normalizations after the first three.
        dtype: compute type.
    """

    features: int
    hidden: int
    stride: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        if self.stride not in (1, 2, 4):
            raise ValueError(f'stem_stride is {self.stride}: use 4 as published, or 2 or 1 for small images.')
        first, last = (2 if self.stride > 1 else 1), (2 if self.stride > 2 else 1)
        for index, (side, stride) in enumerate(((7, first), (3, 1), (3, 1))):
            x = PlainConv(self.hidden, side, stride, side // 2, self.dtype, name=f'conv{index}')(x)
            x = nn.relu(self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train))
        return Downsample(self.features, last, self.dtype, name='last')(x)


class Downsample(nn.Module):
    """A 3x3 convolution with a bias, and LayerNorm.

    Attributes:
        features: output channels.
        stride: step of the output grid.
        dtype: compute type.
    """

    features: int
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = Conv(self.features, 3, self.stride, 1, self.dtype, kernel_init=_HE, bias_init=_ZEROS, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class ClassBlock(nn.Module):
    """The mean of all pixels attends to itself and them, then a feed-forward layer; it alone changes.

    Attributes:
        heads: number of heads.
        ratio: hidden width over width of the feed-forward layer.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    heads: int
    ratio: float = 4.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b 1 d']:
        """Returns the class token."""
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.mean(tokens, axis=1, keepdims=True)
        y = self.norm(dtype=self.dtype, name='mixer_norm')(jnp.concatenate([token, tokens], axis=1))
        token = token + Attention(self.heads, self.dtype, name='mixer')(y, first=1)
        y = self.norm(dtype=self.dtype, name='mlp_norm')(token)
        return token + Mlp(self.ratio, dtype=self.dtype, name='mlp')(y)


class SVT(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        ratios: hidden width over width of the feed-forward layers of each stage.
        scattered: number of stages, from the first on, whose blocks scatter.
        stem_width: channels of the stem's first convolutions.
        stem_stride: 4, or 2 or 1 for small images.
        image_size: image size of the gains, a side or (height, width). For images of any other size they are resized.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        scattering: factory of the mixers of the first stages; takes the `grid` of its map.
        mixer: factory of the mixers of the others; takes `heads`.
        norm, mlp, residual: factories of the blocks' other parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (64, 128, 320, 448)
    depths: Sequence[int] = (3, 4, 6, 3)
    heads: Sequence[int] = (2, 4, 10, 14)
    ratios: Sequence[float] = (8, 8, 4, 4)
    scattered: int = 1
    stem_width: int = 32
    stem_stride: int = 4
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    scattering: Callable[..., nn.Module] = Scattering
    mixer: Callable[..., nn.Module] = Attention
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mlp: Callable[..., nn.Module] = ConvMlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the class token's; norms and downsampling belong to the block before them."""
        last = len(self.depths) - 1
        blocks = trunk.stage_paths(self.depths, [f'norm{index}' for index in range(last)])
        for index in range(last):
            blocks[sum(self.depths[: index + 1]) - 1].append(f'down{index}')
        return (('stem',), *map(tuple, blocks), ('class_block', f'norm{last}'))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, normalized, ``map``, the last of them, and ``pooled``."""
        x = Stem(self.widths[0], self.stem_width, self.stem_stride, BatchNorm, self.dtype, name='stem')(x, train=train)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                x = Downsample(self.widths[index], dtype=self.dtype, name=f'down{index - 1}')(x)
            raw = self._stage(index)(x, stage_masks, train=train)
            norm = self.norm(dtype=self.dtype, name=f'norm{index}')
            x = features[ft.stage(index)] = norm(raw)
        last = len(self.depths) - 1
        block = ClassBlock(self.heads[last], float(self.ratios[last]), self.norm, self.dtype, name='class_block')
        return {**features, ft.MAP: x, ft.POOLED: norm(block(raw))[:, 0].astype(jnp.float32)}

    def grid(self, index: int) -> ft.Grid:
        """Returns rows and columns of the gains of a stage, which are even."""
        return tuple(2 * -(-side // (2 * self.strides[index])) for side in pair(self.image_size))

    def _stage(self, index: int) -> trunk.Stage:
        if index < self.scattered:
            mixer = functools.partial(self.scattering, grid=self.grid(index), dtype=self.dtype)
        else:
            mixer = functools.partial(self.mixer, heads=self.heads[index], dtype=self.dtype)
        norm = functools.partial(self.norm, dtype=self.dtype)
        mlp = functools.partial(self.mlp, ratio=float(self.ratios[index]), dtype=self.dtype)
        block = functools.partial(PreNorm, norm, mixer, mlp, self.residual)
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


# The head of the published classifiers.
HEADS = {'SVT': TokenLabels}

# The README's table; the repository calls them svt_s, svt_b and svt_l, the paper SVT-H-S, SVT-H-B and SVT-H-L.
VARIANTS = {
    'svt_s': SVT(),
    'svt_b': SVT((64, 128, 320, 512), (3, 4, 12, 3), (2, 4, 10, 16), stem_width=64),
    'svt_l': SVT((96, 192, 384, 512), (3, 6, 18, 3), (3, 6, 12, 16), stem_width=64),
    'svt_test': SVT((8, 16), (1, 1), (1, 2), (2, 2), stem_width=8, stem_stride=2, image_size=16),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2311.01310', (224, 224))
PUBLISHED = {
    'svt_s': _PAPER(params=22.0, macs=3.9, top1=84.2),
    'svt_b': _PAPER(params=32.8, macs=6.3, top1=85.2),
    'svt_l': _PAPER(params=54.0, macs=12.7, top1=85.7),
}


def _refit(backbone: SVT, path: str, table: np.ndarray) -> np.ndarray:
    index = next(index for index in range(backbone.scattered) if f'/stage{index}/' in path)
    rows = np.moveaxis(table, 0, -1).reshape(1, -1, len(table))
    gains = posemb.refit(rows, backbone.grid(index), matrix=posemb.linear_matrix)
    return np.moveaxis(gains.reshape(*backbone.grid(index), -1), -1, 0)


RESIZE = {'SVT': _refit}

# Published names of a classifier's parameters and statistics, and ours; see weights.py. Stages count from 1 there.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_CHANNELS = tuple(
    pair
    for n in (0, 1)
    for pair in (
        (f'complex_weight_lh_{n + 1}', f'channels{n}/kernel'),
        (f'complex_weight_lh_b{n + 1}', f'channels{n}/complex_bias'),
    )
)
_SCATTERING = (('complex_weight_ll', 'pos_embed'), *_CHANNELS)
_BLOCK = (
    *((f'norm1.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *((f'attn.{a}', f'mixer/{b}') for a, b in _SCATTERING),
    *((f'attn.{a}.{b}', f'mixer/{c}/{d}') for a, c in (('q', 'q'), ('kv', 'kv'), ('proj', 'out')) for b, d in _AFFINE),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _NORM),
    *((f'mlp.{a}.{b}', f'mlp/{c}/{d}') for a, c in (('fc1', 'up'), ('fc2', 'down')) for b, d in _AFFINE),
    *((f'mlp.dwconv.dwconv.{a}', f'mlp/conv/{b}') for a, b in _AFFINE),
)
NAMES = {
    'SVT': (
        *((f'patch_embed1.conv.{3 * k}.weight', f'backbone/stem/conv{k}/kernel') for k in range(3)),
        *((f'patch_embed1.conv.{3 * k + 1}.{a}', f'backbone/stem/norm{k}/{b}') for k in range(3) for a, b in _BATCH),
        *((f'patch_embed1.proj.{a}', f'backbone/stem/last/conv/{b}') for a, b in _AFFINE),
        *((f'patch_embed1.norm.{a}', f'backbone/stem/last/norm/{b}') for a, b in _NORM),
        *((f'patch_embed{s + 2}.proj.{a}', f'backbone/down{s}/conv/{b}') for s in range(3) for a, b in _AFFINE),
        *((f'patch_embed{s + 2}.norm.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _NORM),
        *((f'block{{s+1}}.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}') for a, b in _BLOCK),
        *((f'norm{s + 1}.{a}', f'backbone/norm{s}/{b}') for s in range(4) for a, b in _NORM),
        *((f'post_network.0.{a}', f'backbone/class_block/{b}') for a, b in _BLOCK),
        *((f'head.{a}', f'head/labels/{b}') for a, b in _AFFINE),
        *((f'aux_head.{a}', f'head/pixels/{b}') for a, b in _AFFINE),
        # A linear head alone, of the network without token labels.
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
# Of the mixer of channels and columns alone.
MIXER_NAMES = (
    ('complex_weight_ll', 'scattering/pos_embed'),
    *(
        (f'complex_weight_lh_{a}{n + 1}{c}', f'scattering/{b}{n}/{d}')
        for n in (0, 1)
        for b, c in (('channels', ''), ('columns', '_t'))
        for a, d in (('', 'kernel'), ('b', 'complex_bias'))
    ),
    *((f'conv.{a}', f'conv/{b}') for a, b in _AFFINE),
)
