"""Long convolution as the direct sum, one tap after the other, that the fast forms are held to.

In float32, or in float64 where `jax_enable_x64` is on. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, 'b t d'],
    kernel: Float[Array, 'k d'] | Float[Array, 'b k d'],
    before: int,
) -> Float[Array, 'b t d']:
    """`sum_j kernel[j] x[t + before - j]`, zero outside of the sequence."""
    wide = jnp.result_type(float)
    taps = jnp.moveaxis(kernel if kernel.ndim == 3 else kernel[None], 1, 0).astype(wide)
    tokens = x.shape[1]
    at = jnp.arange(tokens)

    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, lag = tap
        read = jnp.roll(x.astype(wide), lag, axis=1)
        inside = (at >= lag) & (at - lag < tokens)
        read = jnp.where(inside[None, :, None], read, 0)
        return total + weight[:, None] * read, None

    lags = jnp.arange(len(taps)) - before
    return lax.scan(add, jnp.zeros(x.shape, wide), (taps, lags))[0]
