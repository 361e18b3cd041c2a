"""Hiera: a pyramid of plain transformer blocks, whose tokens lie so that pooling them is a maximum over one axis.

Ryali et al., 2023, "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles",
https://arxiv.org/abs/2306.00989. Reference: https://github.com/facebookresearch/hiera (Apache-2.0), hiera/hiera.py and
hiera_utils.py; timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0) has the same network, and
`NAMES` are its names first.

A mask unit is a square of as many tokens as the last stage makes one of, 8x8 in the published networks. The first
stages attend inside of a unit, the others to all tokens. The first block of a later stage doubles the channels and
pools by maxima: the queries behind their matrix, and the normalized tokens behind a matrix of their own, which are the
shortcut. Its keys and values are all tokens, and it still attends as the stage before did. Tokens are in units with the
finest offsets first (`in_units`), hence 2x2 pixels are four runs of a unit. The vector is the norm of the mean of the
tokens. LayerNorm's epsilon is 1e-6, GELU is the exact one.

Sides of images are multiples of a unit's pixels, 32; for images of another size the position table is resized with
antialiasing (the reference refuses them). Where we differ: biases start at 0 (0.02 in the reference), a head has the
initial values of modelzoo/heads. What is not built: tokens left out for masked autoencoders, and videos.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import attend, merge_heads, split_heads
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import in_turn
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.norms.norm import LayerNorm

# Stride of the patch embedding -> side and padding of its kernel.
_STEMS = {4: (7, 3), 2: (3, 1), 1: (3, 1)}


def in_units(x: Float[Array, 'b h w c'], levels: int) -> Float[Array, 'b n s c']:
    """Returns the tokens of a map by mask units of ``2^levels`` x ``2^levels``, both row by row.

    In a unit the offsets in squares of 2x2 tokens come first, those in squares of 4x4 second, and so on.
    """
    batch, height, width, channels = x.shape
    rows, columns, side = height >> levels, width >> levels, (2,) * levels
    x = x.reshape(batch, rows, *side, columns, *side, channels)
    finest_first = [axis for level in range(levels) for axis in (1 + levels - level, 2 + 2 * levels - level)]
    x = x.transpose(0, 1, 2 + levels, *finest_first, x.ndim - 1)
    return x.reshape(batch, rows * columns, 4**levels, channels)


def as_map(x: Float[Array, 'b n s c'], units: ft.Grid) -> Float[Array, 'b h w c']:
    """Undoes `in_units` for so many rows and columns of units."""
    batch, _, size, channels = x.shape
    levels = (size.bit_length() - 1) // 2
    x = x.reshape(batch, *units, *(2,) * (2 * levels), channels)
    coarsest_first = lambda first: range(first + 2 * levels - 2, first - 1, -2)
    x = x.transpose(0, 1, *coarsest_first(3), 2, *coarsest_first(4), x.ndim - 1)
    return x.reshape(batch, units[0] << levels, units[1] << levels, channels)


def pool(x: Float[Array, 'b n s c']) -> Float[Array, 'b n t c']:
    """Returns the maxima of squares of 2x2 tokens."""
    batch, units, size, channels = x.shape
    return x.reshape(batch, units, 4, size // 4, channels).max(axis=2)


class UnitAttention(nn.Module):
    """Attention inside of mask units, or between all tokens; the queries may be pooled.

    Attributes:
        width: output channels.
        heads: number of heads; divides the width.
        pools: whether the queries are pooled.
        within: whether each unit attends to itself alone.
        dtype: compute type; the softmax is float32.
    """

    width: int
    heads: int
    pools: bool = False
    within: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n s c'], *, train: bool = False) -> Float[Array, 'b n t d']:
        """Mixes the tokens; t is s, or a quarter of it."""
        del train
        q, k, v = jnp.split(Dense(3 * self.width, dtype=self.dtype, name='qkv')(x), 3, axis=-1)
        q = pool(q) if self.pools else q
        examples = x.shape[0] * (x.shape[1] if self.within else 1)
        flat = (split_heads(part.reshape(examples, -1, self.width), self.heads) for part in (q, k, v))
        y = merge_heads(attend(*flat)).reshape(q.shape)
        return Dense(self.width, dtype=self.dtype, name='out')(y)


class Block(nn.Module):
    """``s = shortcut + mixer(norm(s))``, then ``s += mlp(norm(s))``.

    The shortcut is `s`, or where the channels change ``pool(shortcut(norm(s)))``.

    Attributes:
        width: output channels; with others than the input's the block pools.
        norm, mixer, mlp: factories of the parts.
        dtype: compute type.
    """

    width: int
    norm: Callable[..., nn.Module]
    mixer: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, s: Float[Array, 'b n s c'], mask: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b n t d']:
        """Returns the next tokens; `mask` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        pools = s.shape[-1] != self.width
        y = self.norm(name='mixer_norm')(s)
        if pools:
            s = pool(Dense(self.width, dtype=self.dtype, name='shortcut')(y))
        mixed = self.mixer(self.width, pools=pools, name='mixer')(y, train=train)
        s = s + drop_path(mixed, mixer_mask)
        return s + drop_path(self.mlp(name='mlp')(self.norm(name='mlp_norm')(s)), mlp_mask)


class Hiera(ft.PyramidBackbone):
    """The network.

    Attributes:
        width, heads: channels and heads of the first stage; each further stage doubles both.
        depths: blocks of each stage; n stages make mask units of 2^(n - 1) x 2^(n - 1) tokens.
        within: whether each stage attends inside of mask units alone.
        stem_stride: pixels of a token; 2 or 1 for small images.
        image_size: image size of the position table, a side or (height, width). For images of any other size the table
            is resized.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    width: int = 96
    heads: int = 1
    depths: Sequence[int] = (1, 2, 7, 2)
    within: Sequence[bool] = (True, True, False, False)
    stem_stride: int = 4
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mixer: Callable[..., nn.Module] = UnitAttention
    mlp: Callable[..., nn.Module] = Mlp
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.stem_stride * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """96, 192, ... of the published tiny network."""
        return tuple(self.width * 2**index for index in range(len(self.depths)))

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with positions, each block, the last norm."""
        return (('stem', 'pos_embed'), *((name,) for name in trunk.names(sum(self.depths))), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``, the normalized mean of the tokens.

        Raises:
            ValueError: a side of the image is no multiple of a mask unit's pixels.
        """
        grid, levels = self.grid(*x.shape[1:3]), len(self.depths) - 1
        units = grid[0] >> levels, grid[1] >> levels
        stem = Conv(self.width, *self._stem(), dtype=self.dtype, name='stem')(x)
        s = in_units(stem + self._positions(grid), levels)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features, names = {ft.STEM: stem}, iter(trunk.names(sum(self.depths)))
        for stage, stage_masks in enumerate(by_stage(masks, self.depths)):
            blocks = [self._block(stage, index)(name=next(names)) for index in range(self.depths[stage])]
            s = in_turn(blocks, s, stage_masks, train=train, remat=self.remat)
            features[ft.stage(stage)] = as_map(s, units)
        norm = self.norm(dtype=jnp.float32, name='norm')
        pooled = norm(jnp.mean(s.astype(jnp.float32), axis=(1, 2)))
        return {**features, ft.MAP: norm(as_map(s, units)).astype(self.dtype), ft.POOLED: pooled}

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of tokens; ValueError where a side is no multiple of a mask unit's pixels."""
        unit = self.strides[-1]
        if height % unit or width % unit or not height or not width:
            near = [max(side - side % unit, unit) for side in (height, width)]
            raise ValueError(
                f'image {height}x{width} does not divide into mask units of {unit}x{unit} pixels: use e.g. '
                f'{near[0]}x{near[1]}.'
            )
        return height // self.stem_stride, width // self.stem_stride

    def _stem(self) -> tuple[int, int, int]:
        """Returns side, stride and padding of the patch embedding's kernel."""
        if self.stem_stride not in _STEMS:
            raise ValueError(f'stem_stride is {self.stem_stride}: use 4 as published, or 2 or 1 for small images.')
        size, padding = _STEMS[self.stem_stride]
        return size, self.stem_stride, padding

    def _positions(self, grid: ft.Grid) -> Float[Array, '1 h w d']:
        made_for = self.grid(*pair(self.image_size))
        table = self.param('pos_embed', init.trunc_normal(0.02), (1, made_for[0] * made_for[1], self.width))
        table = posemb.resize(table, made_for, grid, matrix=posemb.smooth_cubic_matrix)
        return table.astype(self.dtype).reshape(1, *grid, self.width)

    def _block(self, stage: int, index: int) -> Callable[..., Block]:
        """Returns the factory of a block; the first of a later stage attends as the stage before does."""
        within = self.within[stage - (stage > 0 and index == 0)]
        return functools.partial(
            Block,
            self.channels[stage],
            functools.partial(self.norm, dtype=self.dtype),
            functools.partial(self.mixer, heads=self.heads * 2**stage, within=within, dtype=self.dtype),
            functools.partial(self.mlp, dtype=self.dtype),
            self.dtype,
        )


# Table 2 of the paper; the names are those of the reference.
VARIANTS = {
    'hiera_tiny_224': Hiera(),
    'hiera_small_224': Hiera(depths=(1, 2, 11, 2)),
    'hiera_base_224': Hiera(depths=(2, 3, 16, 3)),
    'hiera_base_plus_224': Hiera(112, 2, (2, 3, 16, 3)),
    'hiera_large_224': Hiera(144, 2, (2, 6, 36, 4)),
    'hiera_huge_224': Hiera(256, 4, (2, 6, 36, 4)),
    'hiera_test': Hiera(16, 1, (1, 2), (True, False), stem_stride=2, image_size=16),
}

# Accuracies are those after masked autoencoding, of the README.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2306.00989', (224, 224))
PUBLISHED = {
    'hiera_tiny_224': _PAPER(params=28, macs=5, top1=82.8),
    'hiera_small_224': _PAPER(params=35, macs=6, top1=83.8),
    'hiera_base_224': _PAPER(params=52, macs=9, top1=84.5),
    'hiera_base_plus_224': _PAPER(params=70, macs=13, top1=85.2),
    'hiera_large_224': _PAPER(params=214, macs=40, top1=86.1),
    'hiera_huge_224': _PAPER(params=673, macs=125, top1=86.9),
}


def _refit(backbone: Hiera, path: str, table: np.ndarray) -> np.ndarray:
    return posemb.refit(table, backbone.grid(*pair(backbone.image_size)), matrix=posemb.smooth_cubic_matrix)


RESIZE = {'Hiera': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
BLOCK_NAMES = (
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for there, here in (('norm1', 'mixer_norm'), ('norm2', 'mlp_norm'))
        for a, b in _NORM
    ),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for there, here in (
            ('proj', 'shortcut'),
            ('attn.qkv', 'mixer/qkv'),
            ('attn.proj', 'mixer/out'),
            ('mlp.fc1', 'mlp/up'),
            ('mlp.fc2', 'mlp/down'),
        )
        for a, b in _AFFINE
    ),
)
NAMES = {
    'Hiera': (
        ('pos_embed', 'backbone/pos_embed'),
        *((f'patch_embed.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        *((f'blocks.{{i}}.{there}', f'backbone/block{{i:02d}}/{here}') for there, here in BLOCK_NAMES),
        # timm's, the authors', and those of their masked autoencoders.
        *((f'{norm}.{a}', f'backbone/norm/{b}') for norm in ('head.norm', 'norm', 'encoder_norm') for a, b in _NORM),
        *((f'head.{name}.{a}', f'head/{b}') for name in ('fc', 'projection') for a, b in _AFFINE),
    ),
}
