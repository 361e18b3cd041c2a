"""VCMamba: convolutional stages, and a few last blocks that scan the map in four directions.

Munir et al., 2025, "VCMamba: Bridging Convolutions with Multi-Directional Mamba for Efficient Visual Representation",
https://arxiv.org/abs/2509.04669. Reference: https://github.com/Wertyuui345/VCMamba (no licence stated), commit f8795a0,
model/mambacnn.py and model/plain_mamba_layer.py; read for facts, no code was taken.

Details of the published code that are not in the paper, kept here because the published weights need them:
  * only the input of the scan is permuted for a direction; step sizes, B and C keep the row-major order in all four;
  * the bias of the step sizes is added twice, once by their matrix and once by the scan;
  * there is no gate; the four outputs, each with its skip, are summed, normalized, and pass a ReLU;
  * step sizes are initialized normally with zero biases, not as in Mamba;
  * logits are the mean of two linear heads; in training the second one learns from a teacher (`HEADS`).
We differ in three ways: for other image sizes the position table is resized, which the reference refuses; biases before
a batch normalization, which cancels them, are initially 0; and logits are the mean in training too.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.kernels.selective_scan import selective_scan
from longview.modelzoo import features as ft
from longview.modelzoo.heads import TwoHeads
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import in_turn
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.mixers import mamba
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale

_NORMAL = init.trunc_normal(0.02)
_ZEROS = jax.nn.initializers.zeros
_LECUN = jax.nn.initializers.lecun_normal()
# (rows, columns) from one token of a scan to the next -> row of the table of directions; row 0 is for the first token.
_MOVES = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}


def snakes(rows: int, columns: int) -> tuple[Int[np.ndarray, '4 n'], Int[np.ndarray, '4 n']]:
    """Returns four orders of the pixels of a map, and the index of the move by which each pixel is reached.

    The orders are boustrophedon: row by row from the top left, every other row reversed; the reverse of that; the same
    by columns; the reverse of that.
    """
    places = np.arange(rows * columns).reshape(rows, columns)
    by_rows, by_columns = (np.where(np.arange(len(x))[:, None] % 2, x[:, ::-1], x).ravel() for x in (places, places.T))
    orders = np.stack([by_rows, by_rows[::-1], by_columns, by_columns[::-1]])
    down, right = (np.diff(part, axis=1) for part in np.divmod(orders, columns))
    moves = [[0, *(_MOVES[step] for step in zip(*pair))] for pair in zip(down.tolist(), right.tolist())]
    return orders, np.array(moves)


class FourScans(nn.Module):
    """The mixer: 1x1 and 7x7 depthwise convolution, the selective scan in four directions, 1x1 convolution.

    Attributes:
        states: number of states per channel of the scan.
        norm: factory of the normalization after each 1x1 convolution.
        dtype: compute type; the scan is float32 inside.
    """

    states: int = 16
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map."""
        width = x.shape[-1]
        norm = functools.partial(self.norm, dtype=self.dtype)
        x = norm(name='up_norm')(_point(2 * width, width, self.dtype, 'up')(x), train=train)
        x = nn.silu(DepthwiseConv(7, dtype=self.dtype, use_bias=True, name='conv')(x))
        y = LayerNorm(dtype=self.dtype, name='norm')(self._scan(x))
        y = _point(width, 2 * width, self.dtype, 'down')(nn.relu(y))
        return norm(name='down_norm')(y, train=train)

    def _scan(self, x: Float[Array, 'b h w e']) -> Float[Array, 'b h w e']:
        """Returns the sum over the four directions, which are scanned as one batch."""
        batch, rows, columns, inner = x.shape
        orders, moves = snakes(rows, columns)
        u = x.reshape(batch, -1, inner)
        rank = -(-inner // 32)
        low, B, C = jnp.split(
            Dense(rank + 2 * self.states, False, _NORMAL, self.dtype, name='select')(u),
            (rank, rank + self.states),
            axis=-1,
        )
        delta, bias = mamba.StepSizes(inner, _NORMAL, _ZEROS, name='step')(low)
        moved = self.param('direction', _NORMAL, (len(_MOVES) + 1, self.states))[moves]
        B = (B[None] + moved.astype(B.dtype)[:, None]).reshape(-1, *B.shape[1:])
        A, D = mamba.rates(self, inner, self.states)
        scanned = u[:, orders].swapaxes(0, 1).reshape(-1, *u.shape[1:])
        four = lambda array: jnp.concatenate([array] * 4)
        y, _ = selective_scan(scanned, four(delta), A, B, four(C), D, delta_bias=2 * bias, softplus=True)
        y = y.reshape(4, batch, -1, inner)
        places = np.argsort(orders, axis=1)
        return sum(y[n][:, places[n]] for n in range(4)).reshape(x.shape)


def _point(features: int, channels: int, dtype: DTypeLike, name: str) -> Dense:
    return Dense(features, True, init.uniform_fan_in(channels), dtype, name=name)


class ConvMlp(nn.Module):
    """``down(act(conv(act(up(x)))))`` with a 3x3 depthwise convolution; a batch normalization follows each layer.

    Attributes:
        ratio: hidden width over width.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    ratio: float = 4.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        norm = functools.partial(self.norm, dtype=self.dtype)
        y = Dense(int(x.shape[-1] * self.ratio), True, _NORMAL, self.dtype, name='up')(x)
        y = gelu(norm(name='up_norm')(y, train=train))
        y = DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='conv')(y)
        y = gelu(norm(name='conv_norm')(y, train=train))
        y = Dense(x.shape[-1], True, _NORMAL, self.dtype, name='down')(y)
        return norm(name='down_norm')(y, train=train)


class ConvBlock(nn.Module):
    """``x + scale * mlp(x)``.

    Attributes:
        mlp: factory of the branch.
    """

    mlp: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], mask: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the next map; of `mask`, this block's part of `drop.path_masks`, only the second branch is used."""
        y = drop_path(self.mlp(name='mlp')(x, train=train), None if mask is None else mask[1])
        return LayerScale(1e-5, name='residual').write(x, y)


class ScanBlock(nn.Module):
    """``x += mixer(norm(x))``, then ``x += mlp(norm(x))``.

    Attributes:
        norm, mixer, mlp: factories of the parts.
    """

    norm: Callable[..., nn.Module]
    mixer: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], mask: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        y = self.mixer(name='mixer')(self.norm(name='mixer_norm')(x, train=train), train=train)
        x = x + drop_path(y, mixer_mask)
        y = self.mlp(name='mlp')(self.norm(name='mlp_norm')(x, train=train), train=train)
        return x + drop_path(y, mlp_mask)


class Positions(nn.Module):
    """Adds a learned position table, stored with channels first.

    Attributes:
        grid: rows and columns of the table; for maps of any other size it is resized.
    """

    grid: ft.Grid

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        table = self.param('pos_embed', _NORMAL, (1, x.shape[-1], *self.grid))
        flat = posemb.resize(table.reshape(1, x.shape[-1], -1).swapaxes(1, 2), self.grid, x.shape[1:3])
        return x + flat.reshape(1, *x.shape[1:]).astype(x.dtype)


class Stem(nn.Module):
    """Two 3x3 convolutions, each with batch normalization and ReLU.

    Attributes:
        features: output channels; the first convolution has half as many.
        stride: total stride: 4, 2 or 1.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: the stride is not 4, 2 or 1.
        """
        if self.stride not in (1, 2, 4):
            raise ValueError(f'stem_stride is {self.stride}: use 4 as published, or 2 or 1 for small images.')
        for index, (features, stride) in enumerate(
            ((self.features // 2, min(self.stride, 2)), (self.features, max(self.stride // 2, 1)))
        ):
            conv = Conv(features, 3, stride, 1, self.dtype, kernel_init=_LECUN, name=f'conv{index}')
            x = nn.relu(self.norm(dtype=self.dtype, name=f'norm{index}')(conv(x), train=train))
        return x


class Stage(nn.Module):
    """The blocks of one resolution.

    Attributes:
        features: channels.
        shrinks: whether a convolution halves the resolution first.
        convs, scans: factories of the convolutional blocks, which come first, and of the scanning blocks.
        positions: factory of the position table that is added before the scanning blocks; None without these.
        norm: factory of the normalization after the convolution.
        dtype: compute type.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    features: int
    shrinks: bool
    convs: Sequence[Callable[..., nn.Module]]
    scans: Sequence[Callable[..., nn.Module]]
    positions: nn.Module | None
    norm: Callable[..., nn.Module]
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the map after the stage; `masks` are those of its blocks."""
        if self.shrinks:
            x = Conv(self.features, 3, 2, 1, self.dtype, name='down')(x)
            x = self.norm(dtype=self.dtype, name='down_norm')(x, train=train)
        first, depth = len(self.convs), len(self.convs) + len(self.scans)
        blocks = [block(name=name) for block, name in zip((*self.convs, *self.scans), trunk.names(depth))]
        before, after = (None, None) if masks is None else (masks[:first], masks[first:])
        x = in_turn(blocks[:first], x, before, train=train, remat=self.remat)
        x = x if self.positions is None else self.positions(x)
        return in_turn(blocks[first:], x, after, train=train, remat=self.remat)


class VCMamba(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths: channels and blocks of each stage.
        scans: number of scanning blocks at the end of the last stage; all other blocks are convolutional.
        stem_stride: stride of the stem; 2 or 1 for small images.
        image_size: image size of the position table, a side or (height, width). For images of any other size the table
            is resized.
        positions: whether there is that table, before the scanning blocks.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    widths: Sequence[int] = (32, 64, 144, 288)
    depths: Sequence[int] = (4, 4, 12, 8)
    scans: int = 4
    stem_stride: int = 4
    image_size: int | tuple[int, int] = 224
    positions: bool = True
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    mixer: Callable[..., nn.Module] = FourScans
    mlp: Callable[..., nn.Module] = ConvMlp
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; downsampling and positions belong to the block after them."""
        blocks = [[f'stage{index}/{name}'] for index, depth in enumerate(self.depths) for name in trunk.names(depth)]
        for index in range(1, len(self.depths)):
            blocks[sum(self.depths[:index])] += [f'stage{index}/down', f'stage{index}/down_norm']
        if self.scans and self.positions:
            blocks[-self.scans].append('positions')
        return (('stem',), *map(tuple, blocks), ('norm',))

    @property
    def table(self) -> ft.Grid:
        """The rows and columns of the position table."""
        return tuple(-(-side // self.strides[-1]) for side in pair(self.image_size))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        x = Stem(self.widths[0], self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            x = features[ft.stage(index)] = self._stage(index)(x, stage_masks, train=train)
        x = LayerNorm(dtype=self.dtype, name='norm')(x)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stage(self, index: int) -> Stage:
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        scans = self.scans if index + 1 == len(self.depths) else 0
        convs = [functools.partial(ConvBlock, parts['mlp'])] * (self.depths[index] - scans)
        positions = Positions(self.table, name='positions') if scans and self.positions else None
        return Stage(
            self.widths[index],
            index > 0,
            convs,
            [functools.partial(ScanBlock, **parts)] * scans,
            positions,
            self.norm,
            self.dtype,
            self.remat,
            name=ft.stage(index),
        )


# Table 1 of the paper, and the README; the names are the paper's: S, M and B.
VARIANTS = {
    'vcmamba_s': VCMamba(),
    'vcmamba_m': VCMamba((48, 96, 224, 448), (4, 4, 12, 6)),
    'vcmamba_b': VCMamba((64, 128, 320, 512), (4, 4, 12, 6)),
    'vcmamba_test': VCMamba((8, 32), (1, 1), 1, image_size=16),
}

# The head of the published classifiers.
HEADS = {'VCMamba': TwoHeads}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2509.04669', (224, 224))
PUBLISHED = {
    'vcmamba_s': _PAPER(params=10.5, macs=1.1, top1=78.7),
    'vcmamba_m': _PAPER(params=21.0, macs=2.3, top1=81.5),
    'vcmamba_b': _PAPER(params=31.5, macs=4.0, top1=82.6),
}


def _refit(backbone: VCMamba, path: str, table: np.ndarray) -> np.ndarray:
    flat = table.reshape(1, table.shape[1], -1).swapaxes(1, 2)
    return posemb.refit(flat, backbone.table).swapaxes(1, 2).reshape(1, -1, *backbone.table)


RESIZE = {'VCMamba': _refit}

# Published names of a classifier's parameters, and ours; see weights.py. 1x1 convolutions are matrices here.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_POINT = (('weight', 'kernel', 2), ('bias', 'bias'))
_MIXER = (
    ('A_log', 'A_log'),
    ('D', 'D'),
    ('direction_Bs', 'direction'),
    ('x_proj.weight', 'select/kernel'),
    *(
        (f'{there}.{a}', f'{here}/{b}', *axes)
        for pairs, there, here in (
            (_POINT, 'in_conv.0', 'up'),
            (_BATCH, 'in_conv.1', 'up_norm'),
            (_AFFINE, 'conv2d', 'conv'),
            (_AFFINE, 'dt_proj', 'step'),
            (_NORM, 'norm', 'norm'),
            (_POINT, 'out_conv.1', 'down'),
            (_BATCH, 'out_conv.2', 'down_norm'),
        )
        for a, b, *axes in pairs
    ),
)
_BLOCK = (
    ('layer_scale_2', 'residual/scale', 2),
    *(
        (f'mlp.{there}.{a}', f'mlp/{here}/{b}', *axes)
        for pairs, there, here in (
            (_POINT, 'fc1', 'up'),
            (_BATCH, 'norm1', 'up_norm'),
            (_AFFINE, 'mid', 'conv'),
            (_BATCH, 'mid_norm', 'conv_norm'),
            (_POINT, 'fc2', 'down'),
            (_BATCH, 'norm2', 'down_norm'),
        )
        for a, b, *axes in pairs
    ),
    *((f'norm.{a}', f'mixer_norm/{b}') for a, b in _BATCH),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _BATCH),
    *((f'mamba.{there}', f'mixer/{here}', *axes) for there, here, *axes in _MIXER),
)
NAMES = {
    'VCMamba': (
        *(
            (f'patch_embed.{place}.{a}', f'backbone/stem/{here}/{b}')
            for pairs, place, here in (
                (_AFFINE, 0, 'conv0'),
                (_BATCH, 1, 'norm0'),
                (_AFFINE, 3, 'conv1'),
                (_BATCH, 4, 'norm1'),
            )
            for a, b in pairs
        ),
        *(
            (f'network.{2 * s}.{{i}}.{there}', f'backbone/stage{s}/block{{i:02d}}/{here}', *axes)
            for s in range(4)
            for there, here, *axes in _BLOCK
        ),
        *((f'network.{2 * s - 1}.proj.{a}', f'backbone/stage{s}/down/{b}') for s in range(1, 4) for a, b in _AFFINE),
        *(
            (f'network.{2 * s - 1}.norm.{a}', f'backbone/stage{s}/down_norm/{b}')
            for s in range(1, 4)
            for a, b in _BATCH
        ),
        ('pos_embed', 'backbone/positions/pos_embed'),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/labels/{b}') for a, b in _AFFINE),
        *((f'dist_head.{a}', f'head/teacher/{b}') for a, b in _AFFINE),
    ),
}
