"""PVT: a four-stage transformer whose keys and values come from a coarser map; versions 1 and 2.

Wang et al., 2021, "Pyramid Vision Transformer", https://arxiv.org/abs/2102.12122, and "PVT v2: Improved Baselines
with Pyramid Vision Transformer", https://arxiv.org/abs/2106.13797. Reference: https://github.com/whai362/PVT
(Apache-2.0), commit 57e2dfa; `NAMES` maps its parameter names.

Keys and values come from a map reduced by one matrix on each square of pixels (spatial reduction) or, in the linear
variant of v2, pooled to 7x7. v1 embeds patches, adds position tables and reads a class token that joins in the last
stage. v2 has overlapping patches, a depthwise convolution inside its feed-forward layers in place of positions, a norm
after each stage, and reads the mean. LayerNorm's epsilon is 1e-6 in blocks and after stages, 1e-5 after patch
embeddings and spatial reductions.

For images of another size the tables of v1 are resized linearly, as in the reference.

Where sides do not divide we differ: patches and squares are then padded with zeros, where the reference crops.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.reduced import ReducedAttention, Squares, squares
from longview.modelzoo.layers.convolutions.conv import convolve
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import Patches, pair, patch_grid
from longview.modelzoo.layers.frame.pool import adaptive_mean
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add

_HE = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_ZEROS = jax.nn.initializers.zeros


class Averages(nn.Module):
    """Adaptive average pooling to 7x7 pixels, a matrix, LayerNorm and GELU.

    Attributes:
        kernel_init, bias_init: initial values; by default torch's.
        dtype: compute type.
    """

    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b 7 7 d']:
        """Returns a map of 7x7 pixels."""
        x = adaptive_mean(x, (7, 7))
        x = Patches(x.shape[-1], 1, self.kernel_init, self.bias_init, self.dtype, name='conv')(x)
        return gelu(LayerNorm(dtype=self.dtype, name='norm')(x))


def he_squares(side: int) -> Callable[..., nn.Module] | None:
    """The `memory` of v2, which differs in its initial values."""
    return None if side == 1 else functools.partial(Squares, side, _HE, _ZEROS)


def averages(side: int) -> Callable[..., nn.Module]:
    """The `memory` of the linear variant, which does not depend on the reduction."""
    return functools.partial(Averages, _HE, _ZEROS)


class ConvMlp(nn.Module):
    """``down(gelu(conv(up(x))))`` with a 3x3 depthwise convolution, all with biases.

    Attributes:
        ratio: hidden width over width.
        activation: another activation, before the convolution; None for none.
        kernel_init: initial values of both matrices.
        dtype: compute type.
    """

    ratio: float = 4.0
    activation: Callable[[Array], Array] | None = None
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        hidden = int(x.shape[-1] * self.ratio)
        y = Dense(hidden, True, self.kernel_init, self.dtype, name='up')(x)
        y = y if self.activation is None else self.activation(y)
        y = gelu(BiasedDepthwise(self.dtype, name='conv')(y))
        return Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='down')(y)


class BiasedDepthwise(nn.Module):
    """A 3x3 depthwise convolution with a bias.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape."""
        kernel = self.param('kernel', jax.nn.initializers.normal((2 / 9) ** 0.5), (3, 3, 1, x.shape[-1]))
        bias = self.param('bias', _ZEROS, (x.shape[-1],))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return depthwise_conv(x, kernel) + bias[None, None, None]


class PatchEmbedding(nn.Module):
    """The patch embedding of v1: patches, LayerNorm, a table of positions.

    Attributes:
        features: output channels.
        patch: side of the patches.
        table: rows and columns of the position table.
        dtype: compute type.
    """

    features: int
    patch: int
    table: ft.Grid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], token: Float[Array, '1 1 d'] | None = None
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns ``ceil(h / patch) x ceil(w / patch)`` pixels; with a `token`, a sequence of it and the pixels."""
        x = Patches(self.features, self.patch, dtype=self.dtype, name='patches')(x)
        x = LayerNorm(dtype=self.dtype, name='norm')(x)
        before = 0 if token is None else 1
        shape = (1, before + self.table[0] * self.table[1], self.features)
        table = self.param('pos_embed', init.trunc_normal(0.02), shape)
        pixels = posemb.resize(table[:, before:], self.table, x.shape[1:3], matrix=posemb.linear_matrix)
        x = x + pixels.reshape(1, *x.shape[1:]).astype(self.dtype)
        if token is None:
            return x
        token = jnp.broadcast_to((token + table[:, :1])[None], (x.shape[0], 1, 1, self.features)).astype(self.dtype)
        return jnp.concatenate([token, x.reshape(x.shape[0], 1, -1, self.features)], axis=2)


class OverlappingPatches(nn.Module):
    """The patch embedding of v2: a convolution of stride `patch` and kernel size ``2 * patch - 1``, then LayerNorm.

    Attributes:
        features: output channels.
        patch: stride of the convolution.
        dtype: compute type.
    """

    features: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``ceil(h / patch) x ceil(w / patch)`` pixels."""
        side = 2 * self.patch - 1
        kernel = self.param('kernel', _HE, (side, side, x.shape[-1], self.features))
        bias = self.param('bias', _ZEROS, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        x = convolve(x, kernel, self.patch, self.patch - 1) + bias[None, None, None]
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class _Pyramid(ft.PyramidBackbone):
    """The common part of both versions.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        ratios: hidden width over width of the feed-forward layers of each stage.
        reductions: spatial reduction of keys and values in each stage.
        patch: stride of the first stage; each further stage doubles the stride.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp, residual: factories of the blocks' parts.
        memory: reduction -> factory of the module that reduces the map for keys and values.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (64, 128, 320, 512)
    depths: Sequence[int] = (2, 2, 2, 2)
    heads: Sequence[int] = (1, 2, 5, 8)
    ratios: Sequence[float] = (8, 8, 4, 4)
    reductions: Sequence[int] = (8, 4, 2, 1)
    patch: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mixer: Callable[..., nn.Module] = ReducedAttention
    mlp: Callable[..., nn.Module] = Mlp
    memory: Callable[[int], Callable[..., nn.Module] | None] = squares
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.patch * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    def _stage(self, index: int) -> trunk.Stage:
        memory, dtype = self.memory(self.reductions[index]), self.dtype
        mixer = functools.partial(self.mixer, heads=self.heads[index], memory=memory, dtype=dtype)
        mlp = functools.partial(self.mlp, ratio=float(self.ratios[index]), dtype=dtype)
        block = functools.partial(PreNorm, functools.partial(self.norm, dtype=dtype), mixer, mlp, self.residual)
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))

    def _masks(self, batch: int, *, train: bool) -> list[Array | None]:
        """Returns the masks of stochastic depth of each stage."""
        masks = path_masks(self, self.drop_path, sum(self.depths), batch, train=train)
        return by_stage(masks, self.depths)

    def _blocks(self) -> list[list[str]]:
        """Returns the paths of each block; a patch embedding belongs to the block before it."""
        return trunk.stage_paths(self.depths, [f'embed{index}' for index in range(1, len(self.depths))])


class PVT(_Pyramid):
    """Version 1; attributes as in `_Pyramid`.

    Attributes:
        image_size: image size of the position tables, a side or (height, width). For images of any other size that
            the patch divides the tables are resized.
    """

    image_size: int | tuple[int, int] = 224

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The first embedding, each block, the last norm; the class token belongs with the embedding of its stage."""
        blocks = self._blocks()
        blocks[sum(self.depths[:-1]) - 1].append('cls_token')
        return (('embed0',), *map(tuple, blocks), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``, which is the class token.

        Raises:
            ValueError: the patch does not divide the image, or the last stage has a reduction.
        """
        if self.reductions[-1] != 1:
            raise ValueError(
                f'the last of the reductions {tuple(self.reductions)} must be 1: its map has a class token.'
            )
        tables, grids = (_grids(pair(size), self.patch, len(self.depths)) for size in (self.image_size, x.shape[1:3]))
        last = len(self.depths) - 1
        token = self.param('cls_token', init.trunc_normal(0.02), (1, 1, self.widths[last]))
        features = {}
        for index, masks in enumerate(self._masks(x.shape[0], train=train)):
            patch = self.patch if index == 0 else 2
            embed = PatchEmbedding(self.widths[index], patch, tables[index], self.dtype, name=f'embed{index}')
            x = embed(x, token if index == last else None)
            features.setdefault(ft.STEM, x)
            x = self._stage(index)(x, masks, train=train)
            features[ft.stage(index)] = x
        image = lambda tokens: tokens[:, 0, 1:].reshape(tokens.shape[0], *grids[last], -1)
        normed = self.norm(dtype=self.dtype, name='norm')(x)
        return {
            **features,
            ft.stage(last): image(x),
            ft.MAP: image(normed),
            ft.POOLED: normed[:, 0, 0].astype(jnp.float32),
        }


class PVTv2(_Pyramid):
    """Version 2; attributes as in `_Pyramid`. The outputs of its stages are normalized."""

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The first embedding, each block, the last norm; other norms belong to the block before them."""
        blocks = self._blocks()
        for index in range(len(self.depths) - 1):
            blocks[sum(self.depths[: index + 1]) - 1].append(f'norm{index}')
        return (('embed0',), *map(tuple, blocks), (f'norm{len(self.depths) - 1}',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        patch_grid(*x.shape[1:3], self.patch)
        features = {}
        for index, masks in enumerate(self._masks(x.shape[0], train=train)):
            patch = self.patch if index == 0 else 2
            x = OverlappingPatches(self.widths[index], patch, self.dtype, name=f'embed{index}')(x)
            features.setdefault(ft.STEM, x)
            x = self._stage(index)(x, masks, train=train)
            x = self.norm(dtype=self.dtype, name=f'norm{index}')(x)
            features[ft.stage(index)] = x
        return {**features, ft.MAP: x, ft.POOLED: jnp.mean(x.astype(jnp.float32), axis=(1, 2))}


def _grids(size: tuple[int, int], patch: int, stages: int) -> list[ft.Grid]:
    """Returns the rows and columns of the map in each stage."""
    rows, columns = patch_grid(*size, patch)
    return [(-(-rows // 2**index), -(-columns // 2**index)) for index in range(stages)]


# Table 1 of the first paper, table 1 of the second; the widths are those of the code.
_LARGE = {'depths': (3, 8, 27, 3)}
_V2 = functools.partial(PVTv2, mlp=ConvMlp, memory=he_squares)
VARIANTS = {
    'pvt_v1_tiny': PVT(),
    'pvt_v1_small': PVT(depths=(3, 4, 6, 3)),
    'pvt_v1_medium': PVT(depths=(3, 4, 18, 3)),
    'pvt_v1_large': PVT(**_LARGE),
    'pvt_v2_b0': _V2((32, 64, 160, 256)),
    'pvt_v2_b1': _V2(),
    'pvt_v2_b2': _V2(depths=(3, 4, 6, 3)),
    'pvt_v2_b2_li': _V2(depths=(3, 4, 6, 3), memory=averages, mlp=functools.partial(ConvMlp, activation=nn.relu)),
    'pvt_v2_b3': _V2(depths=(3, 4, 18, 3)),
    'pvt_v2_b4': _V2(**_LARGE),
    'pvt_v2_b5': _V2(depths=(3, 6, 40, 3), ratios=(4, 4, 4, 4)),
    'pvt_v1_test': PVT((16, 32), (1, 2), (1, 2), (2, 2), (2, 1), image_size=16),
    'pvt_v2_test': _V2((16, 32), (2, 1), (1, 2), (2, 2), (2, 1)),
}

# Accuracies and parameters from the README of the repository, multiply-adds from the papers.
_V1_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2102.12122', (224, 224))
_V2_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2106.13797', (224, 224))
PUBLISHED = {
    'pvt_v1_tiny': _V1_PAPER(params=13.2, macs=1.9, top1=75.1),
    'pvt_v1_small': _V1_PAPER(params=24.5, macs=3.8, top1=79.8),
    'pvt_v1_medium': _V1_PAPER(params=44.2, macs=6.7, top1=81.2),
    'pvt_v1_large': _V1_PAPER(params=61.4, macs=9.8, top1=81.7),
    'pvt_v2_b0': _V2_PAPER(params=3.7, macs=0.6, top1=70.5),
    'pvt_v2_b1': _V2_PAPER(params=14.0, macs=2.1, top1=78.7),
    'pvt_v2_b2': _V2_PAPER(params=25.4, macs=4.0, top1=82.0),
    'pvt_v2_b2_li': _V2_PAPER(params=22.6, macs=3.9, top1=82.1),
    'pvt_v2_b3': _V2_PAPER(params=45.2, macs=6.9, top1=83.1),
    'pvt_v2_b4': _V2_PAPER(params=62.6, macs=10.1, top1=83.6),
    'pvt_v2_b5': _V2_PAPER(params=82.0, macs=11.8, top1=83.8),
}


def _tuple(values: Sequence | None) -> tuple | None:
    return None if values is None else tuple(values)


def _refit(backbone: PVT, path: str, table: np.ndarray) -> np.ndarray:
    grids = _grids(pair(backbone.image_size), backbone.patch, len(backbone.depths))
    index = next(index for index in range(len(grids)) if f'/embed{index}/' in path)
    last = index == len(grids) - 1
    return posemb.refit(table, grids[index], before=int(last), matrix=posemb.linear_matrix)


RESIZE = {'PVT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py. Stages count from 1 there, from 0 here.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_BLOCK = (
    *((f'norm1.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *(
        (f'attn.{there}.{a}', f'mixer/{here}/{b}')
        for a, b in _AFFINE
        for there, here in (('q', 'q'), ('kv', 'kv'), ('proj', 'out'), ('sr', 'memory/conv'))
    ),
    *((f'attn.norm.{a}', f'mixer/memory/norm/{b}') for a, b in _NORM),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _NORM),
    *(
        (f'mlp.{there}.{a}', f'mlp/{here}/{b}')
        for a, b in _AFFINE
        for there, here in (('fc1', 'up'), ('dwconv.dwconv', 'conv'), ('fc2', 'down'))
    ),
)
_BLOCKS = tuple(
    (f'block{s + 1}.{{i}}.{a}', f'backbone/stage{s}/block{{i:02d}}/{b}') for s in range(4) for a, b in _BLOCK
)
_HEAD = tuple((f'head.{a}', f'head/{b}') for a, b in _AFFINE)
# Version 2 as timm names it.
_TIMM_NAMES = (
    *((f'patch_embed.proj.{a}', f'backbone/embed0/{b}') for a, b in _AFFINE),
    *((f'patch_embed.norm.{a}', f'backbone/embed0/norm/{b}') for a, b in _NORM),
    *((f'stages.{s}.downsample.proj.{a}', f'backbone/embed{s}/{b}') for s in range(1, 4) for a, b in _AFFINE),
    *((f'stages.{s}.downsample.norm.{a}', f'backbone/embed{s}/norm/{b}') for s in range(1, 4) for a, b in _NORM),
    *(
        ('stages.{s}.blocks.{i}.' + a.replace('dwconv.dwconv', 'dwconv'), 'backbone/stage{s}/block{i:02d}/' + b)
        for a, b in _BLOCK
    ),
    *(('stages.{s}.norm.' + a, 'backbone/norm{s}/' + b) for a, b in _NORM),
)


def _transformers_block(attention: str, reduction: str, out: str) -> tuple[tuple[str, str], ...]:
    """Names of a block of Hugging Face's transformers, which differ between the versions in those of the attention."""
    return (
        *((f'layer_norm_1.{a}', f'mixer_norm/{b}') for a, b in _NORM),
        *((f'{attention}.{there}.{a}', f'mixer/kv/{b}:{n}') for a, b in _AFFINE for n, there in enumerate(_KEY_VALUE)),
        *((f'{attention}.layer_norm.{a}', f'mixer/memory/norm/{b}') for a, b in _NORM),
        *((f'layer_norm_2.{a}', f'mlp_norm/{b}') for a, b in _NORM),
        *(
            (f'{there}.{a}', f'{here}/{b}')
            for a, b in _AFFINE
            for there, here in (
                (f'{attention}.query', 'mixer/q'),
                (f'{attention}.{reduction}', 'mixer/memory/conv'),
                (out, 'mixer/out'),
                ('mlp.dense1', 'mlp/up'),
                ('mlp.dwconv.dwconv', 'mlp/conv'),
                ('mlp.dense2', 'mlp/down'),
            )
        ),
    )


_KEY_VALUE = ('key', 'value')
_HERE = 'backbone/stage{s}/block{i:02d}/'
_V1_BLOCK = _transformers_block('attention.self', 'sequence_reduction', 'attention.output.dense')
_EMBED, _LAYERS = 'encoder.patch_embeddings.{s}.', 'encoder.layers.{s}.'
_TRANSFORMERS_V1_NAMES = (
    *((f'{_EMBED}projection.{a}', f'backbone/embed{{s}}/patches/{b}') for a, b in _AFFINE),
    *((f'{_EMBED}layer_norm.{a}', f'backbone/embed{{s}}/norm/{b}') for a, b in _NORM),
    (f'{_EMBED}position_embeddings', 'backbone/embed{s}/pos_embed'),
    ('encoder.patch_embeddings.3.cls_token', 'backbone/cls_token'),
    *((f'encoder.block.{{s}}.{{i}}.{a}', _HERE + b) for a, b in _V1_BLOCK),
    *((f'encoder.layer_norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
)
_V2_BLOCK = _transformers_block('attention', 'spatial_reduction', 'attention.proj')
_TRANSFORMERS_V2_NAMES = (
    *((f'{_LAYERS}patch_embedding.proj.{a}', f'backbone/embed{{s}}/{b}') for a, b in _AFFINE),
    *((f'{_LAYERS}patch_embedding.layer_norm.{a}', f'backbone/embed{{s}}/norm/{b}') for a, b in _NORM),
    *((f'{_LAYERS}blocks.{{i}}.{a}', _HERE + b) for a, b in _V2_BLOCK),
    *((f'{_LAYERS}layer_norm.{a}', f'backbone/norm{{s}}/{b}') for a, b in _NORM),
    *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
)
NAMES = {
    'PVT': (
        *((f'pos_embed{s + 1}', f'backbone/embed{s}/pos_embed') for s in range(4)),
        ('cls_token', 'backbone/cls_token'),
        *((f'patch_embed{s + 1}.proj.{a}', f'backbone/embed{s}/patches/{b}') for s in range(4) for a, b in _AFFINE),
        *((f'patch_embed{s + 1}.norm.{a}', f'backbone/embed{s}/norm/{b}') for s in range(4) for a, b in _NORM),
        *_BLOCKS,
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *_HEAD,
        *_TRANSFORMERS_V1_NAMES,
    ),
    'PVTv2': (
        *((f'patch_embed{s + 1}.proj.{a}', f'backbone/embed{s}/{b}') for s in range(4) for a, b in _AFFINE),
        *((f'patch_embed{s + 1}.norm.{a}', f'backbone/embed{s}/norm/{b}') for s in range(4) for a, b in _NORM),
        *_BLOCKS,
        *((f'norm{s + 1}.{a}', f'backbone/norm{s}/{b}') for s in range(4) for a, b in _NORM),
        *_HEAD,
        *_TIMM_NAMES,
        *_TRANSFORMERS_V2_NAMES,
    ),
}
