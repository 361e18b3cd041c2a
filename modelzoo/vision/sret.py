"""SReT: each block of a transformer is used twice in a row, with attention between slices of the tokens.

Shen et al., 2021, "Sliced Recursive Transformer", https://arxiv.org/abs/2111.05297. Reference:
https://github.com/szq0214/SReT (MIT, with parts of PiT under Apache-2.0), commit af6db0a, SReT.py, whose parameter
names these are.

Weights are shared within a pair: a block runs twice, and after each time a small feed-forward layer of its own that is
not shared. Residuals and branches have learned scales, single numbers that start at 1. To pay for the second time,
tokens attend within slices only: contiguous ones the first time, of tokens in a random order the second time.

Details of the published code that are not in the paper, kept here:
  * the small feed-forward layers are never skipped by stochastic depth, and both uses of block i have block i's rate;
  * epsilon is 1e-6 in layer normalization; the classifier reads the normalized mean of the pixels.

Where we differ:
  * the reference draws the order of tokens anew in each pass, in evaluation as well, so its answers vary. Here it is
    drawn once for each number of tokens, from the seed `order`, or left as it is without one, as in its goldens;
  * where the slices do not divide the tokens there are fewer of them, and the table of positions is resized for images
    of another size; the reference takes images of one size only;
  * the biases of linear layers start at 0.
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
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add

_ONE = jax.nn.initializers.ones
_NORM = functools.partial(LayerNorm, 1e-6)


def sliced(
    mixer: Callable[[Array], Array], x: Float[Array, 'b n d'], groups: int, order: int | None = None
) -> Float[Array, 'b n d']:
    """Returns the tokens after a mixer that sees one slice of them at a time.

    Args:
        mixer: acts on each row of a batch by itself.
        x: the tokens.
        groups: number of slices; where it does not divide the tokens, the next smaller one that does.
        order: seed of the order in which tokens are cut into slices; None leaves it as it is.
    """
    count = x.shape[1]
    groups = next(number for number in range(min(groups, count), 0, -1) if count % number == 0)
    places = np.arange(count) if order is None else np.random.default_rng(order).permutation(count)
    shuffled = groups > 1 and order is not None
    x = x[:, places] if shuffled else x
    y = mixer(x.reshape(-1, count // groups, x.shape[-1])).reshape(x.shape)
    return y[:, np.argsort(places)] if shuffled else y


class Between(nn.Module):
    """``coefficient1 * x + coefficient2 * mlp(norm(x))``.

    Attributes:
        ratio: hidden width over width.
        dtype: compute type.
    """

    ratio: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Returns the next tokens."""
        keep, scale = (self.param(f'coefficient{k}', _ONE, (1,)).astype(self.dtype)[None, None] for k in (1, 2))
        y = _NORM(self.dtype, name='norm')(x)
        return keep * x + scale * _mlp(x.shape[-1], self.ratio, self.dtype)(name='mlp')(y)


def _mlp(width: int, ratio: float, dtype: DTypeLike) -> Callable[..., nn.Module]:
    hidden = init.uniform_fan_in(int(width * ratio))
    return functools.partial(Mlp, ratio, kernel_init=init.uniform_fan_in(width), out_init=hidden, dtype=dtype)


class Block(nn.Module):
    """Attention and a feed-forward layer, used once for each of `groups`, each time with a `Between` after it.

    Attributes:
        heads: number of heads; divides the width.
        groups: number of slices for attention each time.
        ratio, between_ratio: hidden width over width, of the shared feed-forward layer and of those between.
        order: of tokens, from the second time on; see `sliced`.
        dtype: compute type.
    """

    heads: int
    groups: Sequence[int] = (1, 1)
    ratio: float = 4.0
    between_ratio: float = 1.0
    order: int | None = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], masks: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape; `masks` has one for each branch each time, from `drop.path_masks`."""
        del train
        shape, width = x.shape, x.shape[-1]
        masks = [None] * (2 * len(self.groups)) if masks is None else masks
        norms = [_NORM(self.dtype, name=f'{branch}_norm') for branch in ('mixer', 'mlp')]
        mixer = Attention(self.heads, True, init.uniform_fan_in(width), self.dtype, name='mixer')
        mlp = _mlp(width, self.ratio, self.dtype)(name='mlp')
        scales = [self.param(f'coefficient{k}', _ONE, (1,)).astype(self.dtype)[None, None] for k in range(1, 5)]
        x = x.reshape(shape[0], -1, width)
        for use, groups in enumerate(self.groups):
            y = sliced(mixer, norms[0](x), groups, self.order if use else None)
            x = scales[0] * x + scales[1] * drop_path(y, masks[2 * use])
            x = scales[2] * x + scales[3] * drop_path(mlp(norms[1](x)), masks[2 * use + 1])
            x = Between(self.between_ratio, self.dtype, name=f'between{use}')(x)
        return x.reshape(shape)


class Stem(nn.Module):
    """Three 3x3 convolutions with normalization and ReLU; the first one has half of the channels.

    Attributes:
        features: output channels.
        stride: 8 as published, or 4, 2 or 1: then only the first convolutions have a stride.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 8
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        if self.stride not in (1, 2, 4, 8):
            raise ValueError(f'stem_stride is {self.stride}: use 8 as published, or 4, 2 or 1 for small images.')
        for index in range(3):
            features, step = self.features if index else self.features // 2, 2 if self.stride >> index > 1 else 1
            x = Conv(features, 3, step, 1, self.dtype, name=f'conv{index}')(x)
            x = nn.relu(self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train))
        return x


class SReT(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths, heads: channels, shared blocks and heads of each stage.
        groups: number of slices in each stage, each time that a block is used.
        ratio, between_ratio: hidden width over width, of shared feed-forward layers and of those between.
        order: of tokens in slices; see `sliced`.
        stem_stride: 8, or 4, 2 or 1 for small images.
        image_size: image size of the table of positions, a side or (height, width); for another it is resized.
        drop_path: stochastic depth; what block i of a stage with j uses of blocks before it has is drop_path times
            i + j over the number of all uses.
        norm: factory of the stem's normalizations.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (64, 128, 256)
    depths: Sequence[int] = (2, 5, 3)
    heads: Sequence[int] = (2, 4, 8)
    groups: Sequence[Sequence[int]] = ((8, 2), (4, 1), (1, 1))
    ratio: float = 3.6
    between_ratio: float = 1.0
    order: int | None = 0
    stem_stride: int = 8
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with positions, each shared block, the last norm; a convolution belongs to the block before it."""
        between = [f'down{index}' for index in range(len(self.depths) - 1)]
        return (('stem', 'pos_embed'), *map(tuple, trunk.stage_paths(self.depths, between)), ('norm',))

    @property
    def table(self) -> ft.Grid:
        """The rows and columns of the table of positions."""
        return tuple(-(-side // self.stem_stride) for side in pair(self.image_size))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``, the normalized mean of the pixels."""
        x = Stem(self.widths[0], self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        x = x + self._positions(x.shape[1:3]).astype(self.dtype)
        features = {ft.STEM: x}
        for index, masks in enumerate(self._masks(x.shape[0], train=train)):
            if index:
                conv = functools.partial(Conv, self.widths[index], 3, 2, 1, self.dtype, groups=x.shape[-1])
                x = conv(name=f'down{index - 1}')(x)
            x = self._stage(index)(x, masks, train=train)
            features[ft.stage(index)] = x
        norm = _NORM(self.dtype, name='norm')
        return {**features, ft.MAP: norm(x), ft.POOLED: norm(global_mean(x)).astype(jnp.float32)}

    def _positions(self, grid: ft.Grid) -> Float[Array, '1 h w d']:
        table = self.param('pos_embed', init.trunc_normal(0.02), (self.widths[0], *self.table))
        places = posemb.resize(table.reshape(self.widths[0], -1).T[None], self.table, grid)
        return places.reshape(1, *grid, -1)

    def _masks(self, batch: int, *, train: bool) -> list[Array | None]:
        """Returns the masks of the blocks of each stage, one for each branch each time it is used."""
        uses = [depth * len(groups) for depth, groups in zip(self.depths, self.groups, strict=True)]
        branches, count = 2 * max(map(len, self.groups)), sum(uses)
        masks = path_masks(self, self.drop_path * (count - 1) / count, count, batch, branches=branches, train=train)
        starts = np.cumsum([0, *uses])
        return [None if masks is None else masks[at : at + depth] for at, depth in zip(starts, self.depths)]

    def _stage(self, index: int) -> trunk.Stage:
        block = functools.partial(
            Block,
            self.heads[index],
            tuple(self.groups[index]),
            self.ratio,
            self.between_ratio,
            self.order,
            self.dtype,
        )
        return trunk.Stage(block, self.depths[index], Add, self.remat, self.scan, name=ft.stage(index))


_LT, _S = {'ratio': 4.0}, {'widths': (126, 252, 504), 'heads': (3, 6, 12), 'ratio': 3.0, 'between_ratio': 2.0}
_WHOLE = {'groups': ((1, 1), (1, 1), (1, 1))}
# Networks of one architecture have weights of their own: distilled ones learned from a teacher's labels alone.
VARIANTS = {
    'sret_t': SReT(),
    'sret_lt': SReT(**_LT),
    'sret_lt_16_14_1': SReT(**_LT, groups=((16, 1), (14, 1), (1, 1))),
    'sret_s': SReT(**_S),
    'sret_t_wo_slice': SReT(**_WHOLE),
    'sret_lt_wo_slice': SReT(**_LT, **_WHOLE),
    'sret_s_wo_slice': SReT(**_S, **_WHOLE),
    'sret_t_distill': SReT(),
    'sret_lt_distill': SReT(**_LT),
    'sret_t_wo_slice_distill': SReT(**_WHOLE),
    'sret_lt_wo_slice_distill': SReT(**_LT, **_WHOLE),
    'sret_t_wo_slice_distill_384': SReT(**_WHOLE, image_size=384),
    'sret_s_wo_slice_distill_384': SReT(**_S, **_WHOLE, image_size=384),
    'sret_s_wo_slice_distill_512': SReT(**_S, **_WHOLE, image_size=512),
    'sret_test': SReT((8, 16), (1, 1), (2, 2), ((4, 2), (1, 1)), stem_stride=2, image_size=16),
}

# The README's table.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2111.05297')
_AT_224 = functools.partial(_PAPER, (224, 224))
PUBLISHED = {
    'sret_t': _AT_224(params=4.8, macs=1.1, top1=76.0),
    'sret_lt': _AT_224(params=5.0, macs=1.2, top1=76.7),
    'sret_lt_16_14_1': _AT_224(params=5.0, macs=1.2, top1=76.6),
    'sret_s': _AT_224(params=20.9, macs=4.2, top1=81.9),
    'sret_t_wo_slice': _AT_224(params=4.8, macs=1.4, top1=76.1),
    'sret_lt_wo_slice': _AT_224(params=5.0, macs=1.4, top1=76.8),
    'sret_s_wo_slice': _AT_224(params=20.9, macs=4.7, top1=82.0),
    'sret_t_distill': _AT_224(params=4.8, macs=1.1, top1=77.6),
    'sret_lt_distill': _AT_224(params=5.0, macs=1.2, top1=77.7),
    'sret_t_wo_slice_distill': _AT_224(params=4.8, macs=1.4, top1=77.7),
    'sret_lt_wo_slice_distill': _AT_224(params=5.0, macs=1.4, top1=77.9),
    'sret_t_wo_slice_distill_384': _PAPER((384, 384), params=4.9, macs=6.4, top1=79.7),
    'sret_s_wo_slice_distill_384': _PAPER((384, 384), params=21.0, macs=18.5, top1=83.8),
    'sret_s_wo_slice_distill_512': _PAPER((512, 512), params=21.3, macs=42.8, top1=84.3),
}


def _refit(backbone: SReT, path: str, table: np.ndarray) -> np.ndarray:
    channels = table.shape[-3]
    return posemb.refit(table.reshape(channels, -1).T[None], backbone.table)[0].T.reshape(channels, *backbone.table)


RESIZE = {'SReT': _refit}

# Published names of a classifier's parameters and statistics, and ours; see weights.py. Files have a shared block at
# each place where it is used; what stands at the second one is passed over.
_SCALE = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_SCALE, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_MLP = tuple(
    (f'mlp.{there}.{a}', f'mlp/{here}/{b}') for there, here in (('fc1', 'up'), ('fc2', 'down')) for a, b in _AFFINE
)
_BLOCK = (
    *((f'norm1.{a}', f'mixer_norm/{b}') for a, b in _SCALE),
    *(
        (f'attn.{there}.{a}', f'mixer/{here}/{b}')
        for there, here in (('qkv', 'qkv'), ('proj', 'out'))
        for a, b in _AFFINE
    ),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _SCALE),
    *_MLP,
    *((f'coefficient{k}.bias', f'coefficient{k}') for k in range(1, 5)),
)
_BETWEEN = (
    *((f'norm1.{a}', f'norm/{b}') for a, b in _SCALE),
    *_MLP,
    *((f'coefficient{k}.bias', f'coefficient{k}') for k in (1, 2)),
)


def _stage_names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        pair
        for block in range(5)
        for pair in (
            *((f'{there}blocks.{4 * block}.{a}', f'{here}block{block:02d}/{b}') for a, b in _BLOCK),
            *((f'{there}blocks.{4 * block + 2}.{a}', '') for a, _ in _BLOCK),
            *(
                (f'{there}blocks.{4 * block + 1 + 2 * use}.{a}', f'{here}block{block:02d}/between{use}/{b}')
                for use in range(2)
                for a, b in _BETWEEN
            ),
        )
    )


NAMES = {
    'SReT': (
        ('pos_embed', 'backbone/pos_embed'),
        *((f'patch_embed.conv{k + 1}.{a}', f'backbone/stem/conv{k}/{b}') for k in range(3) for a, b in _AFFINE),
        *((f'patch_embed.bn{k + 1}.{a}', f'backbone/stem/norm{k}/{b}') for k in range(3) for a, b in _BATCH),
        *_stage_names('transformers.{s}.', 'backbone/stage{s}/'),
        *((f'pools.{{s}}.conv.{a}', f'backbone/down{{s}}/{b}') for a, b in _AFFINE),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _SCALE),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
# Of a stage alone.
STAGE_NAMES = _stage_names('', '')
