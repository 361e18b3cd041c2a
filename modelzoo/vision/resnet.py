"""ResNet, ResNeXt, wide ResNets and ResNet-D.

He et al., 2015, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385.
Xie et al., 2016, "Aggregated Residual Transformations for Deep Neural Networks", https://arxiv.org/abs/1611.05431.
Zagoruyko and Komodakis, 2016, "Wide Residual Networks", https://arxiv.org/abs/1605.07146.
He et al., 2018, "Bag of Tricks for Image Classification with Convolutional Neural Networks",
https://arxiv.org/abs/1812.01187: a deep stem, and shortcuts that average ("ResNet-D"); with efficient channel attention
(https://arxiv.org/abs/1910.03151) as in timm.
Han et al., 2022, "Learning Features with Parameter-Free Layers", https://arxiv.org/abs/2202.02777: maxima of 3x3 pixels
in the place of 3x3 convolutions; reference https://github.com/naver-ai/PfLayer (Apache-2.0), resnet_pf.py.
Connections between stages, HiResNet's: layers/residuals/hierarchical.py.
References: timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0) and torchvision, whose
parameter names are the same; for CIFAR https://github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause) and
https://github.com/xternalz/WideResNet-pytorch (MIT).

Details of the published code that are not in the papers, kept here:
  * the stride of a bottleneck is in the 3x3 convolution; in the paper it is in the first 1x1 convolution;
  * the scale of the last norm of each branch is initially 0 (Goyal et al., 2017, https://arxiv.org/abs/1706.02677);
  * in wide ResNets for CIFAR a projection reads the output of the block's first norm and ReLU, not its input.
We differ in the initial values of a head, which are those of modelzoo/heads, and in that wide ResNets have no dropout
inside their blocks.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import (
    AverageProjection,
    ConvNorm,
    DeepStem,
    PlainConv,
    Stem,
    projection,
)
from longview.modelzoo.layers.convolutions.efficient_attention import EfficientAttention
from longview.modelzoo.layers.convolutions.spatial import Hybrid, MaxPool
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.activation import Activation, made
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.residuals import hierarchical
from longview.modelzoo.layers.residuals.residual import Add, SetsInitialValues, SharesValues, Single, Stream


class Subsample(nn.Module):
    """The shortcut without parameters ("option A"): subsampling, and zeros on both sides for the additional channels.

    Attributes:
        features, stride, norm, dtype: as in `conv_norm.projection`; the last two are unused.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        del train
        new = self.features - x.shape[-1]
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class Basic(nn.Module):
    """``relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`` with two 3x3 convolutions.

    Attributes:
        features: output channels.
        stride: stride of the first convolution.
        norm: factory of the normalization.
        shortcut: factory of the module that replaces the identity where the shape changes.
        dtype: compute type.
        residual: factory of the connection.
        act: activation after each norm inside the branch (see layers/frame/activation.py); `evonorm.unchanged` for a
            norm that includes one.
        end_norm: factory of the norms without an activation after them: the last one of the branch and that of the
            shortcut; by default `norm`.
        attention: factory of a part that rescales the channels of the branch at its end; None for none.
        conv: factory of the 3x3 convolutions, with the arguments of `conv.Conv`.
        sum_act: activation after the sum.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    shortcut: Callable[..., nn.Module] = projection
    dtype: DTypeLike = jnp.float32
    residual: Callable[..., nn.Module] = Add
    act: Activation = nn.relu
    end_norm: Callable[..., nn.Module] | None = None
    attention: Callable[..., nn.Module] | None = None
    conv: Callable[..., nn.Module] = PlainConv
    sum_act: Activation = nn.relu

    @nn.compact
    def __call__(self, s: Stream, mask: Float[Array, ' b'] | None, *, train: bool = False) -> Stream:
        """Returns the stream of maps after the block; `mask` is this block's part of `drop.path_masks`."""

        def branch(x: Array) -> Array:
            conv = functools.partial(ConvNorm, self.features, 3, dtype=self.dtype, conv=self.conv)
            y = conv(stride=self.stride, norm=self.norm, name='conv1')(x, train=train)
            y = made(self.act, 'act1')(y)
            return drop_path(_attended(self, conv(norm=_last_norm(self), name='conv2')(y, train=train)), mask)

        return _join(self, s, branch, train=train)


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + branch(x))``: a 1x1 convolution to fewer channels, a 3x3 one, and a 1x1 one back.

    Attributes:
        features, stride, norm, shortcut, dtype, residual, act, end_norm, attention, conv, sum_act: as in `Basic`; the
            stride is that of the 3x3 convolution.
        groups: groups of the 3x3 convolution ("cardinality").
        base_width: the 3x3 convolution has ``features / 4 * base_width / 64`` channels in each group.
        spatial: factory of what stands in the place of the 3x3 convolution with its norm and activation (see
            layers/convolutions/spatial.py); None for these, and `groups` and `conv` are theirs alone.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    shortcut: Callable[..., nn.Module] = projection
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    base_width: int = 64
    residual: Callable[..., nn.Module] = Add
    act: Activation = nn.relu
    end_norm: Callable[..., nn.Module] | None = None
    attention: Callable[..., nn.Module] | None = None
    conv: Callable[..., nn.Module] = PlainConv
    sum_act: Activation = nn.relu
    spatial: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, s: Stream, mask: Float[Array, ' b'] | None, *, train: bool = False) -> Stream:
        """Returns the stream of maps after the block; `mask` is this block's part of `drop.path_masks`."""

        def branch(x: Array) -> Array:
            width = self.features // 4 * self.base_width // 64 * self.groups
            conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
            y = made(self.act, 'act1')(conv(width, 1, name='conv1')(x, train=train))
            if self.spatial is None:
                y = conv(width, 3, self.stride, groups=self.groups, conv=self.conv, name='conv2')(y, train=train)
                y = made(self.act, 'act2')(y)
            else:
                y = self.spatial(width, self.stride, self.norm, self.act, self.dtype, name='spatial')(y, train=train)
            last = ConvNorm(self.features, 1, norm=_last_norm(self), dtype=self.dtype, name='conv3')
            return drop_path(_attended(self, last(y, train=train)), mask)

        return _join(self, s, branch, train=train)


def _last_norm(block: Basic | Bottleneck) -> Callable[..., nn.Module]:
    return functools.partial(block.end_norm or block.norm, scale_init=jax.nn.initializers.zeros)


def _attended(block: Basic | Bottleneck, y: Array) -> Array:
    return y if block.attention is None else block.attention(dtype=block.dtype, name='attention')(y)


def _join(block: Basic | Bottleneck, s: Stream, branch: Callable[[Array], Array], *, train: bool) -> Stream:
    """Returns ``relu(shortcut(s) + branch(s))`` inside the block's ``__call__``.

    A connection with several copies of the map cannot span a block that changes the shape; it is closed before such a
    block and opened again after it.
    """
    outer = block.residual(name='residual')
    if isinstance(outer, (SetsInitialValues, SharesValues)):
        raise NotImplementedError(
            f'{type(outer).__name__} reaches into a branch, and convolutions with norms do not '
            'let it: use vision/fixup_resnet.py for Fixup, or choose another residual.'
        )
    channels = outer.close(s).shape[-1]
    changes = block.stride != 1 or channels != block.features
    restarts = changes and not isinstance(outer, Single)
    join, s = (Add(parent=None), outer.close(s)) if restarts else (outer, s)
    y = branch(join.read(s))
    if changes:
        norm = block.end_norm or block.norm
        shortcut = block.shortcut(block.features, block.stride, norm, block.dtype, name='shortcut')
        s = join.carry(s, lambda x: shortcut(x, train=train))
    s = join.write(join.carry(s, lambda x: x.astype(y.dtype)), y)
    s = join.carry(s, made(block.sum_act, 'sum_act'))
    return outer.open(s) if restarts else s


class WideBasic(nn.Module):
    """Two 3x3 convolutions, each after a norm and ReLU, as in He et al., 2016, https://arxiv.org/abs/1603.05027.

    Attributes:
        features: output channels.
        stride: stride of the first convolution.
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
        norm, conv = (functools.partial(part, dtype=self.dtype) for part in (self.norm, PlainConv))
        y = nn.relu(norm(name='norm1')(x, train=train))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, name='shortcut')(y)
        y = conv(self.features, 3, self.stride, 1, name='conv1')(y)
        y = nn.relu(norm(name='norm2')(y, train=train))
        return x + drop_path(conv(self.features, 3, 1, 1, name='conv2')(y), mask)


class ResNet(ft.HalvingBackbone):
    """The network of the first paper and of ResNeXt; each stage halves the resolution of the one before.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        block: factory of a block, `Basic` or `Bottleneck`, or one for each block.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: 4 for ImageNet, 1 for CIFAR; see `conv_norm.Stem`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        residual: factory of the connections of the blocks to the stream of maps.
        act, end_norm: those of the stem and the blocks; see `Basic`. The activation after each sum is `sum_act`.
        stem: factory of the stem: `conv_norm.Stem` or `conv_norm.DeepStem`.
        conv, sum_act: those of the blocks; see `Basic`.
        across: factory of the connections from earlier levels into a stage, such as
            `hierarchical.HierarchicalResidual`; None for none.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    block: pyramid.Blocks = Bottleneck
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 64
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    residual: Callable[..., nn.Module] = Add
    act: Activation = nn.relu
    end_norm: Callable[..., nn.Module] | None = None
    stem: Callable[..., nn.Module] = Stem
    conv: Callable[..., nn.Module] = PlainConv
    sum_act: Activation = nn.relu
    across: Callable[..., nn.Module] | None = None

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block with what is added before or after it; no other layer follows."""
        groups = [list(group) for group in pyramid.layers(self.depths)]
        for stage, depth in enumerate(self.depths):
            if self.across is not None:
                first = 1 + sum(self.depths[:stage])
                groups[first].append(f'{ft.stage(stage)}_input')
                groups[first + depth - 1].append(f'{ft.stage(stage)}_output')
        return tuple(map(tuple, groups))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        stem = self.stem(self.stem_width, self.stem_stride, self.norm, self.dtype, self.act, name='stem')(
            x, train=train
        )
        parts = {
            'norm': self.norm,
            'dtype': self.dtype,
            'act': self.act,
            'end_norm': self.end_norm,
            'conv': self.conv,
            'sum_act': self.sum_act,
        }
        blocks = [functools.partial(block, **parts) for block in pyramid.each(self.block, sum(self.depths))]
        stages = pyramid.connected(pyramid.halving(blocks, self.widths, self.depths), self.residual)
        maps = pyramid.run(
            self,
            stem,
            stages,
            drop_path=self.drop_path,
            remat=self.remat,
            train=train,
            residual=self.residual,
            across=None if self.across is None else functools.partial(self._across, stem, train),
        )
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}

    def _across(self, stem: Array, train: bool, stage: int, place: str, x: Array, maps: list[Array]) -> Array:
        """Returns the input or output of a stage with what it gets from all levels before the one that it reads."""
        if stage == 0:
            return x
        # The stem and the first stage have one size; the input of a stage has that of the stage before.
        levels, halved = [stem, *maps[:-1]], [0, *range(stage - 1)]
        strides = [2 ** (stage - (place == hierarchical.INPUT) - times) for times in halved]
        norm, name = self.end_norm or self.norm, f'{ft.stage(stage)}_{place}'
        return self.across(place, norm=norm, dtype=self.dtype, name=name)(x, levels, strides, train=train)


class ResNetD(ResNet):
    """ResNet-D: a `ResNet` with a deep stem and shortcuts that average; its published names are others.

    Attributes:
        block, stem: as in `ResNet`.
    """

    block: pyramid.Blocks = functools.partial(Bottleneck, shortcut=AverageProjection)
    stem: Callable[..., nn.Module] = DeepStem


class PfResNet(ResNet):
    """A `ResNet` with parameter-free layers in its bottlenecks; its published names are others.

    Attributes:
        block: as in `ResNet`.
    """

    block: pyramid.Blocks = functools.partial(Bottleneck, spatial=MaxPool)


class WideResNet(ft.PyramidBackbone):
    """The wide network for CIFAR: a 3x3 convolution, stages of `WideBasic`, a last norm.

    Attributes:
        depths: blocks of each stage; a network of d layers has three stages of (d - 4) / 6 blocks.
        widths: output channels of each stage: 16 k, 32 k, 64 k.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        drop_path, dtype, remat: as in `ResNet`.
    """

    depths: Sequence[int] = (4, 4, 4)
    widths: Sequence[int] = (160, 320, 640)
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 16
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4."""
        return tuple(2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm."""
        return pyramid.layers(self.depths, ['norm'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``."""
        stem = PlainConv(self.stem_width, 3, 1, 1, self.dtype, name='stem')(x)
        block = functools.partial(WideBasic, norm=self.norm, dtype=self.dtype)
        stages = pyramid.halving(block, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(maps[-1], train=train))
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}


_BASIC = {'block': Basic, 'widths': (64, 128, 256, 512)}
_CIFAR = {
    'block': functools.partial(Basic, shortcut=Subsample),
    'widths': (16, 32, 64),
    'stem_width': 16,
    'stem_stride': 1,
}


def _next(groups: int, base_width: int) -> Callable[..., nn.Module]:
    return functools.partial(Bottleneck, groups=groups, base_width=base_width)


_BASIC_D = {'block': functools.partial(Basic, shortcut=AverageProjection), 'widths': (64, 128, 256, 512)}
_HYBRID = functools.partial(Bottleneck, spatial=Hybrid)
_ECA = functools.partial(Bottleneck, shortcut=AverageProjection, attention=EfficientAttention)


def _wide(layers: int, factor: int) -> WideResNet:
    return WideResNet(((layers - 4) // 6,) * 3, (16 * factor, 32 * factor, 64 * factor))


# ResNet: table 1, and section 4.2 for CIFAR (6 n + 2 layers). ResNeXt: table 1, and torchvision's sizes of 101 layers.
# Wide ResNets: table 1, and WRN-50-2-bottleneck for ImageNet. ResNet-D: 50 layers in the paper, the others timm's.
# ``_max`` and ``_hybrid``: the names of the authors' code.
VARIANTS = {
    'resnet18': ResNet((2, 2, 2, 2), **_BASIC),
    'resnet34': ResNet((3, 4, 6, 3), **_BASIC),
    'resnet50': ResNet(),
    'resnet101': ResNet((3, 4, 23, 3)),
    'resnet152': ResNet((3, 8, 36, 3)),
    'wide_resnet50_2': ResNet(block=_next(1, 128)),
    'wide_resnet101_2': ResNet((3, 4, 23, 3), block=_next(1, 128)),
    'resnext50_32x4d': ResNet(block=_next(32, 4)),
    'resnext101_32x4d': ResNet((3, 4, 23, 3), block=_next(32, 4)),
    'resnext101_32x8d': ResNet((3, 4, 23, 3), block=_next(32, 8)),
    'resnext101_64x4d': ResNet((3, 4, 23, 3), block=_next(64, 4)),
    **{f'resnet{6 * n + 2}_cifar': ResNet((n, n, n), **_CIFAR) for n in (3, 5, 7, 9, 18)},
    'wrn_16_8_cifar': _wide(16, 8),
    'wrn_22_8_cifar': _wide(22, 8),
    'wrn_28_10_cifar': _wide(28, 10),
    'wrn_40_4_cifar': _wide(40, 4),
    'resnet18d': ResNetD((2, 2, 2, 2), **_BASIC_D),
    'resnet34d': ResNetD((3, 4, 6, 3), **_BASIC_D),
    'resnet26d': ResNetD((2, 2, 2, 2)),
    'resnet50d': ResNetD(),
    'resnet101d': ResNetD((3, 4, 23, 3)),
    'resnet152d': ResNetD((3, 8, 36, 3)),
    'resnet200d': ResNetD((3, 24, 36, 3)),
    'ecaresnet50d': ResNetD(block=_ECA),
    'ecaresnet101d': ResNetD((3, 4, 23, 3), block=_ECA),
    'ecaresnet269d': ResNetD((3, 30, 48, 8), block=_ECA),
    'resnet50_max': PfResNet(),
    'resnet50_hybrid': PfResNet(block=_HYBRID),
    'ecaresnetd_test': ResNetD((1, 2), (32, 64), _ECA, stem_width=32),
    'resnet_test': ResNet((1, 2), (32, 64), _next(2, 64), stem_width=16),
    'resnet_hybrid_test': PfResNet((1, 1), (16, 32), _HYBRID, stem_width=8, stem_stride=1),
    'resnet_cifar_test': ResNet(
        (2, 1), (8, 16), functools.partial(Basic, shortcut=Subsample), stem_width=8, stem_stride=1
    ),
    'wrn_test': WideResNet((1, 1), (8, 16), stem_width=8),
}

# Accuracies are those of the papers: 10-crop for ResNet-18, ResNet-34 and wide ResNets on ImageNet, else one crop.
_RESNET = functools.partial(ft.Published, 'https://arxiv.org/abs/1512.03385', (224, 224))
_CIFAR_RESNET = functools.partial(ft.Published, 'https://arxiv.org/abs/1512.03385', (32, 32))
_NEXT = functools.partial(ft.Published, 'https://arxiv.org/abs/1611.05431', (224, 224))
_WIDE = functools.partial(ft.Published, 'https://arxiv.org/abs/1605.07146')
# Of ResNet-50-D the figures were not compared with the paper's text, which was not at hand.
_D = functools.partial(ft.Published, 'https://arxiv.org/abs/1812.01187', (224, 224))
# The table of the authors' repository; longer training reaches 75.5 and 78.0.
_FREE = functools.partial(ft.Published, 'https://arxiv.org/abs/2202.02777', (224, 224))
PUBLISHED = {
    'resnet18': _RESNET(macs=1.8, top1=72.12),
    'resnet34': _RESNET(macs=3.6, top1=75.97),
    'resnet50': _RESNET(macs=3.8, top1=77.15),
    'resnet101': _RESNET(macs=7.6, top1=78.25),
    'resnet152': _RESNET(macs=11.3, top1=78.57),
    'resnet50d': _D(macs=4.3, top1=77.16),
    'resnet50_max': _FREE(params=14.2, macs=2.2, top1=74.3),
    'resnet50_hybrid': _FREE(params=17.3, macs=2.6, top1=77.1),
    'wide_resnet50_2': _WIDE((224, 224), params=68.9, top1=78.1),
    'resnext50_32x4d': _NEXT(params=25.0, macs=4.2, top1=77.8),
    'resnext101_32x4d': _NEXT(macs=8.0, top1=78.8),
    'resnext101_64x4d': _NEXT(macs=15.6, top1=79.6),
    **{
        f'resnet{layers}_cifar': _CIFAR_RESNET(params=params)
        for layers, params in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7))
    },
    'wrn_16_8_cifar': _WIDE((32, 32), params=11.0),
    'wrn_22_8_cifar': _WIDE((32, 32), params=17.2),
    'wrn_28_10_cifar': _WIDE((32, 32), params=36.5),
    'wrn_40_4_cifar': _WIDE((32, 32), params=8.9),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))


def _block_names(there: str, here: str, first: int = 0) -> tuple[tuple[str, str], ...]:
    """Returns the names of a block; the shortcut's convolution is number `first`, behind what has no parameters."""
    return (
        (f'{there}.conv{{k}}.weight', f'{here}/conv{{k}}/conv/kernel'),
        *((f'{there}.bn{{k}}.{a}', f'{here}/conv{{k}}/norm/{b}') for a, b in _NORM),
        (f'{there}.downsample.{first}.weight', f'{here}/shortcut/conv/kernel'),
        *((f'{there}.downsample.{first + 1}.{a}', f'{here}/shortcut/norm/{b}') for a, b in _NORM),
        (f'{there}.se.conv.weight', f'{here}/attention/kernel'),
    )


def _wide_block_names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    return (
        (f'{there}.conv{{k}}.weight', f'{here}/conv{{k}}/kernel'),
        *((f'{there}.bn{{k}}.{a}', f'{here}/norm{{k}}/{b}') for a, b in _NORM),
        (f'{there}.convShortcut.weight', f'{here}/shortcut/kernel'),
    )


def _transformers_convs(there: str, here: str) -> tuple[tuple[str, str], ...]:
    return (
        (f'{there}.convolution.weight', f'{here}/conv/kernel'),
        *((f'{there}.normalization.{a}', f'{here}/norm/{b}') for a, b in _NORM),
    )


_LAYER, _HERE = 'encoder.stages.{s}.layers.{i}', 'backbone/stage{s}/block{i:02d}'
_TRANSFORMERS_NAMES = (
    *_transformers_convs('embedder.embedder', 'backbone/stem'),
    *_transformers_convs(f'{_LAYER}.shortcut', f'{_HERE}/shortcut'),
    *(pair for k in range(3) for pair in _transformers_convs(f'{_LAYER}.layer.{k}', f'{_HERE}/conv{k + 1}')),
    *((f'classifier.1.{name}', f'head/{ours}') for name, ours in (('weight', 'kernel'), ('bias', 'bias'))),
)


def _pf_names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    """Returns the names of a convolution with a norm in PfLayer."""
    norm = ((f'{there}.1.{a}', f'{here}/norm/{b}') for a, b in _NORM)
    return ((f'{there}.0.weight', f'{here}/conv/kernel'), *norm)


_PF_PARTS = (
    ('reduction_block', 'conv1'),
    ('conv_block', 'conv2'),
    ('conv_block.1', 'spatial'),
    ('expansion_block', 'conv3'),
    ('downsample', 'shortcut'),
)
_DEEP_STEM = (('conv1.0', 'conv1.1', 0), ('conv1.3', 'conv1.4', 1), ('conv1.6', 'bn1', 2))
NAMES = {
    'ResNetD': (
        *((f'{conv}.weight', f'backbone/stem/conv{k}/conv/kernel') for conv, _, k in _DEEP_STEM),
        *((f'{norm}.{a}', f'backbone/stem/conv{k}/norm/{b}') for _, norm, k in _DEEP_STEM for a, b in _NORM),
        *(
            pair
            for stage in range(4)
            for pair in _block_names(f'layer{stage + 1}.{{i}}', f'backbone/stage{stage}/block{{i:02d}}', first=1)
        ),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
    'ResNet': (
        ('conv1.weight', 'backbone/stem/conv/kernel'),
        *((f'bn1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *(
            pair
            for stage in range(4)
            for pair in _block_names(f'layer{stage + 1}.{{i}}', f'backbone/stage{stage}/block{{i:02d}}')
        ),
        *(
            (f'{head}.{name}', f'head/{ours}')
            for head in ('fc', 'linear')  # the second name is that of the code for CIFAR
            for name, ours in (('weight', 'kernel'), ('bias', 'bias'))
        ),
        *_TRANSFORMERS_NAMES,
    ),
    'PfResNet': (
        *_pf_names('conv1', 'backbone/stem'),
        *(
            pair
            for stage in range(4)
            for there, here in _PF_PARTS
            for pair in _pf_names(f'layer{stage + 1}.{{i}}.{there}', f'backbone/stage{stage}/block{{i:02d}}/{here}')
        ),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
    'WideResNet': (
        ('conv1.weight', 'backbone/stem/kernel'),
        *(
            pair
            for stage in range(3)
            for pair in _wide_block_names(f'block{stage + 1}.layer.{{i}}', f'backbone/stage{stage}/block{{i:02d}}')
        ),
        *((f'bn1.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
