"""Pooling over windows of an image, by PyTorch's rules; over all of it, in float32."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def max_pool(x: Float[Array, 'b h w c'], size: int, stride: int, padding: int) -> Float[Array, 'b h2 w2 c']:
    """Returns the largest value in each window; padding never wins."""
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), sides)


def avg_pool(x: Float[Array, 'b h w c'], size: int, stride: int, padding: int) -> Float[Array, 'b h2 w2 c']:
    """Returns the mean of each window; padded zeros count (torch's ``count_include_pad=True``)."""
    return _sum(x, size, stride, ((0, 0), (padding, padding), (padding, padding), (0, 0))) / size**2


def halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """Returns 2x2 means at stride 2; the last row and column of odd sides are means of what is there.

    Torch's ``AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)``.
    """
    pixels = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return _sum(x, 2, 2, 'SAME') / _sum(pixels, 2, 2, 'SAME')


def global_mean(x: Float[Array, 'b h w c']) -> Float[Array, 'b c']:
    """Returns the mean over the pixels, in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def _sum(x: Array, size: int, stride: int, padding: str | tuple) -> Array:
    return lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1, stride, stride, 1), padding)
