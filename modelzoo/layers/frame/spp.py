"""Spatial pyramid pooling: a vector of one length from a map of any size.

He et al., 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
https://arxiv.org/abs/1406.4729. Windows are those of torch's adaptive pooling: part i of n reaches from pixel
floor(i s / n) to ceil((i + 1) s / n) of a side of s pixels, so that there are n parts of any side.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def pyramid_max(x: Float[Array, 'b h w c'], levels: Sequence[int]) -> Float[Array, 'b d']:
    """Returns the maxima of n x n parts of the map, for each n of `levels`, one after the other; d = c sum n^2."""
    parts = [_parts(_parts(x, n, 1), n, 2).reshape(x.shape[0], -1) for n in levels]
    return jnp.concatenate(parts, axis=1)


def _parts(x: Array, count: int, axis: int) -> Array:
    """Returns the maxima of so many parts along an axis."""
    side = x.shape[axis]
    ends = [(part * side // count, -(-(part + 1) * side // count)) for part in range(count)]
    return jnp.stack([jnp.take(x, jnp.arange(*end), axis=axis).max(axis=axis) for end in ends], axis=axis)
