"""STViT: attention between super tokens, to which pixels are softly assigned and from which they read back.

Huang et al., 2022, "Vision Transformer with Super Token Sampling", https://arxiv.org/abs/2211.11167. Reference:
https://github.com/hhb072/STViT (MIT by the heads of its files, no licence file), commit c9ed9a4, models/stvit.py, whose
parameter names these are.

A block is ``x + conv(x)`` with a 3x3 kernel per channel, which stands for positions, super token attention after a
layer normalization, and a feed-forward layer with another such convolution after a batch normalization. In the first
two stages a map is cut into cells, whose means are the first super tokens. Each pixel is shared out between the 3x3
super tokens around its cell by a softmax of its products with them; super tokens become the means of the pixels by
these shares, attend to each other, and are read back by the same shares. Later stages attend between all pixels.

Details of the published code that are not in the paper, kept here:
  * the shares have no gradient: neither pixels nor super tokens learn from how pixels are assigned;
  * the softmax counts super tokens outside of the map, as zeros, so pixels at the rim give and read a part of nothing;
  * a map that cells do not divide is filled up with zeros, which are pixels like others;
  * queries, keys and values lie side by side within each head; the normalizations of the stem follow GELU;
  * bases and larger scale the branches of the last two stages by a learned vector that starts at 1e-6.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers import token_grid
from longview.modelzoo.layers.attention import attention, window
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.patch import Patches
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

SIDE = 3  # super tokens around a cell, along rows and columns


class SuperTokenAttention(nn.Module):
    """Attention between super tokens, one for each cell of a map; with cells of one pixel, between the pixels.

    Attributes:
        heads: number of heads; divides the width.
        cell: rows and columns of a cell in pixels.
        steps: how often pixels are assigned and super tokens made anew.
        dtype: compute type; softmaxes and the sums of shares are float32.
    """

    heads: int
    cell: int = 8
    steps: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map of any size."""
        del train
        if self.cell == 1:
            return self._attend(x)
        (height, width), cell = x.shape[1:3], (self.cell, self.cell)
        padded = jnp.pad(x, ((0, 0), (0, -height % self.cell), (0, -width % self.cell), (0, 0)))
        size = padded.shape[1:3]
        grid = tuple(side // self.cell for side in size)
        pixels = window.partition(padded, cell).reshape(-1, grid[0] * grid[1], self.cell**2, x.shape[-1])
        shares = associate(jax.lax.stop_gradient(pixels), grid, self.steps)
        tokens = self._attend(gather(pixels, shares, grid))
        pixels = shares.astype(tokens.dtype) @ _around(tokens)
        return window.merge(pixels.reshape(-1, self.cell**2, x.shape[-1]), cell, size)[:, :height, :width]

    def _attend(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        width = x.shape[-1]
        qkv = Patches(3 * width, 1, dtype=self.dtype, name='qkv')(x).reshape(x.shape[0], -1, 3 * width)
        q, k, v = jnp.split(attention.split_heads(qkv, self.heads), 3, axis=-1)
        mixed = attention.merge_heads(attention.attend(q, k, v)).reshape(x.shape)
        return Patches(width, 1, dtype=self.dtype, name='out')(mixed)


def associate(pixels: Float[Array, 'b g p d'], grid: ft.Grid, steps: int = 1) -> Float[Array, 'b g p 9']:
    """Returns the shares of each pixel in the super tokens around its cell; with those outside they add up to 1.

    Args:
        pixels: those of each cell, cells row by row.
        grid: rows and columns of cells.
        steps: how often super tokens, first the means of cells, are made from shares.
    """
    tokens = jnp.mean(pixels, axis=2).reshape(-1, *grid, pixels.shape[-1])
    scale = pixels.shape[-1] ** -0.5
    shares = attention.weights(pixels, _around(tokens), scale=scale)
    for _ in range(steps - 1):
        shares = attention.weights(pixels, _around(gather(pixels, shares, grid)), scale=scale)
    return shares


def gather(pixels: Float[Array, 'b g p d'], shares: Float[Array, 'b g p 9'], grid: ft.Grid) -> Float[Array, 'b r c d']:
    """Returns the super tokens: the means of the pixels around them, weighted by their shares."""

    def collect(given: Float[Array, 'b g 9 d']) -> Float[Array, 'b r c d']:
        return token_grid.fold(given.reshape(-1, *grid, *given.shape[2:]), SIDE)

    total = collect(jnp.sum(shares, axis=2)[..., None]) + 1e-12
    sums = collect(jnp.swapaxes(shares, 2, 3).astype(pixels.dtype) @ pixels)
    return (sums / total).astype(pixels.dtype)


def _around(tokens: Float[Array, 'b r c d']) -> Float[Array, 'b g 9 d']:
    """Returns the super tokens around each cell, cells row by row."""
    return token_grid.unfold(tokens, SIDE).reshape(tokens.shape[0], -1, SIDE**2, tokens.shape[-1])


class ConvMlp(nn.Module):
    """``down(y + conv(y))`` with ``y = gelu(up(x))`` and a 3x3 kernel per channel, all with biases.

    Attributes:
        ratio: hidden width over width.
        dtype: compute type.
    """

    ratio: float = 4.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        y = gelu(Patches(int(x.shape[-1] * self.ratio), 1, dtype=self.dtype, name='up')(x))
        y = y + DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='conv')(y)
        return Patches(x.shape[-1], 1, dtype=self.dtype, name='down')(y)


class Block(nn.Module):
    """``x += conv(x)``, ``x += mixer(norm(x))``, ``x += mlp(norm(x))``.

    Attributes:
        mixer, norm, mlp, residual: factories of the parts; `norm` is that before the feed-forward layer.
        dtype: compute type.
    """

    mixer: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] = BatchNorm
    mlp: Callable[..., nn.Module] = ConvMlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], mask: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        x = x + DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='positions')(x)
        y = LayerNorm(1e-6, self.dtype, name='mixer_norm')(x)
        y = self.mixer(dtype=self.dtype, name='mixer')(y, train=train)
        x = self.residual(name='mixer_residual').write(x, drop_path(y, mixer_mask))
        y = self.norm(dtype=self.dtype, name='mlp_norm')(x, train=train)
        y = self.mlp(dtype=self.dtype, name='mlp')(y)
        return self.residual(name='mlp_residual').write(x, drop_path(y, mlp_mask))


class Stem(nn.Module):
    """Four 3x3 convolutions, each with GELU and then a normalization; the first two have half of the channels.

    Attributes:
        features: output channels.
        stride: 4 as published, 2 or 1.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
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
        strides = (2 if self.stride > 1 else 1, 1, 2 if self.stride > 2 else 1, 1)
        for index, stride in enumerate(strides):
            features = self.features if index > 1 else self.features // 2
            x = gelu(Conv(features, 3, stride, 1, self.dtype, name=f'conv{index}')(x))
            x = self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train)
        return x


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 and a normalization.

    Attributes:
        features: output channels.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of half the sides, rounded up."""
        x = Conv(self.features, 3, 2, 1, self.dtype, name='conv')(x)
        return self.norm(dtype=self.dtype, name='norm')(x, train=train)


class STViT(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        cells: rows and columns in pixels of a cell in each stage; 1 for attention between pixels.
        scaled: whether each stage scales its branches by learned vectors.
        projection: channels of the last map, which a classifier averages.
        stem_stride: 4, or 2 or 1 for small images.
        steps: how often super tokens are made.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm: factory of every batch normalization.
        mixer: factory of the attention.
        mlp: factory of the feed-forward layers.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (64, 128, 320, 512)
    depths: Sequence[int] = (3, 5, 9, 3)
    heads: Sequence[int] = (1, 2, 5, 8)
    cells: Sequence[int] = (8, 4, 1, 1)
    scaled: Sequence[bool] = (False, False, False, False)
    projection: int = 1024
    stem_stride: int = 4
    steps: int = 1
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    mixer: Callable[..., nn.Module] = SuperTokenAttention
    mlp: Callable[..., nn.Module] = ConvMlp
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, what makes the last map; a downsampling belongs to the block before it."""
        between = [f'down{index}' for index in range(len(self.depths) - 1)]
        return (('stem',), *map(tuple, trunk.stage_paths(self.depths, between)), ('projection', 'norm'))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map``, ``silu(norm(projection))``, and ``pooled``, its mean."""
        x = Stem(self.widths[0], self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                down = Downsample(self.widths[index], self.norm, self.dtype, name=f'down{index - 1}')
                x = down(x, train=train)
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        x = Patches(self.projection, 1, dtype=self.dtype, name='projection')(x)
        x = nn.silu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stage(self, index: int) -> trunk.Stage:
        mixer = functools.partial(self.mixer, self.heads[index], self.cells[index], self.steps)
        residual = functools.partial(LayerScale, initial=1e-6) if self.scaled[index] else Add
        block = functools.partial(Block, mixer, self.norm, self.mlp, residual, self.dtype)
        return trunk.Stage(block, self.depths[index], Add, self.remat, self.scan, name=ft.stage(index))


_SCALED = {'scaled': (False, False, True, True)}
VARIANTS = {
    'stvit_small': STViT(),
    'stvit_base': STViT((96, 192, 384, 512), (4, 6, 14, 6), (2, 3, 6, 8), **_SCALED),
    'stvit_large': STViT((96, 192, 448, 640), (4, 7, 19, 8), (2, 3, 7, 10), **_SCALED),
    'stvit_test': STViT((8, 16), (1, 1), (1, 2), (2, 1), (False, True), 24, stem_stride=2),
}

# The README's table.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2211.11167', (224, 224))
PUBLISHED = {
    'stvit_small': _PAPER(params=25.0, macs=4.4, top1=83.6),
    'stvit_base': _PAPER(params=52.0, macs=9.9, top1=84.8),
    'stvit_large': _PAPER(params=95.0, macs=15.6, top1=85.3),
}

# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_MIXER = (('stoken_refine.qkv', 'qkv'), ('stoken_refine.proj', 'out'))
_BLOCK = (
    *((f'pos_embed.conv.{a}', f'positions/{b}') for a, b in _AFFINE),
    *((f'norm1.norm.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *((f'attn.{there}.{a}', f'mixer/{here}/{b}') for there, here in _MIXER for a, b in _AFFINE),
    ('attn.unfold.weights', ''),
    ('attn.fold.weights', ''),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _BATCH),
    *(
        (f'mlp2.{there}.{a}', f'mlp/{here}/{b}')
        for there, here in (('fc1', 'up'), ('conv.conv', 'conv'), ('fc2', 'down'))
        for a, b in _AFFINE
    ),
    ('gamma_1', 'mixer_residual/scale', 2),
    ('gamma_2', 'mlp_residual/scale', 2),
)
NAMES = {
    'STViT': (
        *((f'patch_embed.proj.{3 * k}.{a}', f'backbone/stem/conv{k}/{b}') for k in range(4) for a, b in _AFFINE),
        *((f'patch_embed.proj.{3 * k + 2}.{a}', f'backbone/stem/norm{k}/{b}') for k in range(4) for a, b in _BATCH),
        *(
            (f'layers.{{s}}.blocks.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}' if b else '', *axes)
            for a, b, *axes in _BLOCK
        ),
        *((f'layers.{{s}}.downsample.proj.0.{a}', f'backbone/down{{s}}/conv/{b}') for a, b in _AFFINE),
        *((f'layers.{{s}}.downsample.proj.1.{a}', f'backbone/down{{s}}/norm/{b}') for a, b in _BATCH),
        *((f'proj.{a}', f'backbone/projection/{b}') for a, b in _AFFINE),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _BATCH),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
# Of super token attention alone.
MIXER_NAMES = tuple((f'{there}.{a}', f'{here}/{b}') for there, here in _MIXER for a, b in _AFFINE)
