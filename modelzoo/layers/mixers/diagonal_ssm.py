"""A diagonal, time-invariant state space: a convolution, or a recurrence when it continues from a state.

Gu et al., 2022, https://arxiv.org/abs/2206.11893. One half of the states is kept; the other half are their conjugates:

    h_t = exp(exponent) h_{t-1} + u_t        y_t = 2 Re(C h_t)

The convolution kernel is computed from two tables of powers whose lengths are the root of the sequence's length.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from longview.kernels.long_conv import long_conv

_SHORTEST, _LONGEST = 1e-3, 1e-1

Space = Complex[Array, 'd n']
State = Complex[Array, 'b e n']


def read(
    u: Float[Array, 'b t e'], exponent: Space, C: Space, state: State | None
) -> tuple[Float[Array, 'b t e'], State | None]:
    """Returns the outputs and, if a state was given, the state after the last element.

    Args:
        u: the sequence in float32; its channels E are D, or a multiple of D: then channels e, e + D, ... share a space.
        exponent, C: parameters of the D state spaces.
        state: after the elements read before; None for a whole sequence.
    """
    length, copies = u.shape[1], u.shape[-1] // len(C)
    taps = jnp.tile(powers_sum(exponent, C, length), (1, copies))
    y = long_conv(u, taps) if length > 1 else u * taps[None]
    if state is None:
        return y, None
    exponent, C = jnp.tile(exponent, (copies, 1)), jnp.tile(C, (copies, 1))
    table = jnp.exp(exponent[..., None] * jnp.arange(length)[None, None])
    y = y + 2 * jnp.einsum('dn,bdn,dnt->btd', C, jnp.exp(exponent)[None] * state, table).real
    added = jnp.einsum('btd,dnt->bdn', u.astype(table.dtype), table[..., ::-1])
    return y, jnp.exp(exponent * length)[None] * state + added


def powers_sum(exponent: Space, C: Space, length: int) -> Float[Array, 't d']:
    """Returns ``2 Re(sum_n C_n exp(t exponent_n))`` for t = 0, 1, ..., `length` - 1.

    With t = side * a + b and side about the root of `length`, the powers are products of two short tables.
    """
    side = math.isqrt(length - 1) + 1
    place = jnp.arange(side)[None, None]
    coarse = C[..., None] * jnp.exp(exponent[..., None] * (side * place))
    fine = jnp.exp(exponent[..., None] * place)
    found = 2 * jnp.einsum('dna,dnb->abd', coarse, fine).real
    return found.reshape(side * side, -1)[:length]


def log_steps(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Logarithms of step sizes, uniform between log 0.001 and log 0.1."""
    return jax.random.uniform(key, shape, dtype, math.log(_SHORTEST), math.log(_LONGEST))
