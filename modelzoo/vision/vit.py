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

`DistilledViT` is DeiT's with a distillation token behind the class token, which a second head reads
(heads/two.py): the mean of both heads is the answer, and a teacher can be asked of the second alone.

``*_clip_*`` are the image towers of Radford et al., 2021, "Learning Transferable Visual Models From Natural Language
Supervision" (CLIP), https://arxiv.org/abs/2103.00020; reference: https://github.com/openai/CLIP (MIT), clip/model.py.
Their patch embedding has no bias, a norm stands before the blocks, epsilon is 1e-5 and GELU is the sigmoid
approximation. In the place of the classes a head has the width of the space that is shared with texts; the whole of
CLIP is modelzoo/clip.py, whose matrix into that space has no bias. Initial values are those of the other variants.

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
from longview.modelzoo.heads import TwoHeads
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame import init, trunk, variants
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, quick_gelu
from longview.modelzoo.layers.frame.patch import Patches, pair, patch_grid
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, along

POOLS = ('token', 'mean')
_TAUGHT = 'dist_token'


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
        stem_bias: whether the patch embedding has a bias.
        first_norm: whether a norm stands before the blocks.
        block: factory of a block, `layers.frame.block.PreNorm` or what takes its place.
        first_block: factory of the first block, if it is of another form.
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
    stem_bias: bool = True
    first_norm: bool = False
    block: Callable[..., nn.Module] = PreNorm
    first_block: Callable[..., nn.Module] | None = None

    def setup(self) -> None:
        """Makes the parts; `grid` raises ValueError for an `image_size` that does not fit."""
        self._check_pool()
        if self.scan and self.first_block is not None:
            raise ValueError('a first block of another form cannot run with scan: switch it off.')
        self.stem = Patches(self.width, self.patch, dtype=self.dtype, use_bias=self.stem_bias)
        self.tokens = [self.param(name, self.token_init, (1, 1, self.width)) for name in self.prefix]
        if self.fixed_positions is None:
            rows, columns = self._table_grid()
            shape = (1, len(self.prefix) + rows * columns, self.width)
            self.pos_embed = self.param('pos_embed', init.trunc_normal(0.02), shape)
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        parts['mixer'] = functools.partial(parts['mixer'], heads=self.heads)
        forms = trunk.forms(self.block, self.first_block, self.depth)
        self.blocks = [
            form(**parts, residual=residual, name=name)
            for name, form, residual in zip(trunk.names(self.depth), forms, along(self.residual, self.depth))
        ]
        self.join = self.residual()
        self.norm_before = parts['norm'](name='first_norm') if self.first_norm else None
        self.last_norm = parts['norm'](name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding with positions and learned tokens, each block, the last norm."""
        table = () if self.fixed_positions else ('pos_embed',)
        norm = ('first_norm',) if self.first_norm else ()
        return (('stem', *table, *self.prefix, *norm), *((name,) for name in trunk.names(self.depth)), ('norm',))

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``; the first three leave out the learned tokens.

        With a distillation token there is ``distilled``, too.

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
        x = jnp.concatenate([*self._before(tokens.shape[0]), tokens], axis=1)
        s = self.join.open(x if self.norm_before is None else self.norm_before(x))
        s = trunk.run(self, self.blocks, s, masks, train=train, remat=self.remat, scan=self.scan)
        x = self.last_norm(self.join.close(s))
        patches = x[:, len(self.prefix) :]
        pooled = x[:, 0] if self.pool == 'token' else jnp.mean(patches.astype(jnp.float32), axis=1)
        image = {} if grid is None else {ft.MAP: patches.reshape(x.shape[0], *grid, self.width)}
        vectors = {ft.POOLED: pooled}
        if _TAUGHT in self.prefix:
            vectors[ft.DISTILLED] = x[:, self.prefix.index(_TAUGHT)]
        return {ft.TOKENS: patches, **image, **{key: value.astype(jnp.float32) for key, value in vectors.items()}}

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


class DistilledViT(ViT):
    """The same network; published weights have two heads (`HEADS`), the second for the token ``dist_token``."""


# Table 1 of ViT, table 2 of AugReg, table 1 of DeiT and table 20 of CLIP; the names are timm's.
_DEIT = functools.partial(ViT, token_init=init.trunc_normal(0.02))
_DISTILLED = functools.partial(DistilledViT, token_init=init.trunc_normal(0.02), prefix=('cls_token', _TAUGHT))
_CLIP = functools.partial(
    ViT, stem_bias=False, first_norm=True, norm=LayerNorm, mlp=functools.partial(Mlp, activation=quick_gelu)
)
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
    'deit_tiny_distilled_patch16_224': _DISTILLED(192, 12, 3),
    'deit_small_distilled_patch16_224': _DISTILLED(384, 12, 6),
    'deit_base_distilled_patch16_224': _DISTILLED(768, 12, 12),
    'deit_base_distilled_patch16_384': _DISTILLED(768, 12, 12, image_size=384),
    'vit_base_patch32_clip_quickgelu_224': _CLIP(768, 12, 12, 32),
    'vit_base_patch16_clip_quickgelu_224': _CLIP(768, 12, 12),
    'vit_large_patch14_clip_quickgelu_224': _CLIP(1024, 24, 16, 14),
    'vit_large_patch14_clip_quickgelu_336': _CLIP(1024, 24, 16, 14, image_size=336),
    'vit_test': ViT(32, 2, 2, patch=4, image_size=16),
    'deit_distilled_test': _DISTILLED(16, 2, 2, patch=4, image_size=16),
}

# The head of the published classifiers.
HEADS = {'DistilledViT': TwoHeads}

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
    'deit_tiny_distilled_patch16_224': _DEIT_PAPER((224, 224), params=6, top1=74.5),
    'deit_small_distilled_patch16_224': _DEIT_PAPER((224, 224), params=22, top1=81.2),
    'deit_base_distilled_patch16_224': _DEIT_PAPER((224, 224), params=87, top1=83.4),
    'deit_base_distilled_patch16_384': _DEIT_PAPER((384, 384), params=88, top1=85.2),
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


RESIZE = {'ViT': _refit, 'DistilledViT': _refit}

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
_VIT_NAMES = (
    *((name, f'backbone/{name}') for name in ('pos_embed', 'cls_token')),
    *((f'patch_embed.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
    *((f'norm_pre.{a}', f'backbone/first_norm/{b}') for a, b in _NORM),
    *(('blocks.{i}.norm1.' + a, 'backbone/block{i:02d}/mixer_norm/' + b) for a, b in _NORM),
    *(('blocks.{i}.attn.qkv.' + a, 'backbone/block{i:02d}/mixer/qkv/' + b) for a, b in _AFFINE),
    *(('blocks.{i}.attn.proj.' + a, 'backbone/block{i:02d}/mixer/out/' + b) for a, b in _AFFINE),
    *(('blocks.{i}.norm2.' + a, 'backbone/block{i:02d}/mlp_norm/' + b) for a, b in _NORM),
    *(('blocks.{i}.mlp.fc1.' + a, 'backbone/block{i:02d}/mlp/up/' + b) for a, b in _AFFINE),
    *(('blocks.{i}.mlp.fc2.' + a, 'backbone/block{i:02d}/mlp/down/' + b) for a, b in _AFFINE),
    *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
)
NAMES = {
    'ViT': (
        *_VIT_NAMES,
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
        *_TRANSFORMERS_NAMES,
        *_JAX_NAMES,
    ),
    'DistilledViT': (
        *_VIT_NAMES,
        ('dist_token', 'backbone/dist_token'),
        *((f'head.{a}', f'head/labels/{b}') for a, b in _AFFINE),
        *((f'head_dist.{a}', f'head/teacher/{b}') for a, b in _AFFINE),
        *_TRANSFORMERS_NAMES,
        ('embeddings.distillation_token', 'backbone/dist_token'),
        *((f'cls_classifier.{a}', f'head/labels/{b}') for a, b in _AFFINE),
        *((f'distillation_classifier.{a}', f'head/teacher/{b}') for a, b in _AFFINE),
    ),
}


def openai_blocks(tower: str, here: str) -> tuple[tuple[str, str], ...]:
    """Returns pairs of published name and our path for the blocks of one of CLIP's towers, in OpenAI's files.

    Args:
        tower: what comes before ``transformer`` there.
        here: path of our backbone, with a slash behind it.
    """
    there, ours = tower + 'transformer.resblocks.{i}.', here + 'block{i:02d}/'
    ends = (('attn.out_proj', 'mixer/out'), ('mlp.c_fc', 'mlp/up'), ('mlp.c_proj', 'mlp/down'))
    return (
        *((f'{there}{norm}.{a}', f'{ours}{name}/{b}') for norm, name in _CLIP_NORMS for a, b in _NORM),
        *((f'{there}attn.in_proj_{a}', f'{ours}mixer/qkv/{b}') for a, b in _AFFINE),
        *((f'{there}{name}.{a}', f'{ours}{end}/{b}') for name, end in ends for a, b in _AFFINE),
    )


def transformers_blocks(tower: str, here: str) -> tuple[tuple[str, str], ...]:
    """Returns the same for the files of Hugging Face's transformers, which have queries, keys and values apart."""
    there, ours = tower + 'encoder.layers.{i}.', here + 'block{i:02d}/'
    ends = (('self_attn.out_proj', 'mixer/out'), ('mlp.fc1', 'mlp/up'), ('mlp.fc2', 'mlp/down'))
    norms = (('layer_norm1', 'mixer_norm'), ('layer_norm2', 'mlp_norm'))
    return (
        *((f'{there}{norm}.{a}', f'{ours}{name}/{b}') for norm, name in norms for a, b in _NORM),
        *(
            (f'{there}self_attn.{n}_proj.{a}', f'{ours}mixer/qkv/{b}:{i}')
            for i, n in enumerate('qkv')
            for a, b in _AFFINE
        ),
        *((f'{there}{name}.{a}', f'{ours}{end}/{b}') for name, end in ends for a, b in _AFFINE),
    )


_CLIP_NORMS = (('ln_1', 'mixer_norm'), ('ln_2', 'mlp_norm'))
OPENAI_CLIP = (
    ('visual.class_embedding', 'backbone/cls_token'),
    ('visual.positional_embedding', 'backbone/pos_embed'),
    ('visual.conv1.weight', 'backbone/stem/kernel'),
    *((f'visual.ln_pre.{a}', f'backbone/first_norm/{b}') for a, b in _NORM),
    *openai_blocks('visual.', 'backbone/'),
    *((f'visual.ln_post.{a}', f'backbone/norm/{b}') for a, b in _NORM),
)
TRANSFORMERS_CLIP = (
    ('vision_model.embeddings.class_embedding', 'backbone/cls_token'),
    ('vision_model.embeddings.position_embedding.weight', 'backbone/pos_embed'),
    ('vision_model.embeddings.patch_embedding.weight', 'backbone/stem/kernel'),
    *((f'vision_model.pre_layrnorm.{a}', f'backbone/first_norm/{b}') for a, b in _NORM),
    *transformers_blocks('vision_model.', 'backbone/'),
    *((f'vision_model.post_layernorm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    ('vision_model.embeddings.position_ids', ''),
)
# What else a file of the whole of CLIP holds: the text tower and both matrices.
_OPENAI_OTHERS = ('visual.proj', 'token_embedding.weight', 'positional_embedding', 'ln_final.weight', 'ln_final.bias')
_OPENAI_OTHERS += ('text_projection', 'logit_scale', 'input_resolution', 'context_length', 'vocab_size')
_TRANSFORMERS_OTHERS = ('visual_projection.weight', 'text_projection.weight', 'logit_scale')
_TRANSFORMERS_OTHERS += tuple(f'text_model.final_layer_norm.{a}' for a, _ in _NORM)
_TRANSFORMERS_OTHERS += tuple(
    f'text_model.embeddings.{name}' for name in ('token_embedding.weight', 'position_embedding.weight', 'position_ids')
)
OTHER_NAMES = {
    'ViT': (
        (*OPENAI_CLIP, *((name, '') for name in _OPENAI_OTHERS), *((name, '') for name, _ in openai_blocks('', ''))),
        (
            *TRANSFORMERS_CLIP,
            *((name, '') for name in _TRANSFORMERS_OTHERS),
            *((name, '') for name, _ in transformers_blocks('text_model.', '')),
        ),
    )
}
