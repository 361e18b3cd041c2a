"""Convolution and normalization, and the first layers of a residual network made of them.

He et al., 2015, https://arxiv.org/abs/1512.03385, as torchvision builds it; kernels start by He's rule over the
outputs, https://arxiv.org/abs/1502.01852.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.pool import max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

PlainConv = functools.partial(
    Conv, use_bias=False, kernel_init=jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
)


class ConvNorm(nn.Module):
    """``norm(conv(x))``, no bias, padding that keeps the size at stride 1.

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel.
        stride: step of the output grid.
        norm: factory of the normalization.
        dtype: compute type.
        groups: of the convolution.
    """

    features: int
    kernel_size: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns h / stride rows, rounded up."""
        conv = PlainConv(
            self.features,
            self.kernel_size,
            self.stride,
            self.kernel_size // 2,
            self.dtype,
            groups=self.groups,
            name='conv',
        )
        return self.norm(dtype=self.dtype, name='norm')(conv(x), train=train)


def projection(features: int, stride: int, norm: Callable[..., nn.Module], dtype: DTypeLike, name: str) -> ConvNorm:
    """Returns the shortcut where a block changes the shape: a 1x1 convolution and a norm ("option B")."""
    return ConvNorm(features, 1, stride, norm, dtype, name=name)


class Stem(nn.Module):
    """An image to the first map: one convolution, the norm, an activation, and for stride 4 a 3x3 max-pooling.

    Attributes:
        features: output channels.
        stride: 4, a 7x7 convolution as for ImageNet, or 1, a 3x3 convolution as for CIFAR.
        norm: factory of the normalization.
        dtype: compute type.
        act: the activation.
    """

    features: int
    stride: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    act: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns h / stride rows, rounded up.

        Raises:
            ValueError: another stride.
        """
        kernel_size, stride = stem_conv(self.stride)
        conv = PlainConv(self.features, kernel_size, stride, kernel_size // 2, self.dtype, name='conv')
        x = self.act(self.norm(dtype=self.dtype, name='norm')(conv(x), train=train))
        return max_pool(x, 3, 2, 1) if stride == 2 else x


def stem_conv(stem_stride: int) -> tuple[int, int]:
    """Returns the kernel size and the stride of the convolution in a stem of stride 4 or 1.

    Raises:
        ValueError: another stride.
    """
    if stem_stride not in (1, 4):
        raise ValueError(f'stem_stride is {stem_stride}: use 4 for images of ImageNet size or 1 for small ones.')
    return (7, 2) if stem_stride == 4 else (3, 1)
