"""LSNet: small kernels whose taps depend on what a large kernel sees around each pixel.

Wang et al., 2025, "LSNet: See Large, Focus Small", https://arxiv.org/abs/2503.23135.
Reference: https://github.com/jameslahm/lsnet (no licence), commit cbe737c, whose parameter names these are.

A block mixes pixels and then channels. Mixers take turns: a 3x3 kernel per channel in three branches, then the
large-small convolution or, in the last stage, attention. `LargeSmall` (layers/convolutions/large_small.py) sees large:
a 7x7 kernel per channel and 1x1 convolutions give each pixel D / 8 kernels of nine taps. It focuses small: `aggregate`
weighs the 3x3 pixels around by them, with one kernel for eight of the D channels.

Details of the published code that are not in the paper, kept here:
  * only blocks with three branches have squeeze-and-excitation;
  * the head's batch normalization comes before its matrix, and where the network was distilled two such heads are
    averaged. Both normalize the same vectors, so their statistics are one here, and are saved under the first's name;
  * attention has a bias for each distance along rows and columns. Its table is resized bicubically for maps of another
    size, in the network and when weights are loaded, as the authors' code for detection does when it loads them.

Where we differ: stochastic depth, which the published networks do not use, skips both branches of a block. The merging
of branches for inference is not built.
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
from longview.modelzoo.heads.normed import NormedLinear
from longview.modelzoo.layers.attention import attention, posemb
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.large_small import DepthNorm, LargeSmall, PointNorm
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import init, pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_ZERO = jax.nn.initializers.zeros


class ThreeBranches(nn.Module):
    """``x + norm(conv(x)) + norm(scale * x)`` with a 3x3 kernel per channel.

    Attributes:
        norm: factory of the normalizations.
        dtype: compute type.
    """

    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        scale = self.param('scale', init.uniform_fan_in(1), (x.shape[-1],)).astype(self.dtype)
        point = self.norm(dtype=self.dtype, name='point_norm')(x * scale[None, None, None], train=train)
        y = DepthNorm(norm=self.norm, dtype=self.dtype, name='local')(x, train=train) + point
        return x + drop_path(y, mask)


class Attention(nn.Module):
    """``x + norm(out(relu(softmax(q k^T / sqrt(K) + bias) v)))``; queries have a 3x3 kernel per channel.

    Attributes:
        table: rows and columns of the map that the table of biases is for.
        heads: number of heads; divides the width.
        key: channels of a head's queries and keys.
        norm: factory of the batch normalizations.
        dtype: compute type; logits and softmax are float32.
    """

    table: ft.Grid
    heads: int = 4
    key: int = 16
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`.

        Raises:
            ValueError: the heads do not divide the width.
        """
        width, keys = x.shape[-1], self.heads * self.key
        point = functools.partial(PointNorm, dtype=self.dtype)
        qkv = point(2 * keys + width, self.norm, name='qkv')(x, train=train)
        q, k, v = jnp.split(qkv, (keys, 2 * keys), axis=-1)
        q = DepthNorm(norm=self.norm, dtype=self.dtype, name='query')(q, train=train)
        q, k, v = (
            attention.split_heads(part.reshape(x.shape[0], -1, part.shape[-1]), self.heads) for part in (q, k, v)
        )
        table = self.param('pos_embed', _ZERO, (self.heads, self.table[0] * self.table[1]))
        bias = distance_bias(table, self.table, x.shape[1:3])
        y = attention.merge_heads(attention.attend(q, k, v, bias=bias)).reshape(x.shape)
        from_zero = functools.partial(self.norm, scale_init=_ZERO)
        return x + drop_path(point(width, from_zero, name='out')(nn.relu(y), train=train), mask)


def distance_bias(table: Float[Array, 'h m'], source: ft.Grid, grid: ft.Grid) -> Float[Array, '1 h n n']:
    """Returns the biases between all pixels of a map, by their distances along rows and columns.

    Args:
        table: for each head one for each distance on a map of `source` rows and columns, row by row.
        source: rows and columns of the map that the table is for.
        grid: those of the map at hand; for another the table is resized.
    """
    distances = posemb.resize(table.T[None], source, grid)
    places = np.indices(grid).reshape(2, -1)
    down, right = abs(places[:, :, None] - places[:, None])
    return distances[0, down * grid[1] + right].transpose(2, 0, 1)[None]


class Block(nn.Module):
    """A mixer, perhaps squeeze-and-excitation, and ``x + norm(down(relu(norm(up(x)))))`` on each pixel.

    Attributes:
        mixer: factory of what mixes pixels.
        squeeze: factory of squeeze-and-excitation; None for none.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    mixer: Callable[..., nn.Module]
    squeeze: Callable[..., nn.Module] | None = None
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        x = self.mixer(norm=self.norm, dtype=self.dtype, name='mixer')(x, mask, train=train)
        if self.squeeze is not None:
            x = self.squeeze(dtype=self.dtype, name='squeeze')(x)
        width, from_zero = x.shape[-1], functools.partial(self.norm, scale_init=_ZERO)
        y = nn.relu(PointNorm(2 * width, self.norm, self.dtype, name='up')(x, train=train))
        return x + drop_path(PointNorm(width, from_zero, self.dtype, name='down')(y, train=train), mask)


class Stem(nn.Module):
    """Three 3x3 convolutions with norms, and ReLU between them.

    Attributes:
        features: output channels; the convolutions before have a quarter and a half of them.
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
            features, step = self.features >> (2 - index), 2 if self.stride >> index > 1 else 1
            x = Conv(features, 3, step, 1, self.dtype, use_bias=False, name=f'conv{index}')(nn.relu(x) if index else x)
            x = self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train)
        return x


class LSNet(ft.HalvingBackbone):
    """The network; each stage but the first begins with two convolutions that halve the resolution and widen the map.

    Attributes:
        widths: channels of each stage.
        depths: blocks of each stage, without these convolutions; there may be none in the first.
        stem_stride: 8, or 4, 2 or 1 for small images.
        image_size: image size of the tables of biases, a side or (height, width). For images of any other size the
            tables are resized.
        mixer: factory of what mixes pixels in every second block of all stages but the last.
        squeeze: factory of squeeze-and-excitation.
        norm: factory of every batch normalization.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (64, 128, 256, 384)
    depths: Sequence[int] = (0, 2, 8, 10)
    stem_stride: int = 8
    image_size: int | tuple[int, int] = 224
    mixer: Callable[..., nn.Module] = LargeSmall
    squeeze: Callable[..., nn.Module] = functools.partial(SqueezeExcite, 0.25)
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each convolution between stages and each block; the last norm has no parameters."""
        return pyramid.layers([depth + (2 if index else 0) for index, depth in enumerate(self.depths)])

    @property
    def table(self) -> ft.Grid:
        """The rows and columns of the map that the tables of biases are for."""
        return tuple(-(-side // self.strides[-1]) for side in pair(self.image_size))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``, the normalized mean of the pixels."""
        stem = Stem(self.widths[0], self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        maps = pyramid.run(self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        # The head has the scale and the bias of this norm.
        pooled = self.norm(affine=False, name='norm')(global_mean(maps[-1])[:, None, None], train=train)
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: pooled[:, 0, 0]}

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of what each stage does in turn."""
        parts = {'norm': self.norm, 'dtype': self.dtype}
        local = functools.partial(Block, ThreeBranches, self.squeeze, **parts)
        stages = []
        for index, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            last = index + 1 == len(self.depths)
            mixer = functools.partial(Attention, self.table) if last else self.mixer
            wide = functools.partial(Block, mixer, **parts)
            shrink = [functools.partial(DepthNorm, stride=2, **parts), functools.partial(PointNorm, width, **parts)]
            blocks = [wide if turn % 2 else local for turn in range(depth)]
            stages.append([*(shrink if index else []), *blocks])
        return stages


class DistilledLSNet(LSNet):
    """The same network; published weights have two heads (`HEADS`)."""


class TwoHeads(nn.Module):
    """The mean of two heads; the second one can be trained by distillation.

    Attributes:
        num_classes: number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: ft.Features) -> dict[str, Float[Array, 'b k']]:
        """Returns ``logits``, the mean, and of each head ``label_logits`` and ``teacher_logits``.

        Args:
            features: must hold ``pooled``.
        """
        labels, teacher = (NormedLinear(self.num_classes, name=name)(features) for name in ('labels', 'teacher'))
        return {'logits': (labels + teacher) / 2, 'label_logits': labels, 'teacher_logits': teacher}


_SIZES = {
    't': {},
    's': {'widths': (96, 192, 320, 448), 'depths': (1, 2, 8, 10)},
    'b': {'widths': (128, 256, 384, 512), 'depths': (4, 6, 8, 10)},
}
VARIANTS = {
    **{f'lsnet_{size}': LSNet(**fields) for size, fields in _SIZES.items()},
    **{f'lsnet_{size}_distill': DistilledLSNet(**fields) for size, fields in _SIZES.items()},
    'lsnet_test': LSNet((16, 32), (0, 2), 1, 16),
    'lsnet_large_test': LSNet((16, 32), (2, 2), 1, 16),
}

# The head of the published classifiers.
HEADS = {'LSNet': NormedLinear, 'DistilledLSNet': TwoHeads}

# Table 1, and the README; parameters are those without a second head.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2503.23135', (224, 224))
PUBLISHED = {
    'lsnet_t': _PAPER(params=11.4, macs=0.3, top1=74.9),
    'lsnet_s': _PAPER(params=16.1, macs=0.5, top1=77.8),
    'lsnet_b': _PAPER(params=23.2, macs=1.3, top1=80.3),
    'lsnet_t_distill': _PAPER(top1=76.1),
    'lsnet_s_distill': _PAPER(top1=79.0),
    'lsnet_b_distill': _PAPER(top1=81.6),
}


def _refit(backbone: LSNet, path: str, table: np.ndarray) -> np.ndarray:
    return posemb.refit(table.T[None], backbone.table)[0].T


RESIZE = {'LSNet': _refit, 'DistilledLSNet': _refit}

# Published names of a classifier's parameters and statistics, and ours; see weights.py. 1x1 convolutions are matrices
# here. What a stage does in turn is numbered there as here.
_STATISTICS = (('running_mean', 'mean'), ('running_var', 'var'))
_BATCH = (('weight', 'scale'), ('bias', 'bias'), *_STATISTICS)
_POINTS = (
    ('mixer.lkp.cv1', 'mixer/down'),
    ('mixer.lkp.cv3', 'mixer/mix'),
    ('mixer.m.qkv', 'mixer/qkv'),
    ('mixer.m.proj.1', 'mixer/out'),
    ('ffn.m.pw1', 'up'),
    ('ffn.m.pw2', 'down'),
)
_DEPTHS = (('mixer.conv', 'mixer/local'), ('mixer.lkp.cv2', 'mixer/see'), ('mixer.m.dw', 'mixer/query'))
_BLOCK = (
    *((f'{a}.c.weight', f'{b}/conv/kernel', 2) for a, b in _POINTS),
    *((f'{a}.c.weight', f'{b}/conv/kernel') for a, b in _DEPTHS),
    *((f'{a}.bn.{c}', f'{b}/norm/{d}') for a, b in (*_POINTS, *_DEPTHS) for c, d in _BATCH),
    ('mixer.conv1.c.weight', 'mixer/scale', 3),
    *((f'mixer.{a}.{c}', f'mixer/{b}/{d}') for a, b in (('conv1.bn', 'point_norm'), ('bn', 'norm')) for c, d in _BATCH),
    ('mixer.lkp.cv4.weight', 'mixer/taps/kernel', 2),
    ('mixer.lkp.cv4.bias', 'mixer/taps/bias'),
    ('mixer.lkp.norm.weight', 'mixer/taps/norm_scale'),
    ('mixer.lkp.norm.bias', 'mixer/taps/norm_bias'),
    ('mixer.m.attention_biases', 'mixer/pos_embed'),
    ('mixer.m.attention_bias_idxs', ''),
    *((f'se.fc{k}.weight', f'squeeze/{b}/kernel', 2) for k, b in ((1, 'down'), (2, 'up'))),
    *((f'se.fc{k}.bias', f'squeeze/{b}/bias') for k, b in ((1, 'down'), (2, 'up'))),
)


def _backbone_names(stage: int) -> list[tuple]:
    there, here = f'blocks{stage + 1}', f'backbone/stage{stage}'
    return [
        *((f'{there}.{{i}}.{a}', f'{here}/block{{i:02d}}/{b}' if b else '', *axes) for a, b, *axes in _BLOCK),
        (f'{there}.0.c.weight', f'{here}/block00/conv/kernel'),
        (f'{there}.1.c.weight', f'{here}/block01/conv/kernel', 2),
        *((f'{there}.{{i}}.bn.{a}', f'{here}/block{{i:02d}}/norm/{b}') for a, b in _BATCH),
    ]


def _head_names(there: str, here: str) -> list[tuple[str, str]]:
    affine = (('bn.weight', 'scale'), ('bn.bias', 'shift'), ('l.weight', 'kernel'), ('l.bias', 'bias'))
    return [
        *((f'{there}.{a}', f'{here}/{b}') for a, b in affine),
        *((f'{there}.bn.{a}', f'backbone/norm/{b}') for a, b in _STATISTICS),
    ]


_BACKBONE = (
    *((f'patch_embed.{2 * k}.c.weight', f'backbone/stem/conv{k}/kernel') for k in range(3)),
    *((f'patch_embed.{2 * k}.bn.{a}', f'backbone/stem/norm{k}/{b}') for k in range(3) for a, b in _BATCH),
    *(pair for stage in range(4) for pair in _backbone_names(stage)),
)
NAMES = {
    'LSNet': (*_BACKBONE, *_head_names('head', 'head')),
    'DistilledLSNet': (
        *_BACKBONE,
        *_head_names('head', 'head/labels'),
        *_head_names('head_dist', 'head/teacher'),
    ),
}
