"""The selective scan token by token: the definition against which the fast forms are tested.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752 (section 3). In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own,
and need memory for the state after each token.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.selective_scan.arrays import Inputs, State, Tokens


def step(
    u: Float[Array, 'b d'],
    delta: Float[Array, 'b d'],
    A: Float[Array, 'd n'],
    B: Float[Array, 'b n'] | Float[Array, 'b g n'],
    C: Float[Array, 'b n'] | Float[Array, 'b g n'],
    D: Float[Array, ' d'] | None,
    z: Float[Array, 'b d'] | None,
    delta_bias: Float[Array, ' d'] | None,
    state: Float[Array, 'b d n'],
    *,
    softplus: bool,
) -> tuple[Float[Array, 'b d'], Float[Array, 'b d n']]:
    """One token: compute the step size, decay the state, add the input, read the output, gate it."""
    u, delta, A = (x.astype(state.dtype) for x in (u, delta, A))
    B, C = (_per_channel(x.astype(state.dtype), u.shape[-1]) for x in (B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.astype(state.dtype)[None]
    if softplus:
        delta = jax.nn.softplus(delta)
    state = jnp.exp(delta[..., None] * A[None]) * state + (delta * u)[..., None] * B
    y = jnp.sum(state * C, axis=-1)
    if D is not None:
        y = y + D.astype(state.dtype)[None] * u
    if z is not None:
        y = y * jax.nn.silu(z.astype(state.dtype))
    return y, state


def _per_channel(x: jax.Array, channels: int) -> jax.Array:
    """Returns (B, D, N): the row of its group for each channel."""
    x = x if x.ndim == 3 else x[:, None]
    return jnp.repeat(x, channels // x.shape[1], axis=1)


def selective_scan(*arrays: Any, softplus: bool, reverse: bool) -> tuple[Tokens, State]:
    """See `kernels.selective_scan.selective_scan`; its arrays are those of `Inputs`."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = Inputs(*arrays)
    dtype = jnp.result_type(float)
    state = jnp.zeros_like(u, dtype, (u.shape[0], *A.shape))
    if initial_state is not None:
        state = initial_state.astype(dtype)

    def read(state: jax.Array, token: tuple) -> tuple[jax.Array, jax.Array]:
        u, delta, B, C, z = token
        y, state = step(u, delta, A, B, C, D, z, delta_bias, state, softplus=softplus)
        return state, y

    tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (u, delta, B, C, z))
    state, y = lax.scan(read, state, tokens, reverse=reverse)
    return jnp.moveaxis(y, 0, 1).astype(u.dtype), state
