"""The causal convolution tap by tap: the definition against which the fast form is tested.

In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def step(
    x: Float[Array, 'b d'],
    kernel: Float[Array, 'k d'],
    bias: Float[Array, ' d'] | None,
    state: Float[Array, 'b s d'],
) -> tuple[Float[Array, 'b d'], Float[Array, 'b s d']]:
    """One token: the sum over it and the state; the state then drops its oldest token."""
    seen = jnp.concatenate([state, x[:, None].astype(state.dtype)], axis=1)
    wide = jnp.result_type(seen.dtype, kernel.dtype, jnp.float32)
    y = jnp.sum(seen.astype(wide) * kernel[None].astype(wide), axis=1)
    y = y if bias is None else y + bias[None].astype(wide)
    return y.astype(x.dtype), seen[:, 1:]


def convolve(
    x: Float[Array, 'b t d'],
    kernel: Float[Array, 'k d'],
    bias: Float[Array, ' d'] | None,
    before: Float[Array, 'b s d'] | None,
) -> Float[Array, 'b t d']:
    """`bias + sum_j kernel[j] x[t - (K - 1) + j]`; `before` are the tokens before the sequence, or None for zeros."""
    taps, tokens = len(kernel), x.shape[1]
    wide = jnp.result_type(float)
    if before is None:
        before = jnp.zeros_like(x, shape=(x.shape[0], taps - 1, x.shape[2]))
    seen = jnp.concatenate([before.astype(wide), x.astype(wide)], axis=1)

    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, weight = tap
        return total + weight * lax.dynamic_slice_in_dim(seen, place, tokens, axis=1), None

    weights = kernel.astype(wide)[:, None, None]
    y, _ = lax.scan(add, jnp.zeros_like(x, wide), (jnp.arange(taps), weights))
    y = y if bias is None else y + bias[None, None].astype(wide)
    return y.astype(x.dtype)
