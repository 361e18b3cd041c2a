"""ViT with maxima of 3x3 tokens in the place of every second attention.

Han et al., 2022, "Learning Features with Parameter-Free Layers", https://arxiv.org/abs/2202.02777. Reference:
https://github.com/naver-ai/PfLayer (Apache-2.0), vit_pf.py, whose names and outputs these are. The blocks with even
numbers attend, the others take maxima (layers/mixers/max_mixer.py). There is no class token: the vector is the mean of
the tokens after the last norm. LayerNorm's epsilon is 1e-6, GELU is the exact one.

Where we differ: images may have any size that the patch divides, for which the table of positions is resized as ViT's
is (modelzoo/vision/vit.py). The paper's PiTs are in modelzoo/vision/pit.py, its ResNets in modelzoo/vision/resnet.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm, in_turn
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import Patches, pair, patch_grid
from longview.modelzoo.layers.mixers.max_mixer import MaxMixer
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, along


def attention(grid: ft.Grid, heads: int, dtype: DTypeLike, **fields: Any) -> Attention:
    """Returns the mixer of all tokens."""
    del grid
    return Attention(heads, dtype=dtype, **fields)


def maxima(grid: ft.Grid, heads: int, dtype: DTypeLike, **fields: Any) -> MaxMixer:
    """Returns the mixer of a map by maxima, with the initial values of attention."""
    del heads
    return MaxMixer(grid, dtype=dtype, kernel_init=init.trunc_normal(0.02), **fields)


class PfViT(ft.Backbone):
    """The network; all its blocks have the same resolution.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        heads: heads of each attention.
        patch: side of the patches.
        image_size: image size of the position table, a side or (height, width).
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of a block's parts.
        mixers: functions of (grid, heads, dtype) that return the mixers of the blocks in turn.
        dtype: compute type; parameters are float32.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    mixers: Sequence[Callable[..., nn.Module]] = (attention, maxima)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding with positions, each block, the last norm."""
        return (('stem', 'pos_embed'), *((name,) for name in trunk.names(self.depth)), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        grid = self.grid(*x.shape[1:3])
        stem = Patches(self.width, self.patch, dtype=self.dtype, name='stem')(x)
        tokens = stem.reshape(x.shape[0], -1, self.width) + self._positions(grid)
        masks = path_masks(self, self.drop_path, self.depth, x.shape[0], train=train)
        join = self.residual(name='join')
        s = in_turn(self._blocks(grid), join.open(tokens), masks, train=train, remat=self.remat)
        tokens = self.norm(dtype=self.dtype, name='norm')(join.close(s))
        pooled = jnp.mean(tokens.astype(jnp.float32), axis=1)
        return {ft.STEM: stem, ft.TOKENS: tokens, ft.MAP: tokens.reshape(stem.shape), ft.POOLED: pooled}

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of patches."""
        return patch_grid(height, width, self.patch)

    def _positions(self, grid: ft.Grid) -> Float[Array, '1 n d']:
        rows, columns = made_for = self.grid(*pair(self.image_size))
        table = self.param('pos_embed', init.trunc_normal(0.02), (1, rows * columns, self.width))
        return posemb.resize(table, made_for, grid, matrix=posemb.smooth_cubic_matrix).astype(self.dtype)

    def _blocks(self, grid: ft.Grid) -> list[PreNorm]:
        norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.mlp))
        mixers = [functools.partial(mixer, grid, self.heads, self.dtype) for mixer in self.mixers]
        return [
            PreNorm(norm, mixers[index % len(mixers)], mlp, residual, name=name)
            for index, (name, residual) in enumerate(zip(trunk.names(self.depth), along(self.residual, self.depth)))
        ]


VARIANTS = {
    'vit_ti_max': PfViT(192, 12, 3),
    'vit_s_max': PfViT(384, 12, 6),
    'vit_b_max': PfViT(768, 12, 12),
    'vit_max_test': PfViT(16, 2, 2, patch=4, image_size=16),
}

# The tables of the authors' repository; by the recipe of DeiT.
PUBLISHED = {'vit_s_max': ft.Published('https://arxiv.org/abs/2202.02777', (224, 224), top1=80.0)}


def _refit(backbone: PfViT, path: str, table: np.ndarray) -> np.ndarray:
    return posemb.refit(table, backbone.grid(*pair(backbone.image_size)), matrix=posemb.smooth_cubic_matrix)


RESIZE = {'PfViT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_PARTS = (
    (_NORM, 'norm1', 'mixer_norm'),
    (_NORM, 'norm2', 'mlp_norm'),
    (_AFFINE, 'attn.qkv', 'mixer/qkv'),
    (_AFFINE, 'attn.proj', 'mixer/out'),
    (_AFFINE, 'mlp.fc1', 'mlp/up'),
    (_AFFINE, 'mlp.fc2', 'mlp/down'),
)
NAMES = {
    'PfViT': (
        ('pos_embed', 'backbone/pos_embed'),
        *((f'patch_embed.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        *(
            (f'blocks.{{i}}.{there}.{a}', f'backbone/block{{i:02d}}/{here}/{b}')
            for pairs, there, here in _PARTS
            for a, b in pairs
        ),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
