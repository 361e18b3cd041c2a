"""Depthwise convolution with a stride, and PyTorch's or TensorFlow's padding."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo.layers.frame import init


class StridedDepthwise(nn.Module):
    """One square kernel per channel, without bias.

    Attributes:
        kernel_size: side of the kernel.
        stride: step of the output grid.
        padding: zeros on each side, or 'SAME' for TensorFlow's padding.
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
        return depthwise_conv(x.astype(self.dtype), kernel, stride=self.stride, padding=self.padding)
