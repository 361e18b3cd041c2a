"""What a bottleneck does between its two 1x1 convolutions: a 3x3 convolution, or an operation without parameters.

Han et al., 2022, "Learning Features with Parameter-Free Layers", https://arxiv.org/abs/2202.02777, whose networks take
maxima of 3x3 pixels there (`MaxPool`), or do so where the resolution stays and convolve where it is halved (`Hybrid`).
Reference: https://github.com/naver-ai/PfLayer (Apache-2.0), resnet_pf.py; as there, neither a norm nor an activation
follows an operation without parameters.

Where we differ: `Hybrid` averages the pixels that exist where a side is odd, and the reference drops the last row, with
which its own shortcut does not fit.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv_norm import PlainConv
from longview.modelzoo.layers.frame.activation import Activation, made
from longview.modelzoo.layers.frame.pool import avg_pool, halve, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


class Spatial(nn.Module):
    """What all have in common: a map of c channels to one of as many, of h / stride by w / stride pixels, rounded up.

    Attributes:
        features: channels, of the input too.
        stride: 1 or 2.
        norm: factory of the normalization after a convolution.
        act: activation after it; see layers/frame/activation.py.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    act: Activation = nn.relu
    dtype: DTypeLike = jnp.float32

    def _convolved(self, x: Array, stride: int, groups: int = 1, *, train: bool) -> Array:
        """Returns ``act(norm(conv(x)))`` inside a compact ``__call__``."""
        x = PlainConv(self.features, 3, stride, 1, self.dtype, groups=groups, name='conv')(x)
        return made(self.act, 'act')(self.norm(dtype=self.dtype, name='norm')(x, train=train))


class Convolved(Spatial):
    """A 3x3 convolution, a norm and an activation."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the map."""
        return self._convolved(x, self.stride, train=train)


class Depthwise(Spatial):
    """A 3x3 convolution of each channel by itself, a norm and an activation."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the map."""
        return self._convolved(x, self.stride, self.features, train=train)


class MaxPool(Spatial):
    """The maximum of 3x3 pixels; those outside of the image never win."""

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the map."""
        del train
        return max_pool(x, 3, self.stride, 1)


class MeanPool(Spatial):
    """The mean of 3x3 pixels; those outside of the image count as zeros."""

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the map."""
        del train
        return avg_pool(x, 3, self.stride, 1)


class Unchanged(Spatial):
    """The map itself, or every second row and column of it."""

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the map."""
        del train
        return x[:, :: self.stride, :: self.stride]


class Hybrid(Spatial):
    """`MaxPool` at stride 1; at stride 2 the means of 2x2 pixels, then a 3x3 convolution, a norm and an activation."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the map."""
        return max_pool(x, 3, 1, 1) if self.stride == 1 else self._convolved(halve(x), 1, train=train)
