"""Convolutions whose kernel is standardized over all inputs of each output channel.

Weight standardization: Qiao et al., 2019, https://arxiv.org/abs/1903.10520; scaled: Brock, De and Smith, 2021,
https://arxiv.org/abs/2101.08692. The epsilon and the biased variance follow timm's StdConv2d and ScaledStdConv2d
(https://github.com/huggingface/pytorch-image-models, Apache-2.0); DeepMind's Haiku code clips the variance times the
fan-in from below instead of adding an epsilon.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import convolve, kernel_shape
from longview.modelzoo.layers.frame import init


class StandardizedConv(nn.Module):
    """A convolution with the kernel ``(kernel - mean) / sqrt(var + epsilon)``, without bias.

    Attributes:
        features, kernel_size, stride, padding, dtype, groups: as in `conv.Conv`; the default padding keeps the size at
            stride 1.
        kernel_init: initial values of the kernel; their scale does not affect the output.
        epsilon: added to the variance of the kernel; the default is that of BiT's networks.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int | str | None = None
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    kernel_init: init.Initializer = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    epsilon: float = 1e-8

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns an image of the size that `conv.Conv` returns."""
        shape = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        kernel = standardize(self.param('kernel', self.kernel_init, shape), self.epsilon)
        padding = self.kernel_size // 2 if self.padding is None else self.padding
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)


class ScaledConv(nn.Module):
    """A convolution with bias and the kernel ``scale * gamma / sqrt(fan_in) * (kernel - mean) / sqrt(var + epsilon)``.

    Attributes:
        features, kernel_size, stride, padding, dtype, groups: as in `conv.Conv`; the default padding keeps the size at
            stride 1.
        gamma: compensates for the change of the variance by the preceding activation.
        scale_init: initial values of the scale, one per output channel.
        epsilon: added to the variance of the kernel.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int | str | None = None
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    gamma: float = 1.0
    scale_init: init.Initializer = jax.nn.initializers.ones
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns an image of the size that `conv.Conv` returns."""
        shape = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        initial = jax.nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
        kernel = standardize(self.param('kernel', initial, shape), self.epsilon)
        scale = self.param('scale', self.scale_init, (self.features,))
        kernel = kernel * (scale * (self.gamma / math.sqrt(math.prod(shape[:-1]))))[None, None, None]
        bias = self.param('bias', jax.nn.initializers.zeros, (self.features,))
        padding = self.kernel_size // 2 if self.padding is None else self.padding
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
        return x + bias.astype(self.dtype)[None, None, None]


def standardize(kernel: Float[Array, 'i j c d'], epsilon: float) -> Float[Array, 'i j c d']:
    """Returns the kernel with mean 0 and variance 1 for each output channel."""
    kernel = kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
    return kernel * jax.lax.rsqrt(jnp.mean(kernel * kernel, axis=(0, 1, 2), keepdims=True) + epsilon)
