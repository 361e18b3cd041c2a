"""ConViT: self-attention that is initialized as a convolution and can learn to leave it.

d'Ascoli et al., 2021, "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
https://arxiv.org/abs/2103.10697. Reference: https://github.com/huggingface/pytorch-image-models (timm, Apache-2.0),
release 1.0.31, a port of https://github.com/facebookresearch/convit (Apache-2.0), with the same parameter names.

The first blocks mix the attention of each head with attention that depends on positions only,

    A = (1 - sigmoid(g)) softmax(q k^T / sqrt(K)) + sigmoid(g) softmax(r w),    r = (dx, dy, dx^2 + dy^2),

and are initialized so that each head looks at one neighbor in a small square. The class token joins after them, and
plain attention follows. The position table has no row for the class token.

Where we differ: the grid need not be a square, and for images of another size the table is resized as timm resizes
ViT's; the reference takes one size.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import attention, posemb
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import Patches, pair, patch_grid
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add


class GatedPositionalAttention(nn.Module):
    """Attention by content and by position, mixed by one gate per head.

    Attributes:
        heads: number of heads; the largest square number of them is initialized as a convolution.
        locality: sharpness of the initial positional attention.
        kernel_init: initial values of the matrices, except that of the values, which is the identity.
        dtype: compute type; the softmaxes and gates are float32.
    """

    heads: int
    locality: float = 1.0
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map."""
        width, flat = x.shape[-1], x.reshape(x.shape[0], -1, x.shape[-1])
        qk = Dense(2 * width, False, self.kernel_init, self.dtype, name='qk')(flat)
        v = Dense(width, False, _identity, self.dtype, name='v')(flat)
        q, k, v = (attention.split_heads(part, self.heads) for part in (*jnp.split(qk, 2, axis=-1), v))
        gate = self.param('gate', jax.nn.initializers.ones, (self.heads,))
        gate = jax.nn.sigmoid(gate).reshape(1, -1, 1, 1)
        blend = (1 - gate) * attention.weights(q, k) + gate * self._by_place(x.shape[1:3])
        blend = attention.shown(blend / blend.sum(-1, keepdims=True))
        out = attention.merge_heads(blend.astype(v.dtype) @ v)
        return Dense(width, True, self.kernel_init, self.dtype, name='out')(out).reshape(x.shape)

    def _by_place(self, grid: ft.Grid) -> Float[Array, '1 n q k']:
        project = Dense(self.heads, True, functools.partial(_neighbors, self.locality), name='place')
        scores = project(jnp.asarray(offsets(grid)))
        return jax.nn.softmax(scores, axis=1).transpose(2, 0, 1)[None]


def offsets(grid: ft.Grid) -> Float[np.ndarray, 'n n 3']:
    """Returns (dx, dy, dx^2 + dy^2) between all pairs of pixels of a row-major grid."""
    places = np.indices(grid).reshape(2, -1)[::-1].astype(np.float32)
    between = places[:, None] - places[:, :, None]
    return np.stack([*between, (between**2).sum(0)], axis=-1)


def _identity(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    return jnp.eye(*shape, dtype=dtype)


def _neighbors(locality: float, key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Initial values: head h scores pixels by ``-(distance to pixel h of a square)^2``, up to a constant."""
    side = math.isqrt(shape[1])
    center = (side - 1) / 2 if side % 2 == 0 else side // 2
    x, y = np.indices((side, side)).reshape(2, -1) - center  # x varies more slowly, as published
    local = locality * np.stack([2 * x, 2 * y, -np.ones_like(x)])
    initial = init.trunc_normal(0.02)(key, shape, dtype) * locality
    return initial.at[:, : side * side].set(jnp.asarray(local, dtype))


class ConViT(ft.TokenBackbone):
    """The network; all its blocks have the same resolution.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        local: number of leading blocks with gated positional attention.
        heads: heads of each block; a square number initializes all of them as a convolution.
        patch: side of the patches.
        image_size: image size of the position table, a side or (height, width). For images of any other size that
            the patch divides the table is resized.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, local_mixer, mixer, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    width: int = 192
    depth: int = 12
    local: int = 10
    heads: int = 4
    patch: int = 16
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    local_mixer: Callable[..., nn.Module] = GatedPositionalAttention
    mixer: Callable[..., nn.Module] = functools.partial(attention.Attention, qkv_bias=False)
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts; `grid` raises ValueError for an `image_size` that does not fit."""
        self.stem = Patches(self.width, self.patch, dtype=self.dtype)
        rows, columns = self._table_grid()
        self.pos_embed = self.param('pos_embed', init.trunc_normal(0.02), (1, rows * columns, self.width))
        self.cls_token = self.param('cls_token', init.trunc_normal(0.02), (1, 1, self.width))
        norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.mlp))
        mixers = [self.local_mixer] * self.local + [self.mixer] * (self.depth - self.local)
        self.blocks = [
            PreNorm(norm, functools.partial(mixer, heads=self.heads, dtype=self.dtype), mlp, self.residual, name=name)
            for mixer, name in zip(mixers, trunk.names(self.depth))
        ]
        self.local_join, self.join = self.residual(), self.residual()
        self.last_norm = norm(name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding with positions and class token, each block, the last norm."""
        blocks = ((name,) for name in trunk.names(self.depth))
        return (('stem', 'pos_embed', 'cls_token'), *blocks, ('norm',))

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``, which is the class token.

        Raises:
            ValueError: the patch does not divide the image.
        """
        grid = self.grid(*x.shape[1:3])
        tokens = self.embed(x)
        features = self.encode(tokens + self.positions(grid), grid, train=train)
        return {ft.STEM: tokens.reshape(x.shape[0], *grid, self.width), **features}

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of patches."""
        return patch_grid(height, width, self.patch)

    def embed(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
        """Returns the patch embeddings, row by row, without positions."""
        return self.stem(x).reshape(x.shape[0], -1, self.width)

    def positions(self, grid: ft.Grid) -> Float[Array, '1 n d']:
        """Returns the position table, resized if `grid` is another one."""
        matrix = posemb.smooth_cubic_matrix
        return posemb.resize(self.pos_embed, self._table_grid(), grid, matrix=matrix).astype(self.dtype)

    def encode(self, tokens: Float[Array, 'b n d'], grid: ft.Grid | None, *, train: bool = False) -> ft.Features:
        """Runs the blocks on a whole grid of patches.

        Raises:
            ValueError: `grid` is None; the blocks need the positions of the patches.
        """
        if grid is None:
            raise ValueError(
                'ConViT attends by the places of its patches in a whole grid, so it cannot encode a '
                'subset of them: replace tokens instead of dropping them.'
            )
        batch, shape = tokens.shape[0], (tokens.shape[0], *grid, self.width)
        masks = path_masks(self, self.drop_path, self.depth, batch, train=train)
        local, rest = (None, None) if masks is None else (masks[: self.local], masks[self.local :])
        options = {'train': train, 'remat': self.remat, 'scan': self.scan}
        s = trunk.run(self, self.blocks[: self.local], self.local_join.open(tokens.reshape(shape)), local, **options)
        x = self.local_join.close(s).reshape(tokens.shape)
        token = jnp.broadcast_to(self.cls_token, (batch, 1, self.width)).astype(x.dtype)
        s = self.join.open(jnp.concatenate([token, x], axis=1))
        x = self.last_norm(self.join.close(trunk.run(self, self.blocks[self.local :], s, rest, **options)))
        return {ft.TOKENS: x[:, 1:], ft.MAP: x[:, 1:].reshape(shape), ft.POOLED: x[:, 0].astype(jnp.float32)}

    def _table_grid(self) -> ft.Grid:
        return self.grid(*pair(self.image_size))


# Table 1 of the paper: 48 channels per head.
VARIANTS = {
    'convit_tiny': ConViT(192, heads=4),
    'convit_small': ConViT(432, heads=9),
    'convit_base': ConViT(768, heads=16),
    'convit_test': ConViT(32, 3, 2, patch=4, image_size=16),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2103.10697', (224, 224))
PUBLISHED = {
    'convit_tiny': _PAPER(params=6, macs=1, top1=73.1),
    'convit_small': _PAPER(params=27, macs=5.4, top1=81.3),
    'convit_base': _PAPER(params=86, macs=17, top1=82.4),
}


def _refit(backbone: ConViT, path: str, table: np.ndarray) -> np.ndarray:
    return posemb.refit(table, backbone.grid(*pair(backbone.image_size)), matrix=posemb.smooth_cubic_matrix)


RESIZE = {'ConViT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_MIXER = (('qkv', 'qkv'), ('qk', 'qk'), ('v', 'v'), ('proj', 'out'), ('pos_proj', 'place'))
NAMES = {
    'ConViT': (
        *((name, f'backbone/{name}') for name in ('pos_embed', 'cls_token')),
        *((f'patch_embed.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        *(('blocks.{i}.norm1.' + a, 'backbone/block{i:02d}/mixer_norm/' + b) for a, b in _NORM),
        ('blocks.{i}.attn.gating_param', 'backbone/block{i:02d}/mixer/gate'),
        ('blocks.{i}.attn.rel_indices', ''),
        *(
            (f'blocks.{{i}}.attn.{there}.{a}', f'backbone/block{{i:02d}}/mixer/{here}/{b}')
            for there, here in _MIXER
            for a, b in _AFFINE
        ),
        *(('blocks.{i}.norm2.' + a, 'backbone/block{i:02d}/mlp_norm/' + b) for a, b in _NORM),
        *(('blocks.{i}.mlp.fc1.' + a, 'backbone/block{i:02d}/mlp/up/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.mlp.fc2.' + a, 'backbone/block{i:02d}/mlp/down/' + b) for a, b in _AFFINE),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
