"""The selective scan inside one chunk of tokens, with all states of the chunk in memory.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752. No code was taken from others.

There are two variants, which differ in the order of the axes and in the recurrence:

- `SEQUENTIAL`, for CPUs: the decays of the whole chunk are computed first, a loop over tokens does two operations per
  state, and all sums over states or channels are matrix products. This is 3 times as fast on CPUs as a scan that also
  computes the output in each step. States are the last axis.
- `PARALLEL`, for other platforms: an associative scan with log2 C rounds. Channels are the last axis, which fills the
  lanes of a TPU; there are far fewer states than lanes.

Tokens are the first axis: (C, B, G, D/G) for channels, (C, B, G, N) for states.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels import derivatives


class Weights(NamedTuple):
    """What tokens share, with one copy per sequence: A (B, G, D/G, N); D and bias, (B, G, D/G) or None."""

    A: jax.Array
    D: jax.Array | None
    bias: jax.Array | None


class Tokens(NamedTuple):
    """The inputs of a sequence or a chunk; z may be None."""

    u: jax.Array
    delta: jax.Array
    B: jax.Array
    C: jax.Array
    z: jax.Array | None


class How(NamedTuple):
    """One of the two variants.

    axis: the axis of the states, -1 or -2; channels are the other one.
    recur: (decays, rows, columns, start) -> the states after each token; a token adds the outer product of its row over
      the channels and its column over the states.
    """

    axis: int
    recur: Callable[..., jax.Array]

    def enter(self, state: jax.Array) -> jax.Array:
        """Permutes axes from (channels, states) to the order of this variant."""
        return state if self.axis == -1 else jnp.swapaxes(state, -1, -2)

    leave = enter

    def sum(self, states: jax.Array, times: jax.Array, over: str) -> jax.Array:
        """Multiplies states by an array over one of their axes, and sums over that axis."""
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


@derivatives.own_derivative('selective_scan', 1)
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
    # The cotangent of a state is multiplied by the decay of the next token; that of the last state is given.
    after = jnp.concatenate([decay[1:], jnp.ones_like(decay[:1])])
    dstates = how.recur(after[::-1], dy[::-1], C[::-1], dlast)[::-1]
    faded = dstates * decay
    dexponent = faded * jnp.concatenate([state[None], states[:-1]])
    full = 'tbgdn' if how.axis == -1 else 'tbgnd'
    precise = lax.Precision.HIGHEST
    # To bring the tokens of a channel together XLA moves whole rows of states on a CPU. With the operands swapped, or
    # with A in a product of its own, it would move single numbers, which takes half of the time of all gradients.
    dA = jnp.einsum(f'tbgd,{full}->{full[1:]}', delta, dexponent, precision=precise)
    ddelta = how.sum(dexponent * A[None], jnp.ones_like(B), 'n')
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
