"""PiT: a vision transformer in three resolutions, with a depthwise convolution that pools between them.

Heo et al., 2021, "Rethinking Spatial Dimensions of Vision Transformers", https://arxiv.org/abs/2103.16302. Reference:
https://github.com/naver-ai/pit (Apache-2.0), pit.py; timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0) has the same network, and `NAMES` are its names first.

Patches overlap: a convolution of 16x16 pixels at stride 8 without padding, 27x27 tokens of 224x224 pixels, to which a
table of positions is added as an image. Between stages a 3x3 convolution of stride 2, two kernels a channel, doubles
the channels of the map, and a matrix does it for the class token. LayerNorm's epsilon is 1e-6, GELU is the exact one,
and the last norm acts on the class token (here on the map, too). `DistilledPiT` has a second token, as DeiT has, which
a second head reads (heads/two.py). For images of another size the table is resized without antialiasing, as in the
code.

``*_max`` are those of Han et al., 2022, "Learning Features with Parameter-Free Layers", https://arxiv.org/abs/2202.02777,
https://github.com/naver-ai/PfLayer (Apache-2.0), pit_pf.py: there every second block of a stage takes maxima of 3x3
tokens (`MaxMixer`) in place of attention, there is no class token, and the vector is the mean of the normalized tokens.

A head has the initial values of modelzoo/heads; where we differ is that alone.
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
from longview.modelzoo.heads import TwoHeads
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.convolutions.conv import Conv, out_size
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm, in_turn
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.mixers.max_mixer import MaxMixer
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, along


def attention(grid: ft.Grid, heads: int, width: int, dtype: DTypeLike, **fields: Any) -> Attention:
    """Returns the mixer of all tokens, with torch's initial values."""
    del grid
    return Attention(heads, kernel_init=init.uniform_fan_in(width), dtype=dtype, **fields)


def maxima(grid: ft.Grid, heads: int, width: int, dtype: DTypeLike, **fields: Any) -> MaxMixer:
    """Returns the mixer of a map by maxima."""
    del heads, width
    return MaxMixer(grid, dtype=dtype, **fields)


def _dense(x: Array, features: int, dtype: DTypeLike, name: str) -> Dense:
    return Dense(features, True, init.uniform_fan_in(x.shape[-1]), dtype, name=name)


class Stage(nn.Module):
    """The blocks of one resolution, and before them the pooling of another.

    Attributes:
        width, depth, heads: of the blocks.
        pools: whether to halve the resolution first.
        norm, mlp, residual: factories of a block's parts.
        mixers: functions of (grid, heads, width, dtype) that return the mixers of the blocks in turn.
        dtype: compute type.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    width: int
    depth: int
    heads: int
    pools: bool
    norm: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    residual: Callable[..., nn.Module]
    mixers: Sequence[Callable[..., nn.Module]]
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        tokens: Float[Array, 'b t c'] | None,
        masks: Float[Array, 'l r b'] | None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, 'b h2 w2 d'], Float[Array, 'b t d'] | None]:
        """Returns the map and the learned tokens after the stage; `masks` are those of its blocks."""
        if self.pools:
            x = Conv(self.width, 3, 2, 1, self.dtype, groups=x.shape[-1], name='pool')(x)
            tokens = None if tokens is None else _dense(tokens, self.width, self.dtype, 'token_pool')(tokens)
        learned, grid = 0 if tokens is None else tokens.shape[1], x.shape[1:3]
        s = x.reshape(x.shape[0], -1, self.width)
        s = s if tokens is None else jnp.concatenate([tokens, s], axis=1)
        join = self.residual(name='join')
        s = join.close(in_turn(self._blocks(grid), join.open(s), masks, train=train, remat=self.remat))
        return s[:, learned:].reshape(x.shape), s[:, :learned] if learned else None

    def _blocks(self, grid: ft.Grid) -> list[PreNorm]:
        torch_s = init.uniform_fan_in
        mlp = functools.partial(self.mlp, kernel_init=torch_s(self.width), dtype=self.dtype)
        mixer = lambda index: functools.partial(
            self.mixers[index % len(self.mixers)], grid, self.heads, self.width, self.dtype
        )
        return [
            PreNorm(functools.partial(self.norm, dtype=self.dtype), mixer(index), mlp, residual, name=name)
            for index, (name, residual) in enumerate(zip(trunk.names(self.depth), along(self.residual, self.depth)))
        ]


class PiT(ft.Backbone):
    """The network; no pyramid, for without padding its sizes are not those of strides.

    Attributes:
        head_width: channels of each head in all stages.
        depths, heads: blocks, and heads of a block, of each stage.
        stem_size, stem_stride: side of a patch and distance between patches, in pixels.
        image_size: image size of the position table, a side or (height, width). For images of any other size the table
            is resized.
        tokens: number of learned tokens, of which the first is the vector; 0 for the mean of the map as the vector.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of a block's parts.
        mixers: functions of (grid, heads, width, dtype) that return the mixers of a stage's blocks in turn.
        dtype: compute type; parameters are float32.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    head_width: int = 48
    depths: Sequence[int] = (2, 6, 4)
    heads: Sequence[int] = (3, 6, 12)
    stem_size: int = 16
    stem_stride: int = 8
    image_size: int | tuple[int, int] = 224
    tokens: int = 1
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    mixers: Sequence[Callable[..., nn.Module]] = (attention,)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.head_width * heads for heads in self.heads)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with positions and learned tokens, each block, the last norm; pooling belongs to the block after."""
        blocks = [[f'stage{stage}/{name}'] for stage, depth in enumerate(self.depths) for name in trunk.names(depth)]
        for stage in range(1, len(self.depths)):
            blocks[sum(self.depths[:stage])] += [f'stage{stage}/pool', f'stage{stage}/token_pool']
        return (('stem', 'pos_embed', _name(self.tokens)), *map(tuple, blocks), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``; of two learned tokens ``distilled``.

        Raises:
            ValueError: the image is smaller than a patch.
        """
        grid, width = self.grid(*x.shape[1:3]), self.channels[0]
        stem = Conv(width, self.stem_size, self.stem_stride, dtype=self.dtype, name='stem')(x)
        x, tokens = stem + self._positions(grid), self._learned(x.shape[0])
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: stem}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            x, tokens = self._stage(index)(x, tokens, stage_masks, train=train)
            features[ft.stage(index)] = x
        norm = self.norm(dtype=self.dtype, name='norm')
        last = norm(x)
        if tokens is None:
            vectors = {ft.POOLED: jnp.mean(last.astype(jnp.float32), axis=(1, 2))}
        else:
            read = norm(tokens).astype(jnp.float32)
            vectors = {key: read[:, index] for index, key in enumerate((ft.POOLED, ft.DISTILLED)[: self.tokens])}
        return {**features, ft.MAP: last, **vectors}

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of patches; ValueError for an image smaller than one."""
        if min(height, width) < self.stem_size:
            raise ValueError(
                f'image {height}x{width} is smaller than a patch of {self.stem_size}x{self.stem_size}: take larger '
                'images, or change stem_size and stem_stride.'
            )
        rows, columns = (out_size(side, self.stem_size, self.stem_stride, 0) for side in (height, width))
        return rows, columns

    def _positions(self, grid: ft.Grid) -> Float[Array, '1 h w d']:
        made_for, width = self.grid(*pair(self.image_size)), self.channels[0]
        table = self.param('pos_embed', init.trunc_normal(0.02), (1, width, *made_for))
        flat = table.reshape(1, width, -1).swapaxes(1, 2)
        return posemb.resize(flat, made_for, grid).astype(self.dtype).reshape(1, *grid, width)

    def _learned(self, batch: int) -> Float[Array, 'b t d'] | None:
        if not self.tokens:
            return None
        tokens = self.param(_name(self.tokens), init.trunc_normal(0.02), (1, self.tokens, self.channels[0]))
        return jnp.broadcast_to(tokens, (batch, *tokens.shape[1:])).astype(self.dtype)

    def _stage(self, index: int) -> Stage:
        return Stage(
            self.channels[index],
            self.depths[index],
            self.heads[index],
            index > 0,
            self.norm,
            self.mlp,
            self.residual,
            self.mixers,
            self.dtype,
            self.remat,
            name=ft.stage(index),
        )


class DistilledPiT(PiT):
    """The same network; published weights have two heads (`HEADS`), the second for the second token."""


def _name(tokens: int) -> str:
    """Returns the parameter of the learned tokens: several are a matrix, which has a name of its own."""
    return 'cls_token' if tokens < 2 else 'token_table'


# Table 1 of the paper; the names are timm's, and those of PfLayer.
_SIZES = {
    'ti': {'head_width': 32, 'heads': (2, 4, 8)},
    'xs': {'head_width': 48, 'heads': (2, 4, 8)},
    's': {},
    'b': {'head_width': 64, 'depths': (3, 6, 4), 'heads': (4, 8, 16), 'stem_size': 14, 'stem_stride': 7},
}
_TINY = {'head_width': 8, 'depths': (1, 2), 'heads': (1, 2), 'stem_size': 4, 'stem_stride': 4, 'image_size': 16}
VARIANTS = {
    **{f'pit_{size}_224': PiT(**fields) for size, fields in _SIZES.items()},
    **{f'pit_{size}_distilled_224': DistilledPiT(tokens=2, **fields) for size, fields in _SIZES.items()},
    **{f'pit_{size}_max': PiT(tokens=0, mixers=(attention, maxima), **_SIZES[size]) for size in ('ti', 's', 'b')},
    'pit_test': PiT(**_TINY),
}

# The head of the published classifiers.
HEADS = {'DistilledPiT': TwoHeads}

# Tables of the README of both repositories; parameters and multiply-adds of the distilled are those of the others.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2103.16302', (224, 224))
_MAX = functools.partial(ft.Published, 'https://arxiv.org/abs/2202.02777', (224, 224))
PUBLISHED = {
    'pit_ti_224': _PAPER(params=4.9, macs=0.71, top1=73.0),
    'pit_xs_224': _PAPER(params=10.6, macs=1.4, top1=78.1),
    'pit_s_224': _PAPER(params=23.5, macs=2.9, top1=80.9),
    'pit_b_224': _PAPER(params=73.8, macs=12.5, top1=82.0),
    'pit_ti_distilled_224': _PAPER(top1=74.6),
    'pit_xs_distilled_224': _PAPER(top1=79.1),
    'pit_s_distilled_224': _PAPER(top1=81.9),
    'pit_b_distilled_224': _PAPER(top1=84.0),
    'pit_s_max': _MAX(top1=80.8),
}


def _refit(backbone: PiT, path: str, table: np.ndarray) -> np.ndarray:
    grid = backbone.grid(*pair(backbone.image_size))
    flat = table.reshape(1, table.shape[1], -1).swapaxes(1, 2)
    return posemb.refit(flat, grid).swapaxes(1, 2).reshape(1, -1, *grid)


RESIZE = {'PiT': _refit, 'DistilledPiT': _refit}

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
_BODY = (
    ('pos_embed', 'backbone/pos_embed'),
    *((f'patch_embed.conv.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
    *(
        (f'transformers.{{s}}.blocks.{{i}}.{there}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{here}/{b}')
        for pairs, there, here in _PARTS
        for a, b in pairs
    ),
    # timm's, and the authors', who count from the stage before.
    *(
        (f'{stage}.{there}.{a}', f'backbone/stage{number}/{here}/{b}')
        for stage, number in (('transformers.{s}.pool', '{s}'), ('pools.{s}', '{s+1}'))
        for there, here in (('conv', 'pool'), ('fc', 'token_pool'))
        for a, b in _AFFINE
    ),
    *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
)
NAMES = {
    'PiT': (*_BODY, ('cls_token', 'backbone/cls_token'), *((f'head.{a}', f'head/{b}') for a, b in _AFFINE)),
    'DistilledPiT': (
        *_BODY,
        ('cls_token', 'backbone/token_table'),
        *((f'head.{a}', f'head/labels/{b}') for a, b in _AFFINE),
        *((f'head_dist.{a}', f'head/teacher/{b}') for a, b in _AFFINE),
    ),
}
