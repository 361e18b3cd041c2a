"""MobileNetV2 for aligned faces, with depthwise convolutions whose kernels differ from place to place (TVConv).

Chen et al., 2022, "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing",
https://arxiv.org/abs/2203.10489; the network is that of Sandler et al., 2018, "MobileNetV2: Inverted Residuals and
Linear Bottlenecks", https://arxiv.org/abs/1801.04381, for images of 96x96. Reference:
https://github.com/JierunChen/TVConv (MIT), face_recognition/model/mobilenetv2.py. Its files end with the embedding of
512 numbers, which is ``pooled`` here; a classifier's names are torchvision's.

Details of the published code kept here: the first convolution has no stride; the embedding is a norm of the map, the
mean over it, a matrix, and a norm again. Where we differ: maps of other images than 96x96 are possible, with
interpolated kernels (layers/convolutions/tvconv.py); there is no dropout, whose published rate is 0; a head has the
initial values of modelzoo/heads.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions import tvconv
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.convolutions.tvconv import TVConv
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# The layers of the network of each TVConv between its first and its last, in all published networks.
_DEPTH = 3


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, a 1x1 one to the output; norms, and ReLU6 after two of them.

    The input is added where it has the output's shape.

    Attributes:
        features: output channels.
        expansion: channels between over those of the input; 1 for none of the first convolution.
        stride: of the depthwise convolution.
        varying: factory of that convolution, with kernels that differ from place to place; None for a plain one.
        size: rows and columns of its output for which `varying` has kernels.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    expansion: int = 6
    stride: int = 1
    varying: Callable[..., nn.Module] | None = TVConv
    size: tuple[int, int] | None = None
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
            y = nn.relu6(conv(x.shape[-1] * self.expansion, name='expand')(x, train=train))
        y = self._depthwise()(y)
        y = nn.relu6(self.norm(dtype=self.dtype, name='norm')(y, train=train))
        y = conv(self.features, name='project')(y, train=train)
        return x + drop_path(y, mask) if y.shape == x.shape else y

    def _depthwise(self) -> nn.Module:
        if self.varying is None:
            return StridedDepthwise(3, self.stride, 1, _fan_out, self.dtype, name='depthwise')
        return self.varying(self.size, stride=self.stride, dtype=self.dtype, name='depthwise')


class MobileNetV2(ft.PyramidBackbone):
    """The network: a 3x3 convolution, stages of `InvertedResidual`, a 1x1 convolution, the embedding.

    Its features have the last stage of each resolution; all stages have their own parameters, ``stage0`` and so on.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        expansions: see `InvertedResidual`, for each stage.
        steps: stride of the first block of each stage.
        varying: see `InvertedResidual`; None for MobileNetV2's own convolutions.
        image_size: image size that `varying` has kernels for, a side or (height, width).
        norm: factory of every normalization.
        stem_width: channels after the first convolution.
        head_width: channels of the last convolution.
        embedding: size of ``pooled``.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (1, 2, 3, 4, 3, 3, 1)
    widths: Sequence[int] = (16, 24, 32, 64, 96, 160, 320)
    expansions: Sequence[int] = (1, 6, 6, 6, 6, 6, 6)
    steps: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    varying: Callable[..., nn.Module] | None = functools.partial(TVConv, width=64, depth=_DEPTH, kernel_init=_fan_out)
    image_size: int | tuple[int, int] = 96
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 32
    head_width: int = 512
    embedding: int = 512
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def _shown(self) -> tuple[int, ...]:
        """The last stage of each resolution."""
        following = (*self.steps[1:], 2)
        return tuple(index for index, step in enumerate(following) if step != 1)

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4, 8, 16 as published."""
        return tuple(self._stride(index) for index in self._shown)

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths of these stages."""
        return tuple(self.widths[index] for index in self._shown)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last convolution, the embedding."""
        stem, *blocks = pyramid.layers(self.depths)
        return (stem, *blocks, ('last',), ('last_norm', 'embed', 'embed_norm'))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage4``, ``map`` and ``pooled``, the embedding."""
        norm = functools.partial(self.norm, dtype=self.dtype)
        conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        stem = nn.relu6(conv(self.stem_width, 3, name='stem')(x, train=train))
        maps = pyramid.run(self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): maps[shown] for index, shown in enumerate(self._shown)}
        x = nn.relu6(conv(self.head_width, 1, name='last')(maps[-1], train=train))
        pooled = global_mean(norm(name='last_norm')(x, train=train))
        pooled = Dense(self.embedding, True, jax.nn.initializers.normal(0.01), self.dtype, name='embed')(pooled)
        pooled = norm(name='embed_norm')(pooled[:, None, None], train=train)[:, 0, 0].astype(jnp.float32)
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: pooled}

    def _stride(self, stage: int) -> int:
        return math.prod(self.steps[: stage + 1])

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks of each stage."""
        block = functools.partial(InvertedResidual, varying=self.varying, norm=self.norm, dtype=self.dtype)
        stages = []
        for stage, depth in enumerate(self.depths):
            size = tuple(-(-side // self._stride(stage)) for side in pair(self.image_size))
            made = functools.partial(block, expansion=self.expansions[stage], size=size)
            stages.append(pyramid.with_stride(made, self.widths[stage], depth, self.steps[stage]))
        return stages


def scaled(width: float) -> MobileNetV2:
    """Returns the network with so many times the channels, in multiples of 8 and none more than 10 % too few."""
    full = MobileNetV2()
    widths = tuple(_in_eights(width * channels) for channels in full.widths)
    return full.clone(widths=widths, stem_width=_in_eights(width * full.stem_width))


def _in_eights(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


VARIANTS = {
    'tvconv_mobilenet_v2_x0_1': scaled(0.1),
    'tvconv_mobilenet_v2_x0_2': scaled(0.2),
    'tvconv_mobilenet_v2_x0_3': scaled(0.3),
    'tvconv_mobilenet_v2_x0_5': scaled(0.5),
    'tvconv_mobilenet_v2_x1_0': scaled(1.0),
    'tvconv_mobilenet_test': MobileNetV2(
        (1, 2),
        (4, 4),
        (1, 2),
        (2, 1),
        functools.partial(TVConv, width=4, depth=_DEPTH, kernel_init=_fan_out),
        image_size=(2, 4),
        stem_width=4,
        head_width=4,
        embedding=4,
    ),
}

# The paper gives multiply-adds as they are after training, with stored kernels, and accuracies of pairs of faces.
PUBLISHED = {
    name: ft.Published('https://arxiv.org/abs/2203.10489', (96, 96)) for name in VARIANTS if not name.endswith('_test')
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))


def _conv(there: str, conv: str | int, norm: str | int, here: str) -> list[tuple]:
    return [
        (f'{there}{conv}.weight', f'{here}/conv/kernel'),
        *((f'{there}{norm}.{a}', f'{here}/norm/{b}') for a, b in _NORM),
    ]


def published_names(backbone: MobileNetV2, scale: str = 'weight') -> tuple[tuple, ...]:
    """Returns the names of a network in the authors' files, which count all blocks in one row.

    Args:
        backbone: the network.
        scale: as in `tvconv.names`.
    """
    first = {stage: 1 + sum(backbone.depths[:stage]) for stage in range(len(backbone.depths))}
    found = _conv('features.0.', 0, 1, 'backbone/stem')
    for stage, depth in enumerate(backbone.depths):
        for block in range(depth):
            there, here = f'features.{first[stage] + block}.conv.', f'backbone/stage{stage}/block{block:02d}/'
            start = 0 if backbone.expansions[stage] == 1 else 1
            found += _conv(f'{there}0.', 0, 1, f'{here}expand') if start else []
            found += tvconv.names(f'{there}{start}.0.', f'{here}depthwise/', _DEPTH, scale)
            found += [(f'{there}{start}.0.weight', f'{here}depthwise/kernel')]
            found += [(f'{there}{start}.1.{a}', f'{here}norm/{b}') for a, b in _NORM]
            found += _conv(there, start + 1, start + 2, f'{here}project')
    last = 1 + sum(backbone.depths)
    found += _conv(f'features.{last}.', 0, 1, 'backbone/last')
    found += [(f'output_layer.layer1.{a}', f'backbone/last_norm/{b}') for a, b in _NORM]
    found += [
        (f'output_layer.layer2.0.{a}', f'backbone/embed/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))
    ]
    found += [(f'output_layer.layer2.1.{a}', f'backbone/embed_norm/{b}') for a, b in _NORM]
    found += [(f'classifier.{a}', f'head/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))]
    return tuple(found)


NAMES = {'MobileNetV2': published_names(MobileNetV2())}
