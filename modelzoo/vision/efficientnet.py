"""EfficientNet: inverted bottlenecks with depthwise convolutions and squeeze-and-excitation, scaled along three axes.

Tan and Le, 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
https://arxiv.org/abs/1905.11946.
Dollár et al., 2021, "Fast and Accurate Model Scaling", https://arxiv.org/abs/2103.06877, for `scaled`.
References: https://github.com/facebookresearch/pycls (MIT) and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0); files of either are read, and timm's names written.

These two pad by half a kernel and have norms of epsilon 1e-5 as PyTorch has it, and so has this one; the authors' code
for TensorFlow pads unevenly, with norms of epsilon 1e-3. The hidden width of squeeze-and-excitation is a quarter of a
block's input, not of what it rescales. Where we differ: there is no dropout before the head, as in pycls; initial
kernels of squeeze-and-excitation are those of layers/convolutions/squeeze_excite.py, and a head has the initial values
of modelzoo/heads.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame import pyramid, scaling, variants
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class MBConv(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, squeeze-and-excitation, a 1x1 one to the output.

    The input is added where it has the output's shape. SiLU follows the norms of the first two; nothing that of the
    last.

    Attributes:
        features: output channels.
        expansion: channels between over those of the input; 1 for none of the first convolution.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        squeeze: hidden width of squeeze-and-excitation over the channels of the input.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    expansion: int = 6
    kernel_size: int = 3
    stride: int = 1
    squeeze: float = 0.25
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`, unused where no input is added."""
        conv = functools.partial(ConvNorm, kernel_size=1, norm=self.norm, dtype=self.dtype)
        y = x
        if self.expansion != 1:
            y = nn.silu(conv(x.shape[-1] * self.expansion, name='expand')(x, train=train))
        size = self.kernel_size
        y = StridedDepthwise(size, self.stride, size // 2, _fan_out, self.dtype, name='depthwise')(y)
        y = nn.silu(self.norm(dtype=self.dtype, name='norm')(y, train=train))
        y = SqueezeExcite(self.squeeze / self.expansion, 1, self.dtype, nn.silu, name='squeeze')(y)
        y = conv(self.features, name='project')(y, train=train)
        return x + drop_path(y, mask) if y.shape == x.shape else y


class EfficientNet(ft.PyramidBackbone):
    """The network: a 3x3 convolution, stages of `MBConv`, a 1x1 convolution.

    Its features have the last stage of each resolution; all stages have their own parameters, ``stage0`` and so on.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        expansions: see `MBConv`, for each stage.
        kernel_sizes: of the depthwise convolutions of each stage.
        steps: stride of the first block of each stage.
        squeeze: see `MBConv`.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: of its convolution; 1 for small images.
        head_width: channels of the last convolution.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        scan: whether the blocks of a stage, except its first, share one compiled body.
    """

    depths: Sequence[int] = (1, 2, 2, 3, 3, 4, 1)
    widths: Sequence[int] = (16, 24, 40, 80, 112, 192, 320)
    expansions: Sequence[int] = (1, 6, 6, 6, 6, 6, 6)
    kernel_sizes: Sequence[int] = (3, 3, 5, 3, 5, 5, 3)
    steps: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    squeeze: float = 0.25
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 32
    stem_stride: int = 2
    head_width: int = 1280
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def _shown(self) -> tuple[int, ...]:
        """The last stage of each resolution."""
        following = (*self.steps[1:], 2)
        return tuple(index for index, step in enumerate(following) if step != 1)

    @property
    def strides(self) -> tuple[int, ...]:
        """2, 4, 8, 16, 32 as published."""
        return tuple(self.stem_stride * math.prod(self.steps[: index + 1]) for index in self._shown)

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths of these stages."""
        return tuple(self.widths[index] for index in self._shown)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last convolution."""
        return pyramid.layers(self.depths, ['last'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage4``, ``map`` and ``pooled``."""
        stem = ConvNorm(self.stem_width, 3, self.stem_stride, self.norm, self.dtype, name='stem')
        stem = nn.silu(stem(x, train=train))
        maps = pyramid.run(
            self,
            stem,
            self._stages(),
            drop_path=self.drop_path,
            remat=self.remat,
            train=train,
            scan=self.scan,
        )
        features = {ft.stage(index): maps[shown] for index, shown in enumerate(self._shown)}
        x = ConvNorm(self.head_width, 1, norm=self.norm, dtype=self.dtype, name='last')(maps[-1], train=train)
        x = nn.silu(x)
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks of each stage."""
        each = zip(self.widths, self.depths, self.steps, self.expansions, self.kernel_sizes, strict=True)
        block = functools.partial(MBConv, squeeze=self.squeeze, norm=self.norm, dtype=self.dtype)
        return [
            pyramid.with_stride(functools.partial(block, expansion=expansion, kernel_size=size), width, depth, step)
            for width, depth, step, expansion, size in each
        ]


def compound(width: float, depth: float) -> EfficientNet:
    """Returns the network of the paper's compound scaling, B0 with so many times its width and depth.

    Widths are multiples of 8, none more than 10 % below what they should be; depths are rounded up.
    """
    b0 = EfficientNet()
    return b0.clone(
        depths=tuple(math.ceil(depth * blocks) for blocks in b0.depths),
        widths=tuple(_in_eights(width * channels) for channels in b0.widths),
        stem_width=_in_eights(width * b0.stem_width),
        head_width=_in_eights(width * b0.head_width),
    )


def _in_eights(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def scaled(
    variant: str = 'efficientnet_b0', *, work: float = 4.0, kind: str = scaling.FAST, **fields: Any
) -> EfficientNet:
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
    stem_width, *widths, head_width = scaling.scaled_widths(
        (backbone.stem_width, *backbone.widths, backbone.head_width), by
    )
    return backbone.clone(
        depths=scaling.scaled_depths(backbone.depths, by),
        widths=tuple(widths),
        stem_width=stem_width,
        head_width=head_width,
    )


# The authors' coefficients; B0 is found by search, and B1 to B7 are scaled from it.
VARIANTS = {
    'efficientnet_b0': EfficientNet(),
    'efficientnet_b1': compound(1.0, 1.1),
    'efficientnet_b2': compound(1.1, 1.2),
    'efficientnet_b3': compound(1.2, 1.4),
    'efficientnet_b4': compound(1.4, 1.8),
    'efficientnet_b5': compound(1.6, 2.2),
    'efficientnet_b6': compound(1.8, 2.6),
    'efficientnet_b7': compound(2.0, 3.1),
    'efficientnet_test': EfficientNet((1, 2), (16, 16), (1, 2), (3, 5), (2, 1), stem_width=8, head_width=32),
}

# pycls's list of its networks, trained for 100 epochs: mean accuracies of five runs.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/1905.11946')
PUBLISHED = {
    'efficientnet_b0': _FIGURES((224, 224), 5.3, 0.4, 75.1),
    'efficientnet_b1': _FIGURES((240, 240), 7.8, 0.7, 75.9),
    'efficientnet_b2': _FIGURES((260, 260), 9.1, 1.0, 76.5),
    'efficientnet_b3': _FIGURES((300, 300), 12.2, 1.8, 77.5),
    'efficientnet_b4': _FIGURES((380, 380), 19.3, 4.4, 78.6),
    'efficientnet_b5': _FIGURES((456, 456), 30.4, 10.3, 78.3),
    'efficientnet_b6': _FIGURES((528, 528)),
    'efficientnet_b7': _FIGURES((600, 600)),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_FIRST = (('conv_dw', 'bn1', 'depthwise', 'norm'), ('conv_pw', 'bn2', 'project/conv', 'project/norm'))
_OTHERS = (
    ('conv_pw', 'bn1', 'expand/conv', 'expand/norm'),
    ('conv_dw', 'bn2', 'depthwise', 'norm'),
    ('conv_pwl', 'bn3', 'project/conv', 'project/norm'),
)
_PYCLS = (
    ('exp', 'exp_bn', 'expand/conv', 'expand/norm'),
    ('dwise', 'dwise_bn', 'depthwise', 'norm'),
    ('lin_proj', 'lin_proj_bn', 'project/conv', 'project/norm'),
)


def _names(there: str, here: str, parts: Sequence[tuple[str, str, str, str]], squeezes: Sequence[str]) -> list[tuple]:
    both = tuple(zip(squeezes, ('down', 'up')))
    return [
        *((f'{there}{conv}.weight', f'{here}{kernel}/kernel') for conv, _, kernel, _ in parts),
        *((f'{there}{bn}.{a}', f'{here}{norm}/{b}') for _, bn, _, norm in parts for a, b in _NORM),
        *((f'{there}{a}.weight', f'{here}squeeze/{b}/kernel', 2) for a, b in both),
        *((f'{there}{a}.bias', f'{here}squeeze/{b}/bias') for a, b in both),
    ]


_HERE, _SQUEEZES = 'backbone/stage{s}/block{i:02d}/', ('se.conv_reduce', 'se.conv_expand')
NAMES = {
    'EfficientNet': (
        *_names('', 'backbone/', (('conv_stem', 'bn1', 'stem/conv', 'stem/norm'),), ()),
        *_names('blocks.0.{i}.', 'backbone/stage0/block{i:02d}/', _FIRST, _SQUEEZES),
        *_names('blocks.{s}.{i}.', _HERE, _OTHERS, _SQUEEZES),
        *_names('', 'backbone/', (('conv_head', 'bn2', 'last/conv', 'last/norm'),), ()),
        ('classifier.weight', 'head/kernel'),
        ('classifier.bias', 'head/bias'),
        *_names('', 'backbone/', (('stem.conv', 'stem.bn', 'stem/conv', 'stem/norm'),), ()),
        *_names('s{s+1}.b{i+1}.', _HERE, _PYCLS, ('se.f_ex.0', 'se.f_ex.2')),
        *_names('', 'backbone/', (('head.conv', 'head.conv_bn', 'last/conv', 'last/norm'),), ()),
        ('head.fc.weight', 'head/kernel'),
        ('head.fc.bias', 'head/bias'),
    ),
}
