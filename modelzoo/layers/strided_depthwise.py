"""Depthwise convolution with a stride, in the form that suits the platform.

XLA's grouped convolution is slow on a CPU (see conv.py), so there this is every so manyth pixel of `conv.depthwise`,
which is the faster one although most of its pixels are thrown away; elsewhere it is XLA's convolution.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from modelzoo.layers import init
from modelzoo.layers.conv import convolve, depthwise


class StridedDepthwise(nn.Module):
    """One odd square kernel a channel, no bias.

    Attributes:
        kernel_size: side of the kernel.
        stride: step of the output grid.
        padding: zeros on each side, at most kernel_size // 2; 'SAME' for TensorFlow's.
        kernel_init: initial values; by default torch's.
        dtype: compute type.
    """

    kernel_size: int
    stride: int
    padding: int | str
    kernel_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
        """Convolves each channel with its kernel."""
        side, initial = self.kernel_size, self.kernel_init or init.uniform_fan_in(self.kernel_size**2)
        kernel = self.param('kernel', initial, (side, side, 1, x.shape[-1])).astype(self.dtype)
        return strided_depthwise(x.astype(self.dtype), kernel, self.stride, self.padding)


def strided_depthwise(x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j 1 c'], stride: int, padding: int | str
                      ) -> Float[Array, 'b h2 w2 c']:
    """Returns a depthwise correlation; the kernel is odd, zeros on each side are at most half of it.

    Args:
        x: images.
        kernel: one for each channel.
        stride: step of the output grid.
        padding: zeros on each side, or 'SAME' for TensorFlow's: h / stride pixels, rounded up.
    """
    rows, columns = (_places(*axis, stride, padding) for axis in zip(x.shape[1:3], kernel.shape[:2]))
    if stride == 1 and (rows, columns) == (slice(0, x.shape[1], 1), slice(0, x.shape[2], 1)):
        return depthwise(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=lambda x, kernel: depthwise(x, kernel)[:, rows, columns],
                                  default=lambda x, kernel: convolve(x, kernel, stride, padding))


def _places(size: int, side: int, stride: int, padding: int | str) -> slice:
    """Returns which pixels of the convolution that keeps the size are the result."""
    if isinstance(padding, int):
        before = after = padding
    else:
        (before, after), = lax.padtype_to_pads((size,), (side,), (stride,), padding)
    first = side // 2 - before
    count = (size + before + after - side) // stride + 1
    return slice(first, first + (count - 1) * stride + 1, stride)
