"""Patch embeddings: from an image to the first map of features.

`Patches`: one matrix on non-overlapping squares, Dosovitskiy et al., 2020, https://arxiv.org/abs/2010.11929.
`ConvStem`: two overlapping convolutions instead, after Xiao et al., 2021, https://arxiv.org/abs/2106.14881.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv, out_size
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.norms.norm import LayerNorm


class Patches(nn.Module):
    """One matrix on each square of pixels: a convolution whose stride is the side of its kernel.

    Images whose sides do not divide are padded with zeros. It is computed as a matrix product, which is faster than
    XLA's convolution on a CPU, above all in the backward pass.

    Attributes:
        features: output channels.
        patch: side of the squares.
        kernel_init, bias_init: initial values; by default torch's.
        dtype: compute type.
        use_bias: whether a bias is added.
    """

    features: int
    patch: int
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``ceil(h / patch) x ceil(w / patch)`` pixels."""
        side, (batch, height, width, channels) = self.patch, x.shape
        torch_s = init.uniform_fan_in(side * side * channels)
        kernel = self.param('kernel', self.kernel_init or torch_s, (side, side, channels, self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = jnp.pad(x, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
        y = x.reshape(batch * rows * columns, -1) @ kernel.reshape(-1, self.features)
        if self.use_bias:
            y = y + self.param('bias', self.bias_init or torch_s, (self.features,)).astype(self.dtype)[None]
        return y.reshape(batch, rows, columns, self.features)


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Returns the rows and columns of patches.

    Raises:
        ValueError: the patch does not divide the image.
    """
    if height % patch or width % patch or not height or not width:
        near = [max(side - side % patch, patch) for side in (height, width)]
        raise ValueError(f'image {height}x{width} does not divide by patch {patch}: use e.g. {near[0]}x{near[1]}.')
    return height // patch, width // patch


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns (height, width) of an image size, which may be one number for a square."""
    return (size, size) if isinstance(size, int) else tuple(size)


class ConvStem(nn.Module):
    """conv of stride p / 2 -> LayerNorm -> activation -> 3x3 conv of stride 2 -> LayerNorm.

    The first kernel has side p / 2 + 1, and both convolutions pad by 1. So a patch of 16 turns 224x224 into 14x14; a
    patch of 2, whose first kernel has an even side, turns 8x8 into 5x5.

    Attributes:
        features: output channels; the first convolution has half as many.
        patch: total stride, an even number of pixels.
        activation: between the two convolutions.
        dtype: compute type.
    """

    features: int
    patch: int
    activation: Callable[[Array], Array]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``stem_grid(h, w, patch)`` pixels."""
        stride = self.patch // 2
        x = Conv(self.features // 2, stride + 1, stride, 1, dtype=self.dtype, name='conv0')(x)
        x = self.activation(LayerNorm(dtype=self.dtype, name='norm0')(x))
        x = Conv(self.features, 3, 2, 1, dtype=self.dtype, name='conv1')(x)
        return LayerNorm(dtype=self.dtype, name='norm1')(x)


def stem_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Returns the rows and columns that `ConvStem` makes.

    Raises:
        ValueError: the patch is odd, or does not divide the image.
    """
    if patch < 2 or patch % 2:
        raise ValueError(f'patch {patch} is not even: the two convolutions have strides patch / 2 and 2.')
    patch_grid(height, width, patch)
    first = [out_size(side, patch // 2 + 1, patch // 2, 1) for side in (height, width)]
    rows, columns = (out_size(side, 3, 2, 1) for side in first)
    return rows, columns


class Downsample(nn.Module):
    """3x3 convolution of stride 2, then LayerNorm.

    Attributes:
        features: output channels.
        dtype: compute type.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of half the sides, rounded up."""
        x = Conv(self.features, 3, 2, 1, self.dtype, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)
