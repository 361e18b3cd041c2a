"""Pre-activation ResNets, and Big Transfer (BiT).

He et al., 2016, "Identity Mappings in Deep Residual Networks", https://arxiv.org/abs/1603.05027.
Kolesnikov et al., 2019, "Big Transfer (BiT): General Visual Representation Learning",
https://arxiv.org/abs/1912.11370: group normalization and standardized kernels in place of batch normalization.
He et al., 2018, "Bag of Tricks for Image Classification with Convolutional Neural Networks",
https://arxiv.org/abs/1812.01187: a deep stem, and shortcuts that average ("d").
Reference: timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0), which has BiT's published
weights (https://github.com/google-research/big_transfer, Apache-2.0).

Details of the published code that are not in the papers, kept here:
  * the stride of a bottleneck is in the 3x3 convolution for ImageNet and in the first 1x1 for CIFAR
    (https://github.com/KaimingHe/resnet-1k-layers, no licence stated), and a projection reads the normalized input of
    the block;
  * there is no norm between the stem and the first block;
  * BiT's max-pooling pads with zeros, which can be the maximum; torch's padding never is.
We differ in the initial values of a head, which are those of modelzoo/heads; BiT's are 0. ResNet-200 has the form of
the others here; that of https://github.com/facebookarchive/fb.resnet.torch (BSD-3-Clause) normalizes the stem before
its pooling, and each projection by itself.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import PlainConv, stem_conv
from longview.modelzoo.layers.frame import pyramid, variants
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean, halve, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.evonorm import EvoNormS0, unchanged
from longview.modelzoo.layers.norms.norm import GroupNorm
from longview.modelzoo.layers.norms.weight_standardization import StandardizedConv


def torch_pool(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """3x3 max-pooling of stride 2, whose padding is never the maximum."""
    return max_pool(x, 3, 2, 1)


def zero_padded_pool(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """3x3 max-pooling of stride 2 with padding by zeros."""
    return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, 0)


class Stem(nn.Module):
    """One convolution, and pooling for stride 4.

    Attributes:
        features: output channels.
        stride: 4 for a 7x7 convolution, or 1 for a 3x3 convolution on small images.
        conv: factory of the convolution.
        pool: the pooling for stride 4.
        dtype: compute type.
    """

    features: int
    stride: int = 4
    conv: Callable[..., nn.Module] = PlainConv
    pool: Callable[[Array], Array] = torch_pool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        kernel_size, stride = stem_conv(self.stride)
        x = self.conv(self.features, kernel_size, stride, kernel_size // 2, dtype=self.dtype, name='conv')(x)
        return self.pool(x) if stride == 2 else x


class DeepStem(nn.Module):
    """Three 3x3 convolutions with norm and activation between them, and pooling for stride 4.

    Attributes:
        features, stride, conv, pool, dtype: as in `Stem`; the first two convolutions have half of the features.
        norm: factory of the normalizations.
        act: activation after each norm.
    """

    features: int
    stride: int = 4
    conv: Callable[..., nn.Module] = PlainConv
    pool: Callable[[Array], Array] = torch_pool
    dtype: DTypeLike = jnp.float32
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        _, step = stem_conv(self.stride)
        half, conv = self.features // 2, functools.partial(self.conv, dtype=self.dtype)
        for index, stride in ((1, step), (2, 1)):
            x = conv(half, 3, stride, 1, name=f'conv{index}')(x)
            x = self.act(self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train))
        x = conv(self.features, 3, 1, 1, name='conv3')(x)
        return self.pool(x) if step == 2 else x


class Basic(nn.Module):
    """``shortcut + conv(relu(norm(conv(relu(norm(x))))))`` with two 3x3 convolutions.

    Attributes:
        features: output channels.
        stride: stride of the first convolution.
        norm, conv: factories of the parts.
        dtype: compute type.
        act: activation after each norm; `evonorm.unchanged` for a norm that includes one.
        average: whether a projection reads means of 2x2 pixels where the stride is 2, and has none itself.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    conv: Callable[..., nn.Module] = PlainConv
    dtype: DTypeLike = jnp.float32
    act: Callable[[Array], Array] = nn.relu
    average: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        norm, conv = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.conv))
        y = self.act(norm(name='norm1')(x, train=train))
        x = _shortcut(self, x, y)
        y = conv(self.features, 3, self.stride, 1, name='conv1')(y)
        y = self.act(norm(name='norm2')(y, train=train))
        return x + drop_path(conv(self.features, 3, 1, 1, name='conv2')(y), mask)


class Bottleneck(nn.Module):
    """``shortcut + branch(x)``: convolutions 1x1 to a quarter of the features, 3x3, 1x1 back, each after norm and ReLU.

    Attributes:
        features, norm, conv, dtype, act, average: as in `Basic`.
        stride: stride of the 3x3 convolution, or of the first 1x1.
        stride_first: whether the stride is that of the first 1x1 convolution.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    conv: Callable[..., nn.Module] = PlainConv
    dtype: DTypeLike = jnp.float32
    act: Callable[[Array], Array] = nn.relu
    stride_first: bool = False
    average: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        norm, conv = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.conv))
        width = self.features // 4
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = self.act(norm(name='norm1')(x, train=train))
        x = _shortcut(self, x, y)
        y = conv(width, 1, first, 0, name='conv1')(y)
        y = self.act(norm(name='norm2')(y, train=train))
        y = conv(width, 3, second, 1, name='conv2')(y)
        y = self.act(norm(name='norm3')(y, train=train))
        return x + drop_path(conv(self.features, 1, 1, 0, name='conv3')(y), mask)


def _shortcut(block: Basic | Bottleneck, x: Array, normalized: Array) -> Array:
    """Returns the input, or where the shape changes a projection of the normalized input."""
    if block.stride == 1 and x.shape[-1] == block.features:
        return x
    stride = block.stride
    if block.average and stride == 2:
        normalized, stride = halve(normalized), 1
    return block.conv(block.features, 1, stride, 0, dtype=block.dtype, name='shortcut')(normalized)


class ResNetV2(ft.HalvingBackbone):
    """The pre-activation network.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        block: factory of a block: `Basic` or `Bottleneck`.
        norm, conv: factories of every normalization and convolution.
        act: activation after each norm; see `Basic`.
        pool: pooling of the stem.
        stem_width: channels after the stem.
        stem_stride: 4, or 1 for small images; see `Stem`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        scan: whether the blocks of a stage, except its first, share one compiled body.
        deep_stem: whether the stem is `DeepStem`.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    block: Callable[..., nn.Module] = Bottleneck
    norm: Callable[..., nn.Module] = BatchNorm
    conv: Callable[..., nn.Module] = PlainConv
    pool: Callable[[Array], Array] = torch_pool
    stem_width: int = 64
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    act: Callable[[Array], Array] = nn.relu
    scan: bool = False
    deep_stem: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm."""
        return pyramid.layers(self.depths, ['norm'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        stem = self._stem(x, train)
        block = functools.partial(self.block, norm=self.norm, conv=self.conv, dtype=self.dtype, act=self.act)
        stages = pyramid.halving(block, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train, scan=self.scan)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = self.act(self.norm(dtype=self.dtype, name='norm')(maps[-1], train=train))
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stem(self, x: Array, train: bool) -> Array:
        common = (self.stem_width, self.stem_stride, self.conv, self.pool, self.dtype)
        if self.deep_stem:
            return DeepStem(*common, self.norm, self.act, name='stem')(x, train=train)
        return Stem(*common, name='stem')(x)


_BASIC = {'block': Basic, 'widths': (64, 128, 256, 512)}
_D = {'block': functools.partial(Bottleneck, average=True), 'deep_stem': True}
_BASIC_D = _BASIC | {'block': functools.partial(Basic, average=True), 'deep_stem': True}
_BIT = {'norm': GroupNorm, 'conv': StandardizedConv, 'pool': zero_padded_pool}


def _bit(depths: Sequence[int], factor: int) -> ResNetV2:
    return ResNetV2(
        tuple(depths), tuple(factor * width for width in (256, 512, 1024, 2048)), stem_width=64 * factor, **_BIT
    )


def _cifar(depth: int, widths: Sequence[int], block: Callable[..., nn.Module]) -> ResNetV2:
    return ResNetV2((depth,) * 3, tuple(widths), block, stem_width=16, stem_stride=1)


_FIRST = functools.partial(Bottleneck, stride_first=True)

# For CIFAR, section 5: 110 layers with basic blocks (6 n + 2), the others with bottlenecks (9 n + 2).
# BiT: section 3.1 and table 5 of the appendix have the sizes R50x1 to R152x4: number of layers, factor on every width.
VARIANTS = {
    'resnetv2_18': ResNetV2((2, 2, 2, 2), **_BASIC),
    'resnetv2_34': ResNetV2((3, 4, 6, 3), **_BASIC),
    'resnetv2_50': ResNetV2(),
    'resnetv2_101': ResNetV2((3, 4, 23, 3)),
    'resnetv2_152': ResNetV2((3, 8, 36, 3)),
    'resnetv2_200': ResNetV2((3, 24, 36, 3)),
    'resnetv2_18d': ResNetV2((2, 2, 2, 2), **_BASIC_D),
    'resnetv2_34d': ResNetV2((3, 4, 6, 3), **_BASIC_D),
    'resnetv2_50d': ResNetV2(**_D),
    'resnetv2_101d': ResNetV2((3, 4, 23, 3), **_D),
    'resnetv2_152d': ResNetV2((3, 8, 36, 3), **_D),
    'resnetv2_50d_gn': ResNetV2(norm=GroupNorm, **_D),
    'resnetv2_50d_evos': ResNetV2(norm=EvoNormS0, act=unchanged, **_D),
    'preact_resnet110_cifar': _cifar(18, (16, 32, 64), Basic),
    **{f'preact_resnet{9 * n + 2}_cifar': _cifar(n, (64, 128, 256), _FIRST) for n in (18, 111)},
    'resnetv2_50x1_bit': _bit((3, 4, 6, 3), 1),
    'resnetv2_50x3_bit': _bit((3, 4, 6, 3), 3),
    'resnetv2_101x1_bit': _bit((3, 4, 23, 3), 1),
    'resnetv2_101x3_bit': _bit((3, 4, 23, 3), 3),
    'resnetv2_152x2_bit': _bit((3, 8, 36, 3), 2),
    'resnetv2_152x4_bit': _bit((3, 8, 36, 3), 4),
    'resnetv2_test': ResNetV2((1, 2), (16, 32), stem_width=16),
    'resnetv2d_test': ResNetV2(
        (1, 2), (32, 64), norm=functools.partial(EvoNormS0, 4), act=unchanged, stem_width=16, **_D
    ),
    'preact_resnet_test': ResNetV2((1, 3), (16, 32), _FIRST, stem_width=8, stem_stride=1),
    'bit_test': ResNetV2((1, 2), (32, 64), stem_width=16, **{**_BIT, 'norm': functools.partial(GroupNorm, 4)}),
}

# Top-1 of BiT: pre-trained on ImageNet-21k and fine-tuned on ImageNet-1k at 480 pixels ("BiT-M"), from the list in the
# authors' repository (R152x4 is also in table 1).
_V2 = functools.partial(ft.Published, 'https://arxiv.org/abs/1603.05027', image_size=(224, 224))
_TRANSFER = functools.partial(ft.Published, 'https://arxiv.org/abs/1912.11370', (224, 224))
PUBLISHED = {
    **{f'resnetv2_{layers}': _V2() for layers in (18, 34, 50, 101, 152, 200)},
    'preact_resnet110_cifar': _V2(image_size=(32, 32), params=1.7),
    'preact_resnet164_cifar': _V2(image_size=(32, 32), params=1.7),
    'preact_resnet1001_cifar': _V2(image_size=(32, 32), params=10.2),
    **{f'resnetv2_{size}_bit': _TRANSFER() for size in ('50x1', '50x3', '101x1', '101x3', '152x2')},
    'resnetv2_152x4_bit': _TRANSFER(top1=85.4),
}


def resnetv2(variant: str = 'resnetv2_50', *, groups: int | None = None, **fields: Any) -> ResNetV2:
    """Returns a variant with some fields changed; for the fields see `ResNetV2`.

    Args:
        variant: one of `VARIANTS`.
        groups: groups of the group normalization that replaces the norms of the variant.
        **fields: see `layers.frame.variants.changed`.

    Raises:
        ValueError: there is no such variant or field, or `groups` and `norm` are both given.
    """
    if groups and 'norm' in fields:
        raise ValueError(f'groups is {groups} and a norm is given: leave one of them out.')
    norm = {'norm': functools.partial(GroupNorm, groups)} if groups else {}
    return variants.variant(VARIANTS, variant, norm | fields)


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'), ('v', 'v'))
_BLOCK = 'backbone/stage{s}/block{i:02d}/'
_GROUP_NORM = (('gamma', 'scale'), ('beta', 'bias'))
# BiT's own, in JAX: stages and units count from 1, and a unit has the convolutions a, b and c.
_UNITS = [(f'block{s + 1}/unit{i + 1:02d}', f'backbone/stage{s}/block{i:02d}') for s in range(4) for i in range(36)]
_JAX_NAMES = (
    ('root_block/standardized_conv2d/kernel', 'backbone/stem/conv/kernel'),
    *(
        pair
        for there, here in _UNITS
        for k, part in enumerate('abc', 1)
        for pair in (
            (f'{there}/{part}/standardized_conv2d/kernel', f'{here}/conv{k}/kernel'),
            *((f'{there}/{part}/group_norm/{a}', f'{here}/norm{k}/{b}') for a, b in _GROUP_NORM),
        )
    ),
    *((f'{there}/a/proj/standardized_conv2d/kernel', f'{here}/shortcut/kernel') for there, here in _UNITS),
    *((f'group_norm/{a}', f'backbone/norm/{b}') for a, b in _GROUP_NORM),
    *((f'head/conv2d/{a}', f'head/{a}') for a in ('kernel', 'bias')),
)
_LAYER = 'encoder.stages.{s}.layers.{i}.'
_TRANSFORMERS_NAMES = (
    ('embedder.convolution.weight', 'backbone/stem/conv/kernel'),
    (_LAYER + 'conv{k}.weight', _BLOCK + 'conv{k}/kernel'),
    *((f'{_LAYER}norm{{k}}.{a}', f'{_BLOCK}norm{{k}}/{b}') for a, b in _NORM),
    (_LAYER + 'downsample.conv.weight', _BLOCK + 'shortcut/kernel'),
    *((f'classifier.1.{a}', f'head/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))),
)
NAMES = {
    'ResNetV2': (
        ('stem.conv.weight', 'backbone/stem/conv/kernel'),
        ('stem.conv{k}.weight', 'backbone/stem/conv{k}/kernel'),
        *((f'stem.norm{{k}}.{a}', f'backbone/stem/norm{{k}}/{b}') for a, b in _NORM),
        ('stages.{s}.blocks.{i}.conv{k}.weight', _BLOCK + 'conv{k}/kernel'),
        *((f'stages.{{s}}.blocks.{{i}}.norm{{k}}.{a}', f'{_BLOCK}norm{{k}}/{b}') for a, b in _NORM),
        ('stages.{s}.blocks.{i}.downsample.conv.weight', _BLOCK + 'shortcut/kernel'),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('head.fc.weight', 'head/kernel', 2),
        ('head.fc.bias', 'head/bias'),
        *_TRANSFORMERS_NAMES,
        *_JAX_NAMES,
    ),
}
