"""RegNet: residual networks of grouped bottlenecks whose stages follow from a line.

Radosavovic et al., 2020, "Designing Network Design Spaces", https://arxiv.org/abs/2003.13678.
Dollár et al., 2021, "Fast and Accurate Model Scaling", https://arxiv.org/abs/2103.06877, for `scaled`.
References: https://github.com/facebookresearch/pycls (the authors', MIT) and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0); files of either are read, and timm's names written.

The width of block j is near a line, w_0 + w_a j, and one of w_0 w_m^k, rounded to multiples of 8: blocks of equal width
are a stage. RegNetY has squeeze-and-excitation, RegNetX none. Details of the published code that are not in the paper,
kept here: widths are changed so that groups divide them; the hidden width of squeeze-and-excitation is a quarter of the
block's input, not of what it rescales. Where we differ: initial kernels of squeeze-and-excitation are those of
layers/convolutions/squeeze_excite.py, and a head has the initial values of modelzoo/heads.
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
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import pyramid, scaling, variants
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + branch(x))``: convolutions 1x1, 3x3 with groups, 1x1, all as wide as the output.

    Attributes:
        features: output channels.
        group: channels of a group of the 3x3 convolution.
        stride: of the 3x3 convolution.
        squeeze: hidden width of squeeze-and-excitation behind it, over the channels of the input; 0 for none.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    group: int
    stride: int = 1
    squeeze: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, self.features, norm=self.norm, dtype=self.dtype)
        y = nn.relu(conv(1, name='conv1')(x, train=train))
        y = conv(3, self.stride, groups=self.features // self.group, name='conv2')(y, train=train)
        y = nn.relu(y)
        if self.squeeze:
            ratio = self.squeeze * x.shape[-1] / self.features
            y = SqueezeExcite(ratio, 1, self.dtype, name='squeeze')(y)
        y = conv(1, name='conv3')(y, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(1, self.stride, name='shortcut')(x, train=train)
        return nn.relu(x + drop_path(y, mask))


class RegNet(ft.PyramidBackbone):
    """The network: a 3x3 convolution, and stages that halve the resolution.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        groups: channels of a group in each stage.
        squeeze: see `Bottleneck`.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: of its convolution; 1 for small images.
        first_stride: of the first stage; 1 for small images.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        scan: whether the blocks of a stage, except its first, share one compiled body.
    """

    depths: Sequence[int] = (1, 3, 6, 6)
    widths: Sequence[int] = (48, 104, 208, 440)
    groups: Sequence[int] = (8, 8, 8, 8)
    squeeze: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 32
    stem_stride: int = 2
    first_stride: int = 2
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.stem_stride * self.first_stride * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return pyramid.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        stem = ConvNorm(self.stem_width, 3, self.stem_stride, self.norm, self.dtype, name='stem')
        stem = nn.relu(stem(x, train=train))
        block = functools.partial(Bottleneck, squeeze=self.squeeze, norm=self.norm, dtype=self.dtype)
        stages = [
            pyramid.with_stride(functools.partial(block, group=group), width, depth, 2 if index else self.first_stride)
            for index, (width, depth, group) in enumerate(zip(self.widths, self.depths, self.groups, strict=True))
        ]
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train, scan=self.scan)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}


def stages(initial: int, slope: float, step: float, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns widths and depths of the stages of a line of widths.

    Args:
        initial: w_0, the width of the first block.
        slope: w_a, by how much the line rises from block to block.
        step: w_m, by which factor a stage is wider than the one before.
        depth: number of blocks.
    """
    line = initial + slope * np.arange(depth)
    powers = np.round(np.log(line / initial) / np.log(step))
    widths = 8 * np.round(initial * step**powers / 8).astype(int)
    found, counts = np.unique(widths, return_counts=True)
    return tuple(map(int, found)), tuple(map(int, counts))


def scaled(variant: str = 'regnety_004', *, work: float = 4.0, kind: str = scaling.FAST, **fields: Any) -> RegNet:
    """Returns a variant with so many times its multiply-adds at an image size of its own, `scaling.scaled_side`.

    Args:
        variant: name of a network in ``VARIANTS``.
        work: by what the multiply-adds are multiplied.
        kind: along which axes; see `scaling.factors`.
        **fields: other fields, set before it is scaled.

    Raises:
        ValueError: there is no such variant, field or kind of scaling.
    """
    backbone, by = variants.variant(VARIANTS, variant, fields), scaling.factors(kind, work)
    widths = scaling.scaled_widths(backbone.widths, by)
    widths, groups = scaling.fitted(widths, scaling.scaled_groups(backbone.groups, by))
    return backbone.clone(depths=scaling.scaled_depths(backbone.depths, by), widths=widths, groups=groups)


def _line(initial: int, slope: float, step: float, depth: int, group: int, **fields: Any) -> RegNet:
    widths, depths = stages(initial, slope, step, depth)
    return RegNet(depths, *scaling.fitted(widths, [group] * len(widths)), **fields)


_y = functools.partial(_line, squeeze=0.25)

# pycls's networks; a name ends in billions of multiply-adds, times 10.
VARIANTS = {
    'regnetx_002': _line(24, 36.44, 2.49, 13, 8),
    'regnetx_004': _line(24, 24.48, 2.54, 22, 16),
    'regnetx_006': _line(48, 36.97, 2.24, 16, 24),
    'regnetx_008': _line(56, 35.73, 2.28, 16, 16),
    'regnetx_016': _line(80, 34.01, 2.25, 18, 24),
    'regnetx_032': _line(88, 26.31, 2.25, 25, 48),
    'regnetx_040': _line(96, 38.65, 2.43, 23, 40),
    'regnetx_064': _line(184, 60.83, 2.07, 17, 56),
    'regnetx_080': _line(80, 49.56, 2.88, 23, 120),
    'regnetx_120': _line(168, 73.36, 2.37, 19, 112),
    'regnetx_160': _line(216, 55.59, 2.1, 22, 128),
    'regnetx_320': _line(320, 69.86, 2.0, 23, 168),
    'regnety_002': _y(24, 36.44, 2.49, 13, 8),
    'regnety_004': _y(48, 27.89, 2.09, 16, 8),
    'regnety_006': _y(48, 32.54, 2.32, 15, 16),
    'regnety_008': _y(56, 38.84, 2.4, 14, 16),
    'regnety_016': _y(48, 20.71, 2.65, 27, 24),
    'regnety_032': _y(80, 42.63, 2.66, 21, 24),
    'regnety_040': _y(96, 31.41, 2.24, 22, 64),
    'regnety_064': _y(112, 33.22, 2.27, 25, 72),
    'regnety_080': _y(192, 76.82, 2.19, 17, 56),
    'regnety_120': _y(168, 73.36, 2.37, 19, 112),
    'regnety_160': _y(200, 106.23, 2.48, 18, 112),
    'regnety_320': _y(232, 115.89, 2.53, 20, 232),
    'regnet_test': RegNet((1, 2), (16, 32), (8, 8), squeeze=0.25, stem_width=8),
}

# pycls's list of its networks, at 224 pixels: mean accuracies of five runs, while its files are of one.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/2003.13678', (224, 224))
PUBLISHED = {
    'regnetx_002': _FIGURES(2.7, 0.2, 68.9),
    'regnetx_004': _FIGURES(5.2, 0.4, 72.6),
    'regnetx_006': _FIGURES(6.2, 0.6, 74.1),
    'regnetx_008': _FIGURES(7.3, 0.8, 75.2),
    'regnetx_016': _FIGURES(9.2, 1.6, 77.0),
    'regnetx_032': _FIGURES(15.3, 3.2, 78.3),
    'regnetx_040': _FIGURES(22.1, 4.0, 78.6),
    'regnetx_064': _FIGURES(26.2, 6.5, 79.2),
    'regnetx_080': _FIGURES(39.6, 8.0, 79.3),
    'regnetx_120': _FIGURES(46.1, 12.1, 79.7),
    'regnetx_160': _FIGURES(54.3, 15.9, 80.0),
    'regnetx_320': _FIGURES(107.8, 31.7, 80.5),
    'regnety_002': _FIGURES(3.2, 0.2, 70.3),
    'regnety_004': _FIGURES(4.3, 0.4, 74.1),
    'regnety_006': _FIGURES(6.1, 0.6, 75.5),
    'regnety_008': _FIGURES(6.3, 0.8, 76.3),
    'regnety_016': _FIGURES(11.2, 1.6, 77.9),
    'regnety_032': _FIGURES(19.4, 3.2, 78.9),
    'regnety_040': _FIGURES(20.6, 4.0, 79.4),
    'regnety_064': _FIGURES(30.6, 6.4, 79.9),
    'regnety_080': _FIGURES(39.2, 8.0, 79.9),
    'regnety_120': _FIGURES(51.8, 12.1, 80.3),
    'regnety_160': _FIGURES(83.6, 15.9, 80.4),
    'regnety_320': _FIGURES(145.0, 32.3, 80.9),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py. Timm's, then pycls's.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_TIMM = (*((f'conv{k}.conv', f'conv{k}.bn', f'conv{k}') for k in (1, 2, 3)),)
_TIMM += (('downsample.conv', 'downsample.bn', 'shortcut'),)
_PYCLS = (
    ('f.a', 'f.a_bn', 'conv1'),
    ('f.b', 'f.b_bn', 'conv2'),
    ('f.c', 'f.c_bn', 'conv3'),
    ('proj', 'bn', 'shortcut'),
)
_SQUEEZES = (('se.fc1', 'down'), ('se.fc2', 'up'), ('f.se.f_ex.0', 'down'), ('f.se.f_ex.2', 'up'))
_THERE, _HERE = 's{s+1}.b{i+1}', 'backbone/stage{s}/block{i:02d}'
NAMES = {
    'RegNet': (
        ('stem.conv.weight', 'backbone/stem/conv/kernel'),
        *((f'stem.bn.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *((f'{_THERE}.{conv}.weight', f'{_HERE}/{part}/conv/kernel') for conv, _, part in (*_TIMM, *_PYCLS)),
        *(
            (f'{_THERE}.{norm}.{a}', f'{_HERE}/{part}/norm/{b}')
            for _, norm, part in (*_TIMM, *_PYCLS)
            for a, b in _NORM
        ),
        *((f'{_THERE}.{there}.weight', f'{_HERE}/squeeze/{here}/kernel', 2) for there, here in _SQUEEZES),
        *((f'{_THERE}.{there}.bias', f'{_HERE}/squeeze/{here}/bias') for there, here in _SQUEEZES),
        ('head.fc.weight', 'head/kernel'),
        ('head.fc.bias', 'head/bias'),
    ),
}
