"""The selective scan inside one chunk of tokens, with all states of the chunk at hand.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752. No code was taken from others.

There are two ways, which differ in the order of the axes and in how the recurrence is done:

- `SEQUENTIAL`, for CPUs: the decays of the chunk at once, token by token two operations a state,
  and all sums over states or channels as matrix products. XLA on CPUs is slow at everything else:
  this is 3 times as fast as a scan that reads the state in each step. States are the last axis.
- `PARALLEL`, for the rest: an associative scan, log2 C rounds. Channels are the last axis, which
  on TPUs fills the lanes; there are far fewer states than lanes.

Tokens are the leading axis: (C, B, G, D/G) for channels, (C, B, G, N) for states.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Weights(NamedTuple):
    """What tokens share, a copy a sequence: A (B, G, D/G, N), D and bias (B, G, D/G) or None."""

    A: jax.Array
    D: jax.Array | None
    bias: jax.Array | None


class Tokens(NamedTuple):
    """Of a sequence or a chunk; z may be None."""

    u: jax.Array
    delta: jax.Array
    B: jax.Array
    C: jax.Array
    z: jax.Array | None


class How(NamedTuple):
    """One of the two ways.

    axis: of the states, -1 or -2; the channels have the other.
    recur: (decays, rows, columns, start) -> the states after each token, where each adds the outer
      product of its row of channels and its column of states.
    """

    axis: int
    recur: Callable[..., jax.Array]

    def enter(self, state: jax.Array) -> jax.Array:
        """From the order (channels, states) to that of this way."""
        return state if self.axis == -1 else jnp.swapaxes(state, -1, -2)

    leave = enter

    def sum(self, states: jax.Array, times: jax.Array, over: str) -> jax.Array:
        """The product of an array of states with one of their axes, summed over that axis."""
        full = 'tbgdn' if self.axis == -1 else 'tbgnd'
        kept = 'd' if over == 'n' else 'n'
        precise = lax.Precision.HIGHEST
        return jnp.einsum(f'{full},tbg{over}->tbg{kept}', states, times, precision=precise)


def run(how: How, softplus: bool, weights: Weights, state: jax.Array, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
    """The outputs of a chunk and the state after it."""
    delta = tokens.delta if weights.bias is None else tokens.delta + weights.bias[None]
    delta = jax.nn.softplus(delta) if softplus else delta
    A = how.enter(weights.A)
    y, state = _scan(how, A, state, delta, delta * tokens.u, tokens.B, tokens.C)
    y = y if weights.D is None else y + weights.D[None] * tokens.u
    return (y if tokens.z is None else y * jax.nn.silu(tokens.z)), state


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(how: How, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _scan_forward(how, *inputs)[0]


def _scan_forward(how: How, *inputs: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    A, state, delta, x, B, C = inputs
    decay = jnp.exp(jnp.expand_dims(delta, how.axis) * A[None])
    states = how.recur(decay, x, B, state)
    return (how.sum(states, C, 'n'), states[-1]), (decay, states, *inputs)


def _scan_backward(how: How, kept: tuple, cotangents: tuple) -> tuple:
    decay, states, A, state, delta, x, B, C = kept
    dy, dlast = cotangents
    # The cotangent of a state fades by the decay of the token after it; the last one's is given.
    after = jnp.concatenate([decay[1:], jnp.ones_like(decay[:1])])
    dstates = how.recur(after[::-1], dy[::-1], C[::-1], dlast)[::-1]
    faded = dstates * decay
    dexponent = faded * jnp.concatenate([state[None], states[:-1]])
    full = 'tbgdn' if how.axis == -1 else 'tbgnd'
    precise = lax.Precision.HIGHEST
    dA = jnp.einsum(f'{full},tbgd->{full[1:]}', dexponent, delta, precision=precise)
    ddelta = jnp.einsum(f'{full},{full[1:]}->tbgd', dexponent, A, precision=precise)
    dx = how.sum(dstates, B, 'n')
    dB, dC = how.sum(dstates, x, 'd'), how.sum(states, dy, 'd')
    return dA, faded[0], ddelta, dx, dB, dC


_scan.defvjp(_scan_forward, _scan_backward)


def _sequential(decay: jax.Array, rows: jax.Array, columns: jax.Array, start: jax.Array) -> jax.Array:
    def step(state: jax.Array, token: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        decay, row, column = token
        state = decay * state + row[..., :, None] * column[..., None, :]
        return state, state

    return lax.scan(step, start, (decay, rows, columns))[1]


def _parallel(decay: jax.Array, rows: jax.Array, columns: jax.Array, start: jax.Array) -> jax.Array:
    def join(one: tuple[jax.Array, ...], two: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return one[0] * two[0], two[0] * one[1] + two[1]

    added = rows[..., None, :] * columns[..., :, None]
    total, states = lax.associative_scan(join, (decay, added))
    return total * start[None] + states


SEQUENTIAL = How(-1, _sequential)
PARALLEL = How(-2, _parallel)
