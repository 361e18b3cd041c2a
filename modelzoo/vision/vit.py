"""ViT and DeiT: a plain transformer on patches of an image.

Dosovitskiy et al., 2020, "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929; the two small sizes are
those of Touvron et al., 2020, "Training data-efficient image transformers" (DeiT), https://arxiv.org/abs/2012.12877,
and of Steiner et al., 2021, "How to train your ViT?" (AugReg), https://arxiv.org/abs/2106.10270. Reference:
https://github.com/huggingface/pytorch-image-models (timm, Apache-2.0), release 1.0.31: variants have its names, and
outputs agree with it. There the JAX weights of AugReg and those of DeiT belong to the same network.

The class token precedes the patches and has the first row of the position table. LayerNorm's epsilon is 1e-6, GELU is
the exact one; the last norm acts on all tokens, and the classifier reads the class token. For images of another size
the other rows of the table are resized with antialiasing, as in timm (DeiT's own fine-tuning does not antialias, the
JAX original resizes linearly).

`pool='mean'` without a class token and with `fixed_positions=posemb.sincos2d` is the network of Beyer et al., 2022,
"Better plain ViT baselines", https://arxiv.org/abs/2205.01580.

Where we differ: initial values are timm's, not the JAX original's; there is no dropout, which none of the recipes
in configs/ uses.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame import init, trunk, variants
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import Patches, pair, patch_grid
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, along

POOLS = ('token', 'mean')


class ViT(ft.TokenBackbone):
    """The network; all its blocks have the same resolution.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        heads: heads of each block.
        patch: side of the patches.
        image_size: image size of the position table, a side or (height, width). For images of any other size that
            the patch divides the table is resized.
        prefix: names of the learned tokens before the patches.
        pool: what ``pooled`` is: the first token ('token') or the mean of the patches ('mean').
        fixed_positions: (grid, width) -> positions of the patches, in place of a learned table; learned tokens then
            have no positions.
        token_init: initial values of the learned tokens.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp, residual: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16
    image_size: int | tuple[int, int] = 224
    prefix: Sequence[str] = ('cls_token',)
    pool: str = 'token'
    fixed_positions: Callable[[ft.Grid, int], Array] | None = None
    token_init: init.Initializer = jax.nn.initializers.normal(1e-6)
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mixer: Callable[..., nn.Module] = Attention
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts; `grid` raises ValueError for an `image_size` that does not fit."""
        self._check_pool()
        self.stem = Patches(self.width, self.patch, dtype=self.dtype)
        self.tokens = [self.param(name, self.token_init, (1, 1, self.width)) for name in self.prefix]
        if self.fixed_positions is None:
            rows, columns = self._table_grid()
            shape = (1, len(self.prefix) + rows * columns, self.width)
            self.pos_embed = self.param('pos_embed', init.trunc_normal(0.02), shape)
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        parts['mixer'] = functools.partial(parts['mixer'], heads=self.heads)
        self.blocks = [
            PreNorm(**parts, residual=residual, name=name)
            for name, residual in zip(trunk.names(self.depth), along(self.residual, self.depth))
        ]
        self.join = self.residual()
        self.last_norm = parts['norm'](name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding with positions and learned tokens, each block, the last norm."""
        table = () if self.fixed_positions else ('pos_embed',)
        return (('stem', *table, *self.prefix), *((name,) for name in trunk.names(self.depth)), ('norm',))

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``; the first three leave out the learned tokens.

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
        """Returns the positions of the patches; a table of another grid is resized."""
        if self.fixed_positions is not None:
            return jnp.asarray(self.fixed_positions(grid, self.width), self.dtype)
        table = self.pos_embed[:, len(self.prefix) :]
        return posemb.resize(table, self._table_grid(), grid, matrix=posemb.smooth_cubic_matrix).astype(self.dtype)

    def encode(self, tokens: Float[Array, 'b n d'], grid: ft.Grid | None, *, train: bool = False) -> ft.Features:
        """Runs the blocks on any subset of the patches, in any order; ``map`` is returned only with a `grid`."""
        masks = path_masks(self, self.drop_path, self.depth, tokens.shape[0], train=train)
        s = self.join.open(jnp.concatenate([*self._before(tokens.shape[0]), tokens], axis=1))
        s = trunk.run(self, self.blocks, s, masks, train=train, remat=self.remat, scan=self.scan)
        x = self.last_norm(self.join.close(s))
        patches = x[:, len(self.prefix) :]
        pooled = x[:, 0] if self.pool == 'token' else jnp.mean(patches.astype(jnp.float32), axis=1)
        image = {} if grid is None else {ft.MAP: patches.reshape(x.shape[0], *grid, self.width)}
        return {ft.TOKENS: patches, **image, ft.POOLED: pooled.astype(jnp.float32)}

    def _before(self, batch: int) -> list[Float[Array, 'b 1 d']]:
        """Returns the learned tokens with their positions."""
        tokens = self.tokens
        if self.fixed_positions is None:
            tokens = [token + self.pos_embed[:, row : row + 1] for row, token in enumerate(tokens)]
        return [jnp.broadcast_to(token, (batch, 1, self.width)).astype(self.dtype) for token in tokens]

    def _table_grid(self) -> ft.Grid:
        return self.grid(*pair(self.image_size))

    def _check_pool(self) -> None:
        if self.pool not in POOLS:
            raise ValueError(f'pool is {self.pool!r}: use one of {", ".join(POOLS)}.')
        if self.pool == 'token' and not self.prefix:
            raise ValueError("pool is 'token' and there is no token before the patches: use 'mean'.")


# Table 1 of ViT, table 2 of AugReg and table 1 of DeiT; the names are timm's.
_DEIT = functools.partial(ViT, token_init=init.trunc_normal(0.02))
VARIANTS = {
    'vit_tiny_patch16_224': ViT(192, 12, 3),
    'vit_small_patch32_224': ViT(384, 12, 6, 32),
    'vit_small_patch16_224': ViT(384, 12, 6),
    'vit_small_patch8_224': ViT(384, 12, 6, 8),
    'vit_base_patch32_224': ViT(768, 12, 12, 32),
    'vit_base_patch16_224': ViT(768, 12, 12),
    'vit_base_patch8_224': ViT(768, 12, 12, 8),
    'vit_large_patch32_224': ViT(1024, 24, 16, 32),
    'vit_large_patch16_224': ViT(1024, 24, 16),
    'deit_tiny_patch16_224': _DEIT(192, 12, 3),
    'deit_small_patch16_224': _DEIT(384, 12, 6),
    'deit_base_patch16_224': _DEIT(768, 12, 12),
    'deit_base_patch16_384': _DEIT(768, 12, 12, image_size=384),
    'vit_test': ViT(32, 2, 2, patch=4, image_size=16),
}

# AugReg's accuracies are those after pre-training on other data; ViT has none at 224 pixels without that.
_AUGREG = functools.partial(ft.Published, 'https://arxiv.org/abs/2106.10270', (224, 224))
_DEIT_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2012.12877')
PUBLISHED = {
    'vit_tiny_patch16_224': _AUGREG(params=5.8),
    'vit_small_patch16_224': _AUGREG(params=22.2),
    'vit_base_patch16_224': _AUGREG(params=86),
    'vit_large_patch16_224': _AUGREG(params=307),
    'deit_tiny_patch16_224': _DEIT_PAPER((224, 224), params=5, top1=72.2),
    'deit_small_patch16_224': _DEIT_PAPER((224, 224), params=22, top1=79.8),
    'deit_base_patch16_224': _DEIT_PAPER((224, 224), params=86, top1=81.8),
    'deit_base_patch16_384': _DEIT_PAPER((384, 384), params=86, top1=83.1),
}


def vit(variant: str = 'vit_small_patch16_224', *, plain: bool = False, **fields: Any) -> ViT:
    """Returns a variant with some fields changed; for the fields see `ViT`.

    Args:
        variant: one of `VARIANTS`.
        plain: whether to pool the mean instead of a class token, and to use fixed sines instead of a position table
            (Beyer et al., 2022).
        **fields: see `layers.frame.variants.changed`.

    Raises:
        ValueError: there is no such variant or field.
    """
    simpler = {'prefix': (), 'pool': 'mean', 'fixed_positions': posemb.sincos2d} if plain else {}
    return variants.variant(VARIANTS, variant, simpler | fields)


def _refit(backbone: ViT, path: str, table: np.ndarray) -> np.ndarray:
    grid = backbone.grid(*pair(backbone.image_size))
    return posemb.refit(table, grid, before=len(backbone.prefix), matrix=posemb.smooth_cubic_matrix)


RESIZE = {'ViT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_HERE = 'backbone/block{i:02d}/'
_STEM = (
    *((f'embeddings.patch_embeddings.projection.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
    ('embeddings.position_embeddings', 'backbone/pos_embed'),
    ('embeddings.cls_token', 'backbone/cls_token'),
)
_END = (
    *((f'layernorm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
    *((f'pooler.dense.{a}', '') for a, _ in _AFFINE),
)


def _transformers_names(block: str, qkv: Sequence[str], dense: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names of a block of Hugging Face's transformers: its queries, keys and values, and its other three matrices."""
    ends = zip(dense, ('mixer/out', 'mlp/up', 'mlp/down'))
    return (
        *((f'{block}.layernorm_before.{a}', f'{_HERE}mixer_norm/{b}') for a, b in _NORM),
        *((f'{block}.layernorm_after.{a}', f'{_HERE}mlp_norm/{b}') for a, b in _NORM),
        *((f'{block}.{there}.{a}', f'{_HERE}mixer/qkv/{b}:{n}') for a, b in _AFFINE for n, there in enumerate(qkv)),
        *((f'{block}.{there}.{a}', f'{_HERE}{here}/{b}') for there, here in ends for a, b in _AFFINE),
    )


_TRANSFORMERS_NAMES = (
    *_STEM,
    # The files' names, and those of the module in memory from version 5 on.
    *_transformers_names(
        'encoder.layer.{i}',
        [f'attention.attention.{name}' for name in ('query', 'key', 'value')],
        ('attention.output.dense', 'intermediate.dense', 'output.dense'),
    ),
    *_transformers_names(
        'layers.{i}', [f'attention.{name}_proj' for name in 'qkv'], ('attention.o_proj', 'mlp.fc1', 'mlp.fc2')
    ),
    *_END,
)


def _jax_names(attention: int, second_norm: int, mlp: int) -> tuple[tuple[str, str], ...]:
    """Names of a block of the JAX original, whose layers carry these numbers."""
    block = 'Transformer/encoderblock_{i}/'
    mixer = f'{block}MultiHeadDotProductAttention_{attention}/'
    return (
        *((f'{block}LayerNorm_0/{a}', f'{_HERE}mixer_norm/{a}') for a in ('scale', 'bias')),
        *((f'{block}LayerNorm_{second_norm}/{a}', f'{_HERE}mlp_norm/{a}') for a in ('scale', 'bias')),
        *(
            (f'{mixer}{name}/{a}', f'{_HERE}mixer/qkv/{a}:{n}')
            for a in ('kernel', 'bias')
            for n, name in enumerate(('query', 'key', 'value'))
        ),
        *((f'{mixer}out/{a}', f'{_HERE}mixer/out/{a}') for a in ('kernel', 'bias')),
        *(
            (f'{block}MlpBlock_{mlp}/Dense_{n}/{a}', f'{_HERE}mlp/{here}/{a}')
            for n, here in enumerate(('up', 'down'))
            for a in ('kernel', 'bias')
        ),
    )


_JAX_NAMES = (
    ('pos_embedding', 'backbone/pos_embed'),
    ('Transformer/posembed_input/pos_embedding', 'backbone/pos_embed'),
    ('cls', 'backbone/cls_token'),
    *((f'embedding/{a}', f'backbone/stem/{a}') for a in ('kernel', 'bias')),
    *_jax_names(0, 1, 0),  # big_vision
    *_jax_names(1, 2, 3),  # vision_transformer, AugReg
    *((f'Transformer/encoder_norm/{a}', f'backbone/norm/{a}') for a in ('scale', 'bias')),
    *((f'head/{a}', f'head/{a}') for a in ('kernel', 'bias')),
)
NAMES = {
    'ViT': (
        *((name, f'backbone/{name}') for name in ('pos_embed', 'cls_token')),
        *((f'patch_embed.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        *(('blocks.{i}.norm1.' + a, 'backbone/block{i:02d}/mixer_norm/' + b) for a, b in _NORM),
        *(('blocks.{i}.attn.qkv.' + a, 'backbone/block{i:02d}/mixer/qkv/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.attn.proj.' + a, 'backbone/block{i:02d}/mixer/out/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.norm2.' + a, 'backbone/block{i:02d}/mlp_norm/' + b) for a, b in _NORM),
        *(('blocks.{i}.mlp.fc1.' + a, 'backbone/block{i:02d}/mlp/up/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.mlp.fc2.' + a, 'backbone/block{i:02d}/mlp/down/' + b) for a, b in _AFFINE),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
        *_TRANSFORMERS_NAMES,
        *_JAX_NAMES,
    ),
}
