"""Patch embeddings: an image to the first map of features.

Two overlapping convolutions in place of one of non-overlapping patches, after Xiao et al., 2021,
https://arxiv.org/abs/2106.14881.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from modelzoo.layers.conv import Conv, out_size
from modelzoo.layers.norm import LayerNorm


class ConvStem(nn.Module):
    """conv of stride p / 2 -> LayerNorm -> activation -> 3x3 conv of stride 2 -> LayerNorm.

    The first kernel has side p / 2 + 1, both pad by 1. So a patch of 16 makes 14x14 of 224x224; a patch of 2, whose
    first kernel is even, makes 5x5 of 8x8.

    Attributes:
        features: output channels; half of them after the first convolution.
        patch: even number of pixels, the total stride.
        activation: between the two.
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
    if height % patch or width % patch or not height or not width:
        near = [max(side - side % patch, patch) for side in (height, width)]
        raise ValueError(f'image {height}x{width} does not divide by patch {patch}: use e.g. {near[0]}x{near[1]}.')
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
        """Halves the sides, rounding up."""
        x = Conv(self.features, 3, 2, 1, self.dtype, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)
