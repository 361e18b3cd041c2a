"""Convolutions with PyTorch's padding and initial values.

`nn.Conv(padding='SAME')` pads unevenly at stride 2, torch does not; here padding is a number of pixels on each side.
The convolutions are those of `kernels.conv2d` and `kernels.depthwise_conv`, whose implementation depends on the
platform.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.conv2d import conv2d
from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo.layers.frame import init

# As `kernels.conv2d` takes it.
Padding = int | str | tuple[tuple[int, int], tuple[int, int]]


class Conv(nn.Module):
    """A 2-D convolution with one stride for both axes.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, or (height, width).
        stride: step of the output grid.
        padding: zeros on each side, those of each axis as ((top, bottom), (left, right)), or 'SAME' for TensorFlow's
            padding, which is uneven where the stride is not 1.
        dtype: compute type.
        groups: number of groups of channels; see torch's Conv2d.
        use_bias: whether there is a bias.
        kernel_init: initial values of the kernel; by default torch's.
        bias_init: initial values of the bias; by default torch's.
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: Padding = 0
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    use_bias: bool = True
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``out_size(h) x out_size(w)`` pixels; with 'SAME', h / stride rounded up.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        shape = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        fan_in = math.prod(shape[:-1])
        kernel = self.param('kernel', self.kernel_init or init.uniform_fan_in(fan_in), shape)
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if not self.use_bias:
            return x
        bias = self.param('bias', self.bias_init or init.uniform_fan_in(fan_in), (self.features,))
        return x + bias.astype(self.dtype)[None, None, None]


def kernel_shape(
    channels: int, features: int, kernel_size: int | tuple[int, int], groups: int
) -> tuple[int, int, int, int]:
    """Returns the shape of a kernel from `channels` to `features`; its size is a side, or (height, width).

    Raises:
        ValueError: the groups do not divide both.
    """
    if channels % groups or features % groups:
        raise ValueError(
            f'{channels} input and {features} output channels do not divide into {groups} groups: '
            'change the width or the groups.'
        )
    return *sides(kernel_size), channels // groups, features


def sides(kernel_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns the height and width of a kernel of which a side is given, or both."""
    return (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)


def keeping(kernel_size: int | tuple[int, int]) -> Padding:
    """Returns the padding with which an odd kernel keeps the size at stride 1."""
    if isinstance(kernel_size, int):
        return kernel_size // 2
    return tuple((side // 2, side // 2) for side in kernel_size)


def convolve(
    x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j c2 d'], stride: int = 1, padding: Padding = 0
) -> Float[Array, 'b h2 w2 d']:
    """Returns the convolution (a correlation); the number of groups is the channels of `x` over those of `kernel`."""
    return conv2d(x, kernel, stride=stride, padding=padding)


def out_size(size: int, kernel_size: int, stride: int, padding: int) -> int:
    """Returns the number of output pixels along one side, by torch's rule."""
    return (size + 2 * padding - kernel_size) // stride + 1


class DepthwiseConv(nn.Module):
    """One kernel per channel, stride 1, zero padding that keeps the size.

    Attributes:
        kernel_size: odd side of the kernel, or (height, width).
        kernel_init: initial values; by default torch's.
        dtype: compute type.
        use_bias: whether there is a bias.
        bias_init: its initial values; by default torch's.
        dilation: distance in pixels between taps.
    """

    kernel_size: int | tuple[int, int]
    kernel_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32
    use_bias: bool = False
    bias_init: init.Initializer | None = None
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Convolves each channel with its kernel; returns a map of the same shape."""
        (rows, columns), channels = sides(self.kernel_size), x.shape[-1]
        torch_s = init.uniform_fan_in(rows * columns)
        kernel = self.param('kernel', self.kernel_init or torch_s, (rows, columns, 1, channels))
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), dilation=self.dilation)
        if not self.use_bias:
            return y
        bias = self.param('bias', self.bias_init or torch_s, (channels,))
        return y + bias.astype(self.dtype)[None, None, None]


def spread(kernel: Float[Array, 'i j c d'], dilation: int) -> Float[Array, 'i2 j2 c d']:
    """Returns the equivalent kernel without dilation, with zeros between its taps."""
    return lax.pad(kernel, jnp.zeros((), kernel.dtype), [(0, 0, dilation - 1)] * 2 + [(0, 0, 0)] * 2)
