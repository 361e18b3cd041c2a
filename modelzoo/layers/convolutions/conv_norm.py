"""Convolution with normalization, and the shortcuts and stems of residual networks.

He et al., 2015, https://arxiv.org/abs/1512.03385, in torchvision's form, and He et al., 2018 (ResNet-D),
https://arxiv.org/abs/1812.01187; initial kernels by He's rule with the fan-out,
https://arxiv.org/abs/1502.01852.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv, Padding, keeping
from longview.modelzoo.layers.frame.activation import Activation, made
from longview.modelzoo.layers.frame.pool import halve, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

PlainConv = functools.partial(
    Conv, use_bias=False, kernel_init=jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
)


class ConvNorm(nn.Module):
    """``norm(conv(x))`` without bias; by default the padding keeps the size at stride 1.

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel, or (height, width).
        stride: step of the output grid.
        norm: factory of the normalization.
        dtype: compute type.
        groups: groups of the convolution.
        padding: of the convolution, as `conv.Conv` takes it; None keeps the size at stride 1.
        conv: factory of the convolution, with the arguments of `conv.Conv`.
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    padding: Padding | None = None
    conv: Callable[..., nn.Module] = PlainConv

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map; with the padding of default, of h / stride by w / stride pixels, rounded up."""
        conv = self.conv(
            self.features,
            self.kernel_size,
            self.stride,
            keeping(self.kernel_size) if self.padding is None else self.padding,
            self.dtype,
            groups=self.groups,
            name='conv',
        )
        return self.norm(dtype=self.dtype, name='norm')(conv(x), train=train)


def projection(features: int, stride: int, norm: Callable[..., nn.Module], dtype: DTypeLike, name: str) -> ConvNorm:
    """Returns the shortcut of a block that changes the shape: a 1x1 convolution and a norm ("option B")."""
    return ConvNorm(features, 1, stride, norm, dtype, name=name)


class AverageProjection(nn.Module):
    """The shortcut of ResNet-D: means of 2x2 pixels where the stride is 2, a 1x1 convolution, a norm.

    Attributes:
        features, stride, norm, dtype: as in `projection`.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = halve(x) if self.stride == 2 else x
        x = PlainConv(self.features, 1, 1, 0, self.dtype, name='conv')(x)
        return self.norm(dtype=self.dtype, name='norm')(x, train=train)


class Stem(nn.Module):
    """A convolution, a norm and an activation; for stride 4 also 3x3 max-pooling.

    Attributes:
        features: output channels.
        stride: 4 for a 7x7 convolution as on ImageNet, or 1 for a 3x3 convolution as on CIFAR.
        norm: factory of the normalization.
        dtype: compute type.
        act: activation; see layers/frame/activation.py.
    """

    features: int
    stride: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    act: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        kernel_size, stride = stem_conv(self.stride)
        conv = PlainConv(self.features, kernel_size, stride, kernel_size // 2, self.dtype, name='conv')
        x = made(self.act, 'act')(self.norm(dtype=self.dtype, name='norm')(conv(x), train=train))
        return max_pool(x, 3, 2, 1) if stride == 2 else x


class DeepStem(nn.Module):
    """Three 3x3 convolutions with norms and activations in the place of the 7x7 one; the first two are half as wide.

    Attributes:
        features, stride, norm, dtype, act: as in `Stem`; for stride 1 no convolution has a stride.
    """

    features: int
    stride: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    act: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        _, step = stem_conv(self.stride)
        for index, (width, stride) in enumerate(
            ((self.features // 2, step), (self.features // 2, 1), (self.features, 1))
        ):
            conv = ConvNorm(width, 3, stride, self.norm, self.dtype, name=f'conv{index}')
            x = made(self.act, f'act{index}')(conv(x, train=train))
        return max_pool(x, 3, 2, 1) if step == 2 else x


def stem_conv(stem_stride: int) -> tuple[int, int]:
    """Returns the kernel size and the stride of the convolution in a stem of stride 4 or 1.

    Raises:
        ValueError: another stride.
    """
    if stem_stride not in (1, 4):
        raise ValueError(f'stem_stride is {stem_stride}: use 4 for images of ImageNet size or 1 for small ones.')
    return (7, 2) if stem_stride == 4 else (3, 1)
