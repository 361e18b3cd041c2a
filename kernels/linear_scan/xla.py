"""The linear scan by chunks of tokens, in plain XLA, for any length and with gradients.

The associative scan inside of a chunk is that of Blelloch, Prefix Sums and Their Applications, 1990. No code was taken
from others.

A loop carries the state from chunk to chunk. Inside of a chunk, a CPU goes token by token (32 ns per token and cache
line; every parallel form tried is slower), other platforms take log2 C rounds of an associative scan. For gradients the
loop also stores the state that enters each chunk; the backward pass goes over the chunks in the opposite order,
recomputes the states of a chunk and differentiates it. So little more memory is needed than for inputs and gradients.

Inputs may be bfloat16; arithmetic and state are float32 (float64 for float64 inputs), or complex.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels import derivatives, scans
from longview.kernels.linear_scan.arrays import Constant, State, Tokens

_CHUNK = 128

# (decays, inputs, state before the chunk) -> states after each token of the chunk.
Recur = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Plan(NamedTuple):
    """Static arguments: the direction of the scan and the dtype of the outputs."""

    reverse: bool
    dtype: Any


class Inputs(NamedTuple):
    """Decays and inputs of a sequence (B, T, D) or a chunk (C, B, D); `a` is None if it is constant."""

    a: jax.Array | None
    x: jax.Array


def linear_scan(
    a: Tokens | Constant, x: Tokens, initial_state: State | None = None, *, reverse: bool
) -> tuple[Tokens, State]:
    """See `kernels.linear_scan.linear_scan`."""
    batch, _, channels = x.shape
    wide = scans.wide(jnp.result_type(*jax.tree.leaves((a, x, initial_state))))
    state = jnp.zeros_like(x, wide, (batch, channels))
    if initial_state is not None:
        state = initial_state.astype(wide)
    constant = None
    if a.ndim == 1:
        # One copy per sequence: then the cotangents of a batch over devices are summed once, at the end.
        constant, a = jnp.broadcast_to(a.astype(wide)[None], state.shape), None
    dtype = wide if jnp.issubdtype(wide, jnp.complexfloating) else x.dtype
    return _scan(Plan(reverse, jnp.dtype(dtype)), constant, Inputs(a, x), state)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple, tuple]:
    h, last, edges = _where_it_runs(partial(_forward, keep), plan, inputs)
    return (h, last), (*inputs[:2], edges)


def _cotangents(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    return _where_it_runs(_backward, plan, (*kept, *cotangents))


# The states after each token and the last one, given a constant decay or None, `Inputs` and the initial state.
_scan = derivatives.with_rule(_outputs, _cotangents, derivatives.own_derivative('linear_scan', 1))


@partial(jax.jit, static_argnums=(0, 1))
def _where_it_runs(walk: Callable, plan: Plan, inputs: tuple) -> Any:
    on_cpu = partial(walk, plan._replace(dtype=scans.wide(plan.dtype)), _sequential)
    return scans.where_it_runs(partial(walk, plan, _parallel), on_cpu, None, inputs)


def _forward(keep: bool, plan: Plan, recur: Recur, constant: Any, tokens: Inputs, state: jax.Array) -> tuple:
    return _walk(plan, recur).outputs(constant, tokens, state, jnp.zeros_like(tokens.x, plan.dtype), keep)


def _backward(plan: Plan, recur: Recur, *given: Any) -> tuple:
    return _walk(plan, recur).cotangents(*given)


def _walk(plan: Plan, recur: Recur) -> scans.Walk:
    return scans.Walk(partial(_chunk, recur), _CHUNK, plan.reverse)


def _chunk(recur: Recur, constant: jax.Array | None, state: jax.Array, tokens: Inputs) -> tuple[jax.Array, jax.Array]:
    """The states after each token of a chunk, and the last state."""
    x = tokens.x.astype(state.dtype)
    a = jnp.broadcast_to(constant[None], x.shape) if tokens.a is None else tokens.a
    states = _states(recur, a.astype(state.dtype), x, state)
    return states, states[-1]


@derivatives.own_derivative('linear_scan', 1)
def _states(recur: Recur, a: jax.Array, x: jax.Array, start: jax.Array) -> jax.Array:
    return recur(a, x, start)


def _states_forward(recur: Recur, *inputs: jax.Array) -> tuple[jax.Array, tuple]:
    states = recur(*inputs)
    return states, (*inputs, states)


def _states_backward(recur: Recur, kept: tuple, cotangent: jax.Array) -> tuple:
    a, _, start, states = kept
    # The cotangent of a state is multiplied by the decay of the next token.
    after = jnp.concatenate([a[1:], jnp.ones_like(a[:1])])
    dx = recur(after[::-1], cotangent[::-1], jnp.zeros_like(start))[::-1]
    return dx * jnp.concatenate([start[None], states[:-1]]), dx, a[0] * dx[0]


_states.defvjp(_states_forward, _states_backward)


def _sequential(a: jax.Array, x: jax.Array, start: jax.Array) -> jax.Array:
    def step(state: jax.Array, token: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        state = token[0] * state + token[1]
        return state, state

    return lax.scan(step, start, (a, x))[1]


def _parallel(a: jax.Array, x: jax.Array, start: jax.Array) -> jax.Array:
    def join(one: tuple[jax.Array, ...], two: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return one[0] * two[0], two[0] * one[1] + two[1]

    total, states = lax.associative_scan(join, (a, x))
    return total * start[None] + states
