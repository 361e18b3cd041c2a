"""Feature pyramid: maps of equal width whose fine ones know what the coarse ones have seen.

Lin et al., 2017, "Feature Pyramid Networks for Object Detection", https://arxiv.org/abs/1612.03144, section 3.
Reference: torchvision 0.28.0 (https://github.com/pytorch/vision, BSD-3-Clause), ops/feature_pyramid_network.py.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv

_XAVIER = {
    'kernel_init': jax.nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform'),
    'bias_init': nn.initializers.zeros,
}


class Fpn(nn.Module):
    """``out_i = conv3x3(p_i)`` with ``p_i = conv1x1(x_i) + resized(p_(i+1))``, from the coarsest map down.

    Attributes:
        width: channels of every result.
        dtype: compute type.
    """

    width: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, 'b _ _ _']]) -> list[Float[Array, 'b _ _ d']]:
        """Returns a map for each of `maps`, of its size; they are given from fine to coarse."""
        lateral = lambda index: Conv(self.width, 1, dtype=self.dtype, name=f'lateral{index}', **_XAVIER)
        merged = [lateral(index)(x) for index, x in enumerate(maps)]
        for index in range(len(maps) - 2, -1, -1):
            merged[index] = merged[index] + nearest(merged[index + 1], merged[index].shape[1:3])
        smooth = lambda index: Conv(self.width, 3, 1, 1, self.dtype, name=f'output{index}', **_XAVIER)
        return [smooth(index)(x) for index, x in enumerate(merged)]


def nearest(x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b h2 w2 c']:
    """Returns the map resized by torch's rule: row i of the result is row ``floor(i * h / h2)``."""
    rows, columns = (jnp.arange(new) * old // new for new, old in zip(size, x.shape[1:3]))
    return x[:, rows][:, :, columns]


def bilinear(x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b h2 w2 c']:
    """Returns the map resized by straight lines between the centres of pixels, which torch calls align_corners=False.

    Where it is made smaller no pixel is averaged away, as in torch.
    """
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), 'bilinear', antialias=False)
