"""Gated linear attention token by token: the definition against which the fast forms are tested.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635 (section 4.1). In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's
own, and need memory for the state after each token.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.gla.arrays import Gate, Keys, Start, State, Values


def step(
    q: Float[Array, 'b h k'],
    k: Float[Array, 'b h k'],
    v: Float[Array, 'b h v'],
    g: Float[Array, 'b h k'] | Float[Array, 'b h'],
    state: Float[Array, 'b h k v'],
    *,
    scale: float,
) -> tuple[Float[Array, 'b h v'], Float[Array, 'b h k v']]:
    """One token: decay the state, add the token, read the output."""
    decay = jnp.exp(g.astype(state.dtype))
    decay = decay[..., None] if g.ndim == q.ndim else decay[..., None, None]
    q, k, v = (x.astype(state.dtype) for x in (q, k, v))
    state = decay * state + k[..., :, None] * v[..., None, :]
    return jnp.sum(scale * q[..., None] * state, axis=-2), state


def gla(
    q: Keys, k: Keys, v: Values, g: Gate, initial_state: Start = None, *, scale: float, reverse: bool = False
) -> tuple[Values, State]:
    """One direction; see `kernels.gla.gla`."""
    batch, _, heads, channels = q.shape
    dtype = jnp.result_type(float)
    state = jnp.zeros_like(q, dtype, shape=(batch, heads, channels, v.shape[-1]))
    if initial_state is not None:
        state = initial_state.astype(dtype)

    def read(state: jax.Array, token: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        o, state = step(*token, state, scale=scale)
        return state, o

    tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, g))
    state, o = lax.scan(read, state, tokens, reverse=reverse)
    return jnp.moveaxis(o, 0, 1).astype(v.dtype), state


def bidirectional_gla(q: Keys, k: Keys, v: Values, g_forward: Gate, g_backward: Gate, *, scale: float) -> Values:
    """The sum of both directions; see `kernels.gla.bidirectional_gla`."""
    forward, _ = gla(q, k, v, g_forward, scale=scale)
    backward, _ = gla(q, k, v, g_backward, scale=scale, reverse=True)
    return forward + backward
