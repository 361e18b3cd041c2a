"""Residual Attention Network: residual units whose maps are scaled by masks, made by an hourglass beside them.

Wang et al., 2017, "Residual Attention Network for Image Classification", https://arxiv.org/abs/1704.06904.
References: https://github.com/fwang91/residual-attention-network (the authors' networks for Caffe, no licence, no
weights) and https://github.com/tengshaofeng/ResidualAttentionNetwork-pytorch (another's, no licence), whose parameter
names these are; files of the network for CIFAR are written with the names of those for ImageNet.

Details of the published code, kept here: units are pre-activation bottlenecks, and a projection reads what the first
norm and ReLU of its unit give; the hourglass begins behind the first unit of a module, pools with 3x3 windows, and
interpolates with aligned corners. Where we differ: any image size is taken; a head has the initial values of
modelzoo/heads. On its way up an hourglass adds, as the authors' does, a unit of the map of that size on its way down.
The other code adds that map itself too, and the trunk's at last: see `ResidualAttention.adds`. How wide the authors'
networks for CIFAR are is not published; the one here is the other code's. AttentionNeXt, with units of ResNeXt, is not
built.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, PlainConv, Stem
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

ATTENTION = ('residual', 'naive', 'none')


class Unit(nn.Module):
    """``shortcut + branch(x)``: convolutions 1x1 to a quarter of the features, 3x3, 1x1 back, each after norm and ReLU.

    Attributes:
        features: output channels.
        stride: of the 3x3 convolution.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, self.features // 4, norm=self.norm, dtype=self.dtype)
        y = nn.relu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = PlainConv(self.features, 1, self.stride, dtype=self.dtype, name='shortcut')(y)
        y = nn.relu(conv(1, name='conv1')(y, train=train))
        y = nn.relu(conv(3, self.stride, name='conv2')(y, train=train))
        return x + drop_path(PlainConv(self.features, 1, dtype=self.dtype, name='conv3')(y), mask)


class SoftMask(nn.Module):
    """From 0 to 1 for every value of the trunk: units between poolings, units between interpolations, 1x1 convolutions.

    Attributes:
        poolings: how often the map is halved; without, two units are all there is before the 1x1 convolutions.
        adds: see `ResidualAttention`.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    poolings: int
    adds: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], trunk: Float[Array, 'b h w c'], *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns the mask of the trunk's output; `x` is what the trunk reads."""
        channels = x.shape[-1]
        unit = lambda name: lambda x: Unit(channels, 1, self.norm, self.dtype, name=name)(x, None, train=train)
        down = []
        for index in range(self.poolings - 1):
            x = unit(f'down{index}')(max_pool(x, 3, 2, 1))
            down.append(x)
        x = max_pool(x, 3, 2, 1) if self.poolings else x
        x = unit('middle1')(unit('middle0')(x))
        for index, there in reversed([*enumerate(down)]):
            x = self._raised(x, there) + unit(f'skip{index}')(there)
            x = unit(f'up{index}')(x)
        x = self._raised(x, trunk) if self.poolings else x
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        x = nn.relu(ConvNorm(channels, 1, norm=self.norm, dtype=self.dtype, name='conv1')(x, train=train))
        return nn.sigmoid(PlainConv(channels, 1, dtype=self.dtype, name='conv2')(x))

    def _raised(self, x: Float[Array, 'b h w c'], to: Float[Array, 'b h2 w2 c']) -> Float[Array, 'b h2 w2 c']:
        x = interpolated(x, to.shape[1:3])
        return x + to if self.adds else x


def interpolated(x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b h2 w2 c']:
    """Returns the map at `size` places between its corners, by straight lines (torch's ``align_corners=True``)."""
    rows, columns = (jnp.asarray(_lines(*sides), x.dtype) for sides in zip(x.shape[1:3], size))
    x = jnp.einsum('ph,bhwc->bpwc', rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum('qw,bpwc->bpqc', columns, x, precision=lax.Precision.HIGHEST)


def _lines(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the matrix from `source` values to those at `target` places, the first and the last on the ends."""
    places = np.linspace(0, source - 1, target)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(source)[None]))


class AttentionModule(nn.Module):
    """A unit, ``(1 + mask) * trunk`` of its output with a trunk of two units, and a unit.

    Attributes:
        features: channels of input and output.
        poolings: see `SoftMask`.
        attention, adds: see `ResidualAttention`.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    poolings: int
    attention: str = 'residual'
    adds: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`, for the units outside the mask."""
        unit = lambda name: lambda x: Unit(self.features, 1, self.norm, self.dtype, name=name)(x, mask, train=train)
        x = unit('first')(x)
        trunk = unit('trunk1')(unit('trunk0')(x))
        if self.attention != 'none':
            soft = SoftMask(self.poolings, self.adds, self.norm, self.dtype, name='mask')(x, trunk, train=train)
            trunk = trunk * (1 + soft) if self.attention == 'residual' else trunk * soft
        return unit('last')(trunk)


class ResidualAttention(ft.PyramidBackbone):
    """The network: stages of one unit and attention modules, each but the first at half the resolution; last units.

    Attributes:
        modules: attention modules of each stage but the last.
        poolings: how often their masks are halved.
        widths: output channels of each stage, the last one's included.
        last: units of the last stage.
        last_stride: of the first of them; 1 for CIFAR.
        attention: 'residual', ``(1 + mask) * trunk``; 'naive', ``mask * trunk``, as the paper compares it; or 'none',
            the trunk alone.
        adds: whether what is interpolated gets the map of that size added, as the code for PyTorch has it.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: 4 for ImageNet, 1 for CIFAR; see `conv_norm.Stem`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py. A module is one block.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    modules: Sequence[int] = (1, 1, 1)
    poolings: Sequence[int] = (3, 2, 1)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    last: int = 3
    last_stride: int = 2
    attention: str = 'residual'
    adds: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 64
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 for ImageNet."""
        found = [self.stem_stride * 2**index for index in range(len(self.modules))]
        return (*found, found[-1] * self.last_stride)

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm."""
        return pyramid.layers([*(1 + count for count in self.modules), self.last], ['norm'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: an unknown kind of attention.
        """
        if self.attention not in ATTENTION:
            raise ValueError(
                f'ResidualAttention.attention is {self.attention!r}: use one of {", ".join(map(repr, ATTENTION))}.'
            )
        stem = Stem(self.stem_width, self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        maps = pyramid.run(self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(maps[-1], train=train))
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks of each stage."""
        parts = {'norm': self.norm, 'dtype': self.dtype}
        unit = functools.partial(Unit, **parts)
        module = functools.partial(AttentionModule, attention=self.attention, adds=self.adds, **parts)
        *widths, last_width = self.widths
        stages = [
            [functools.partial(unit, width, 2 if stage else 1)] + [functools.partial(module, width, poolings)] * count
            for stage, (width, poolings, count) in enumerate(zip(widths, self.poolings, self.modules, strict=True))
        ]
        return [*stages, pyramid.with_stride(unit, last_width, self.last, self.last_stride)]


# The authors' networks for ImageNet, and for CIFAR that of the code for PyTorch, with a poorer mask for smaller maps.
VARIANTS = {
    'residual_attention_56': ResidualAttention(),
    'residual_attention_92': ResidualAttention((1, 2, 3)),
    'residual_attention_92_cifar': ResidualAttention(
        (1, 2, 3), (2, 1, 0), (128, 256, 512, 1024), last_stride=1, stem_width=32, stem_stride=1
    ),
    'residual_attention_test': ResidualAttention((1,), (1,), (16, 16), 1, stem_width=8),
    'residual_attention_deep_test': ResidualAttention((1, 0, 0), (2, 1, 0), (16, 16, 16, 32), 1, stem_width=8),
}

# Accuracies: the authors' repository, which has that of 92 layers at 320 pixels.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/1704.06904')
PUBLISHED = {
    'residual_attention_56': _FIGURES((224, 224), top1=78.24),
    'residual_attention_92': _FIGURES((320, 320), top1=80.5),
    'residual_attention_92_cifar': _FIGURES((32, 32)),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_CONVS = ('conv1/conv', 'conv2/conv', 'conv3')
_NORMS = ('norm', 'conv1/norm', 'conv2/norm')
# The units in the mask of each stage, from where it narrows to where it is wide again, and the 1x1 convolutions.
_MASKS = (
    ('down0', 'down1', 'middle{k}', 'up1', 'up0', ''),
    ('down0', 'middle{k}', 'up0', ''),
    ('middle{k}', ''),
)


def _unit_names(there: str, here: str, *, projects: bool) -> list[tuple[str, str]]:
    """The names of a unit; those that do not project have a kernel for it nevertheless, of no effect."""
    return [
        *((f'{there}.conv{k + 1}.weight', f'{here}/{conv}/kernel') for k, conv in enumerate(_CONVS)),
        *((f'{there}.bn{k + 1}.{a}', f'{here}/{norm}/{b}') for k, norm in enumerate(_NORMS) for a, b in _NORM),
        (f'{there}.conv4.weight', f'{here}/shortcut/kernel' if projects else ''),
    ]


def _gate_names(there: str, here: str) -> list[tuple[str, str]]:
    return [
        *((f'{there}.{k}.{a}', f'{here}/{norm}/{b}') for k, norm in ((0, 'norm'), (3, 'conv1/norm')) for a, b in _NORM),
        *((f'{there}.{k}.weight', f'{here}/{conv}/kernel') for k, conv in ((2, 'conv1/conv'), (5, 'conv2'))),
    ]


def _mask_names(there: str, here: str, stage: int) -> list[tuple[str, str]]:
    units = [('skip1_connection_residual_block', 'skip0'), ('skip2_connection_residual_block', 'skip1')]
    for index, unit in enumerate(_MASKS[stage]):
        units.append((f'softmax{index + 1}_blocks' + ('.{k}' if unit == 'middle{k}' else ''), unit))
    units += [('down_residual_blocks1', 'down0'), ('middle_2r_blocks.{k}', 'middle{k}')]
    units += [('up_residual_blocks1', 'up0'), ('conv1_1_blocks', '')]
    return [
        pair
        for name, unit in units
        for pair in (
            _unit_names(f'{there}.{name}', f'{here}/mask/{unit}', projects=False)
            if unit
            else _gate_names(f'{there}.{name}', f'{here}/mask')
        )
    ]


def _module_names(there: str, here: str, stage: int) -> list[tuple[str, str]]:
    units = (('first_residual_blocks', 'first'), ('trunk_branches.{k}', 'trunk{k}'), ('last_blocks', 'last'))
    found = [_unit_names(f'{there}.{name}', f'{here}/{unit}', projects=False) for name, unit in units]
    return [*(pair for unit in found for pair in unit), *_mask_names(there, here, stage)]


def _stage_names(stage: int) -> list[tuple[str, str]]:
    here, module = f'backbone/stage{stage}', f'attention_module{stage + 1}'
    return [
        *_unit_names(f'residual_block{stage + 1}', f'{here}/block00', projects=True),
        *_module_names(module, f'{here}/block01', stage),
        *_module_names(f'{module}_{{i}}', f'{here}/block{{i:02d}}', stage),
    ]


NAMES = {
    'ResidualAttention': (
        ('conv1.0.weight', 'backbone/stem/conv/kernel'),
        *((f'conv1.1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *(pair for stage in range(3) for pair in _stage_names(stage)),
        *_unit_names('residual_block4', 'backbone/stage3/block00', projects=True),
        *_unit_names('residual_block5', 'backbone/stage3/block01', projects=False),
        *_unit_names('residual_block6', 'backbone/stage3/block02', projects=False),
        *((f'mpool2.0.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
