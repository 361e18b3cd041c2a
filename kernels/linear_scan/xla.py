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
from jaxtyping import Array, Inexact

from longview.kernels import derivatives, scans

_CHUNK = 128

# (decays, inputs, state before the chunk) -> states after each token of the chunk.
Recur = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Plan(NamedTuple):
    """Static arguments: the direction of the scan and the dtype of the outputs."""

    reverse: bool
    dtype: Any


class Tokens(NamedTuple):
    """Decays and inputs of a sequence (B, T, D) or a chunk (C, B, D); `a` is None if it is constant."""

    a: jax.Array | None
    x: jax.Array


def linear_scan(
    a: Inexact[Array, 'b t d'] | Inexact[Array, ' d'],
    x: Inexact[Array, 'b t d'],
    initial_state: Inexact[Array, 'b d'] | None = None,
    *,
    reverse: bool,
) -> tuple[Inexact[Array, 'b t d'], Inexact[Array, 'b d']]:
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
    return _scan(Plan(reverse, jnp.dtype(dtype)), constant, Tokens(a, x), state)


@derivatives.own_derivative('linear_scan', 1)
def _scan(plan: Plan, constant: jax.Array | None, tokens: Tokens, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _where_it_runs(partial(_forward, False), plan, (constant, tokens, state))[:2]


def _scan_forward(plan: Plan, *inputs: Any) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    h, last, edges = _where_it_runs(partial(_forward, True), plan, inputs)
    return (h, last), (*inputs[:2], edges)


def _scan_backward(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    return _where_it_runs(_backward, plan, (*kept, *cotangents))


_scan.defvjp(_scan_forward, _scan_backward)


@partial(jax.jit, static_argnums=(0, 1))
def _where_it_runs(walk: Callable, plan: Plan, inputs: tuple) -> Any:
    """Runs `walk` in the way that suits the platform.

    On a CPU all inputs are cast to float32 first: in a loop that slices bfloat16 arrays XLA would cast whole arrays
    there, in every iteration.
    """
    whole = partial(walk, plan, _parallel)
    given = jax.eval_shape(whole, *inputs)

    def on_cpu(*inputs: Any) -> Any:
        inputs = jax.tree.map(lambda x: x.astype(scans.wide(x.dtype)), inputs)
        found = walk(plan._replace(dtype=scans.wide(plan.dtype)), _sequential, *inputs)
        return jax.tree.map(lambda x, like: x.astype(like.dtype), found, given)

    return lax.platform_dependent(*inputs, cpu=on_cpu, default=whole)


def _forward(
    keep: bool,
    plan: Plan,
    recur: Recur,
    constant: jax.Array | None,
    tokens: Tokens,
    state: jax.Array,
) -> tuple[jax.Array, jax.Array, Any]:
    """The states after each token, the last state and, with `keep`, the states that enter the chunks."""

    def step(carry: tuple, start: Any, size: int, _: Any) -> tuple[tuple, Any]:
        state, h = carry
        read = jax.tree.map(lambda x: _read(plan, x, start, size), tokens)
        found, after = _chunk(recur, constant, state, read)
        return (after, _write(plan, h, found, start)), state if keep else None

    begin = (state, jnp.zeros_like(tokens.x, plan.dtype))
    (state, h), edges = scans.sweep(step, begin, tokens.x.shape[1], _CHUNK, plan.reverse, (None, None))
    return h, state, edges


def _backward(
    plan: Plan,
    recur: Recur,
    constant: jax.Array | None,
    tokens: Tokens,
    edges: tuple,
    dh: jax.Array,
    dlast: jax.Array,
) -> tuple[jax.Array | None, Tokens, jax.Array]:
    """The cotangents of the constant decay, the tokens and the initial state."""

    def step(carry: tuple, start: Any, size: int, edge: jax.Array) -> tuple[tuple, None]:
        dstate, dconstant, dtokens = carry
        read = jax.tree.map(lambda x: _read(plan, x, start, size), tokens)
        _, pull = jax.vjp(partial(_chunk, recur), constant, edge, read)
        cotangent = _read(plan, dh, start, size).astype(edge.dtype)
        more, dstate, found = pull((cotangent, dstate))
        dconstant = jax.tree.map(jnp.add, dconstant, more)
        dtokens = jax.tree.map(lambda out, x: _write(plan, out, x, start), dtokens, found)
        return (dstate, dconstant, dtokens), None

    begin = (dlast, *jax.tree.map(jnp.zeros_like, (constant, tokens)))
    (dstate, *found), _ = scans.sweep(step, begin, tokens.x.shape[1], _CHUNK, not plan.reverse, edges)
    return *found, dstate


def _read(plan: Plan, x: jax.Array, start: Any, size: int) -> jax.Array:
    """`size` tokens from `start` on, in the order of the scan and as the first axis: (C, B, D)."""
    x = jnp.moveaxis(lax.dynamic_slice_in_dim(x, start, size, axis=1), 1, 0)
    return x[::-1] if plan.reverse else x


def _write(plan: Plan, out: jax.Array, x: jax.Array, start: Any) -> jax.Array:
    x = jnp.moveaxis(x[::-1] if plan.reverse else x, 0, 1).astype(out.dtype)
    return lax.dynamic_update_slice_in_dim(out, x, start, axis=1)


def _chunk(recur: Recur, constant: jax.Array | None, state: jax.Array, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
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
