"""S2AFormer: local convolutions around attention whose keys are few and whose queries and keys are narrow.

Xu et al., 2025, "S2AFormer: Strip Self-Attention for Efficient Vision Transformer", https://arxiv.org/abs/2505.22195.
There is no public code of the authors.

A block is ``a = x + conv(x)``, ``b = a + attention(norm(a))``, ``c = b + local(norm(b))``, ``d = c + mlp(norm(c))``.
Strip self-attention takes keys and values from a map that convolutions have reduced (8, 4, 2 and 1 times along each
side), and gives the queries and keys of a head few channels while its values keep theirs:
layers/attention/reduced.py, which PVT takes with the same field. A stem of three 3x3 convolutions halves the sides, the
embedding before each stage halves them again.

The text leaves open, and is decided here: queries and keys have one channel in each head, heads are those of PVT; a
reduction is a matrix on each square and LayerNorm; `local` (the local interaction module) is a matrix, a 3x3 depthwise
convolution, GELU and a matrix, of the block's width; the stem has batch normalization and GELU, embeddings are 3x3
convolutions and LayerNorm, whose epsilon is 1e-6 in blocks; the first convolution of a block is never skipped by
stochastic depth. Widths and depths of the published sizes are not known to us, so that the variants are ours and none
has published figures.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.reduced import ReducedAttention, squares
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, Stream, connect, initialized

_BRANCHES = ('conv', 'mixer', 'local', 'mlp')


class LocalInteraction(nn.Module):
    """``down(gelu(conv(up(x))))`` with a 3x3 depthwise convolution; as many channels throughout.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        y = Dense(x.shape[-1], dtype=self.dtype, name='up')(x)
        y = gelu(DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='conv')(y))
        return Dense(x.shape[-1], dtype=self.dtype, name='down')(y)


class Block(nn.Module):
    """A hybrid perception block: four residual branches, all but the first with a norm.

    Attributes:
        norm, mixer, local, mlp, residual: factories of the parts.
        dtype: compute type.
    """

    norm: Callable[..., nn.Module]
    mixer: Callable[..., nn.Module]
    local: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    residual: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, s: Stream, mask: Float[Array, 'r b'] | None, *, train: bool = False) -> Stream:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`, without the conv's."""
        joins = dict(zip(_BRANCHES, connect(self.residual, _BRANCHES)))
        conv = DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='conv')
        s = joins['conv'].write(s, conv(joins['conv'].read(s)))
        for index, branch in enumerate(_BRANCHES[1:]):
            join = joins[branch]
            part = initialized(join, getattr(self, branch))(name=branch)
            y = part(self.norm(name=f'{branch}_norm')(join.read(s)))
            s = join.write(s, drop_path(y, None if mask is None else mask[index]))
        return s


class Stem(nn.Module):
    """Three 3x3 convolutions, the first with a stride, each with batch normalization and GELU.

    Attributes:
        features: output channels.
        stride: of the first one.
        dtype: compute type.
    """

    features: int
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        for index, stride in enumerate((self.stride, 1, 1)):
            x = gelu(ConvNorm(self.features, 3, stride, dtype=self.dtype, name=f'conv{index}')(x, train=train))
        return x


class Embedding(nn.Module):
    """A 3x3 convolution with a stride, and LayerNorm.

    Attributes:
        features: output channels.
        stride: of the convolution.
        dtype: compute type.
    """

    features: int
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = Conv(self.features, 3, self.stride, 1, self.dtype, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class S2AFormer(ft.HalvingBackbone):
    """The network; the outputs of its stages are not normalized, ``map`` is.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        ratios: hidden width over width of the feed-forward layers of each stage.
        reductions: spatial reduction of keys and values in each stage.
        key_width: channels of the queries and the keys of a head; None for as many as its values have.
        stem_stride: stride of the first stage, 4, or 2 or 1 for small images; each further stage doubles it.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, local, mlp, residual: factories of the blocks' parts.
        memory: reduction -> factory of the module that reduces the map for keys and values.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (32, 64, 160, 256)
    depths: Sequence[int] = (2, 2, 6, 2)
    heads: Sequence[int] = (1, 2, 5, 8)
    ratios: Sequence[float] = (8, 8, 4, 4)
    reductions: Sequence[int] = (8, 4, 2, 1)
    key_width: int | None = 1
    stem_stride: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mixer: Callable[..., nn.Module] = ReducedAttention
    local: Callable[..., nn.Module] = LocalInteraction
    mlp: Callable[..., nn.Module] = Mlp
    memory: Callable[[int], Callable[..., nn.Module] | None] = squares
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with the first embedding, each block, the last norm; an embedding belongs to the block before it."""
        between = [f'embed{index}' for index in range(1, len(self.depths))]
        return (('stem', 'embed0'), *map(tuple, trunk.stage_paths(self.depths, between)), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: `stem_stride` is none of 1, 2 and 4.
        """
        if self.stem_stride not in (1, 2, 4):
            raise ValueError(f'stem_stride is {self.stem_stride}: use 4 as published, or 2 or 1 for small images.')
        halved = min(self.stem_stride, 2)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], branches=3, train=train)
        x = Stem(self.widths[0], halved, self.dtype, name='stem')(x, train=train)
        features = {ft.STEM: x}
        for index, own in enumerate(by_stage(masks, self.depths)):
            stride = 2 if index else self.stem_stride // halved
            x = Embedding(self.widths[index], stride, self.dtype, name=f'embed{index}')(x)
            x = self._stage(index)(x, own, train=train)
            features[ft.stage(index)] = x
        x = self.norm(dtype=self.dtype, name='norm')(x)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stage(self, index: int) -> trunk.Stage:
        memory, dtype = self.memory(self.reductions[index]), self.dtype
        block = functools.partial(
            Block,
            functools.partial(self.norm, dtype=dtype),
            functools.partial(
                self.mixer, heads=self.heads[index], memory=memory, key_width=self.key_width, dtype=dtype
            ),
            functools.partial(self.local, dtype=dtype),
            functools.partial(self.mlp, ratio=float(self.ratios[index]), dtype=dtype),
            self.residual,
            dtype,
        )
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


# Sizes of ours, in the steps of PVT v2; see above.
VARIANTS = {
    's2a_t_ours': S2AFormer(),
    's2a_test': S2AFormer((8, 16), (1, 1), (1, 2), (2, 2), (2, 1)),
}

# The paper's figures are of sizes that are not known to us.
PUBLISHED = {}

# There is no published code whose names could be read: these are ours with torch's endings, for files in its layout.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_BLOCK = (
    *(
        (f'{layer}.{a}', f'{layer.replace(".", "/")}/{b}')
        for layer in (
            'conv',
            *(f'mixer.{name}' for name in ('q', 'kv', 'out', 'memory.conv')),
            *(f'local.{name}' for name in ('up', 'conv', 'down')),
            *(f'mlp.{name}' for name in ('up', 'down')),
        )
        for a, b in _AFFINE
    ),
    *(
        (f'{layer}.{a}', f'{layer.replace(".", "/")}/{b}')
        for layer in ('mixer.memory.norm', *(f'{branch}_norm' for branch in _BRANCHES[1:]))
        for a, b in _NORM
    ),
)
NAMES = {
    'S2AFormer': (
        ('stem.{k}.conv.weight', 'backbone/stem/conv{k}/conv/kernel'),
        *((f'stem.{{k}}.norm.{a}', f'backbone/stem/conv{{k}}/norm/{b}') for a, b in _BATCH),
        *((f'embed.{{s}}.conv.{a}', f'backbone/embed{{s}}/conv/{b}') for a, b in _AFFINE),
        *((f'embed.{{s}}.norm.{a}', f'backbone/embed{{s}}/norm/{b}') for a, b in _NORM),
        *((f'stages.{{s}}.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}') for a, b in _BLOCK),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
