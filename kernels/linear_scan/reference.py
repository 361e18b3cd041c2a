"""The linear recurrence token by token: the definition against which the fast forms are tested.

Gated recurrences of this form are as old as leaky integrators; for their use as layers see Gupta et al., Diagonal State
Spaces are as Effective as Structured State Spaces, 2022, https://arxiv.org/abs/2203.14343, and Orvieto et al.,
Resurrecting Recurrent Neural Networks for Long Sequences, 2023, https://arxiv.org/abs/2303.06349. In float32 or
complex64, or in double precision with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from longview.kernels.linear_scan.arrays import Constant, State, Tokens


def step(
    a: Inexact[Array, 'b d'] | Inexact[Array, ' d'],
    x: Inexact[Array, 'b d'],
    state: Inexact[Array, 'b d'],
) -> Inexact[Array, 'b d']:
    """One token: decay the state, add the input."""
    a = a if a.ndim == x.ndim else a[None]
    return a.astype(state.dtype) * state + x.astype(state.dtype)


def linear_scan(
    a: Tokens | Constant, x: Tokens, initial_state: State | None = None, *, reverse: bool
) -> tuple[Tokens, State]:
    """See `kernels.linear_scan.linear_scan`."""
    given = jnp.result_type(*jax.tree.leaves((a, x, initial_state)))
    is_complex = jnp.issubdtype(given, jnp.complexfloating)
    dtype = jnp.result_type(complex if is_complex else float)
    state = jnp.zeros_like(x, dtype, (x.shape[0], x.shape[2]))
    if initial_state is not None:
        state = initial_state.astype(state.dtype)

    def read(state: jax.Array, token: tuple) -> tuple[jax.Array, jax.Array]:
        state = step(a if token[0] is None else token[0], token[1], state)
        return state, state

    tokens = (None if a.ndim == 1 else jnp.moveaxis(a, 1, 0), jnp.moveaxis(x, 1, 0))
    state, h = lax.scan(read, state, tokens, reverse=reverse)
    return jnp.moveaxis(h, 0, 1).astype(state.dtype if is_complex else x.dtype), state
