"""The selective scan by chunks of tokens, in plain XLA, for any length and with gradients.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752. No code was taken from others.

The states of all tokens would take N times the memory of the inputs. So a loop carries the state from chunk to chunk,
and only the states of one chunk are in memory at a time. For gradients it also stores the state that enters each chunk;
the backward pass goes over the chunks in the opposite order, recomputes the states of a chunk and differentiates it.
The computation inside of a chunk is in `chunk.py`.

Inputs may be bfloat16; arithmetic and state are float32 (float64 for float64 inputs).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from longview.kernels import derivatives, scans
from longview.kernels.selective_scan import chunk
from longview.kernels.selective_scan.arrays import Inputs, State, Tokens

_CHUNK = 32  # 16 to 64 are equally fast on a CPU; shorter chunks would mean more states to store
_BYTES = 2**20  # of states in a chunk: with the arrays computed from them, about a cache


class Plan(NamedTuple):
    """Static arguments: tokens per chunk, groups, direction of the scan, whether to apply softplus.

    Arrays have an axis for the groups only inside of a chunk: for such an axis of size 1 XLA would copy whole sequences
    to another layout.
    """

    chunk: int
    groups: int
    reverse: bool
    softplus: bool


def selective_scan(*arrays: Any, softplus: bool, reverse: bool) -> tuple[Tokens, State]:
    """See `kernels.selective_scan.selective_scan`; its arrays are those of `Inputs`."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = Inputs(*arrays)
    batch, _, channels = u.shape
    groups, states = (1 if B.ndim == 3 else B.shape[2]), A.shape[1]
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    wide = scans.wide(jnp.result_type(*jax.tree.leaves(given)))

    def shared(x: jax.Array | None) -> jax.Array | None:
        """One copy per sequence: then the cotangents of a batch over devices are summed once, at the end."""
        if x is None:
            return None
        x = x.astype(wide).reshape(1, groups, channels // groups, *x.shape[1:])
        return jnp.broadcast_to(x, (batch, *x.shape[1:]))

    if initial_state is None:
        initial_state = jnp.zeros_like(u, wide, (batch, channels, states))
    state = initial_state.astype(wide).reshape(batch, groups, -1, states)
    # With more states per channel chunks are longer, or the stored states would outweigh the inputs.
    plan = Plan(max(_CHUNK, 2 * states), groups, reverse, softplus)
    weights = chunk.Weights(*map(shared, (A, D, delta_bias)))
    y, last = _scan(plan, weights, chunk.Tokens(u, delta, B, C, z), state)
    return y, last.reshape(batch, channels, states)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple, tuple]:
    y, last, edges = _by_sequences(partial(_forward, keep), plan, inputs)
    return (y, last), (*inputs[:2], edges)


def _cotangents(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    return _by_sequences(_backward, plan, (*kept, *cotangents))


# The outputs (B, T, D) and the last state (B, G, D/G, N), given weights, tokens and the initial state.
_scan = derivatives.with_rule(_outputs, _cotangents, derivatives.own_derivative('selective_scan', 1))


@partial(jax.jit, static_argnums=(0, 1))
def _by_sequences(walk: Callable, plan: Plan, inputs: tuple) -> Any:
    _, length, channels = inputs[1].u.shape
    row = min(plan.chunk, length) * channels * inputs[0].A.shape[-1] * 4
    few = scans.few(inputs[1].u, _BYTES // row)
    whole, on_cpu = (partial(walk, plan, how) for how in (chunk.PARALLEL, chunk.SEQUENTIAL))
    return scans.where_it_runs(whole, on_cpu, few, inputs)


def _forward(
    keep: bool, plan: Plan, how: chunk.How, weights: chunk.Weights, tokens: chunk.Tokens, state: jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
    """The outputs, the last state and, with `keep`, the states that enter the chunks, stacked after the batch."""
    blank = jnp.zeros_like(tokens.u)
    y, state, edges = _walk(plan, how).outputs(weights, tokens, how.enter(state), blank, keep)
    stacked, tail = jax.tree.map(how.leave, edges)
    return y, how.leave(state), (None if stacked is None else jnp.moveaxis(stacked, 0, 1), tail)


def _backward(
    plan: Plan,
    how: chunk.How,
    weights: chunk.Weights,
    tokens: chunk.Tokens,
    edges: tuple,
    dy: jax.Array,
    dlast: jax.Array,
) -> tuple[chunk.Weights, chunk.Tokens, jax.Array]:
    """The cotangents of the weights, the tokens and the initial state."""
    stacked, tail = edges
    edges = jax.tree.map(how.enter, (None if stacked is None else jnp.moveaxis(stacked, 1, 0), tail))
    *found, dstate = _walk(plan, how).cotangents(weights, tokens, edges, dy, how.enter(dlast))
    return *found, how.leave(dstate)


def _walk(plan: Plan, how: chunk.How) -> scans.Walk:
    def run(weights: chunk.Weights, state: jax.Array, tokens: chunk.Tokens) -> tuple[jax.Array, jax.Array]:
        grouped = jax.tree.map(lambda x: x.reshape(*x.shape[:2], plan.groups, -1), tokens)
        y, state = chunk.run(how, plan.softplus, weights, state, grouped)
        return y.reshape(tokens.u.shape), state

    return scans.Walk(run, plan.chunk, plan.reverse)
