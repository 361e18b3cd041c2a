"""Long convolution as the direct sum over taps: the definition against which the fast forms are tested.

In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.long_conv.transforms import lowest, period_for


def convolve(
    x: Float[Array, 'b t d'],
    kernel: Float[Array, 'k d'] | Float[Array, 'b k d'],
    before: int,
    keep: float = 1.0,
) -> Float[Array, 'b t d']:
    """`sum_j kernel[j] x[t + before - j]`, zero outside of the sequence."""
    if keep < 1:
        kernel, before = _low_pass(x.shape[1], kernel, before, keep), x.shape[1] - 1
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


def _low_pass(tokens: int, kernel: jax.Array, before: int, keep: float) -> jax.Array:
    """Returns the low-pass kernel, with a share of the frequencies (f + 1/4) / N, at the lags from 1 - T to T - 1."""
    period, taps = period_for(tokens, kernel.shape[-2], before), kernel.shape[-2]
    frequency = lowest(period, int(keep * period)) + 0.25
    lag = np.arange(1 - tokens, tokens)[:, None] - (np.arange(taps) - before)[None]
    step, places = np.unique(lag, return_inverse=True)
    wave = np.cos(2 * np.pi / period * np.outer(step, frequency)).sum(1) / period
    matrix = jnp.asarray(wave[places.reshape(lag.shape)], jnp.result_type(float))
    return jnp.einsum('lk,...kd->...ld', matrix, kernel.astype(matrix.dtype), precision='highest')
