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
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import derivatives, dispatch, scans
from longview.kernels.selective_scan import chunk

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


def selective_scan(
    u: Float[Array, 'b t d'],
    delta: Float[Array, 'b t d'],
    A: Float[Array, 'd n'],
    B: Float[Array, 'b t n'] | Float[Array, 'b t g n'],
    C: Float[Array, 'b t n'] | Float[Array, 'b t g n'],
    D: Float[Array, ' d'] | None = None,
    z: Float[Array, 'b t d'] | None = None,
    delta_bias: Float[Array, ' d'] | None = None,
    initial_state: Float[Array, 'b d n'] | None = None,
    *,
    softplus: bool,
    reverse: bool,
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b d n']]:
    """See `kernels.selective_scan.selective_scan`."""
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


@derivatives.own_derivative('selective_scan', 1)
def _scan(plan: Plan, weights: chunk.Weights, tokens: chunk.Tokens, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the outputs (B, T, D), and the last state (B, G, D/G, N)."""
    return _by_sequences(partial(_forward, False), plan, (weights, tokens, state))[:2]


def _scan_forward(plan: Plan, *inputs: Any) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    y, last, edges = _by_sequences(partial(_forward, True), plan, inputs)
    return (y, last), (*inputs[:2], edges)


def _scan_backward(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    return _by_sequences(_backward, plan, (*kept, *cotangents))


_scan.defvjp(_scan_forward, _scan_backward)


@partial(jax.jit, static_argnums=(0, 1))
def _by_sequences(walk: Callable, plan: Plan, inputs: tuple) -> Any:
    """Runs `walk` on the whole batch; on a CPU in float32, on a few sequences at a time.

    A chunk of a few sequences stays in the cache. A batch that may be split over devices is not looped over, for the
    loop would have to gather it. Inputs are cast to float32 on a CPU since in a loop that slices bfloat16 arrays XLA
    would cast whole arrays there, in every iteration.
    """
    whole = partial(walk, plan, chunk.PARALLEL)
    given = jax.eval_shape(whole, *inputs)
    few = _few(plan, inputs[1].u, inputs[0].A.shape[-1])

    def on_cpu(*inputs: Any) -> Any:
        inputs = jax.tree.map(lambda x: x.astype(scans.wide(x.dtype)), inputs)
        run = partial(walk, plan, chunk.SEQUENTIAL)
        batch = inputs[1].u.shape[0]
        if few == batch:
            found = run(*inputs)
        else:
            some = lambda n: jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, n, few), inputs)
            found = lax.map(lambda n: run(*some(n)), jnp.arange(0, batch, few))
        return jax.tree.map(lambda x, like: x.reshape(like.shape).astype(like.dtype), found, given)

    return lax.platform_dependent(*inputs, cpu=on_cpu, default=whole)


def _few(plan: Plan, u: jax.Array, states: int) -> int:
    """The number of sequences to scan at a time on a CPU: a divisor of the batch size."""
    batch, length, channels = u.shape
    if dispatch.sharded(u) or dispatch.symbolic(u):
        return batch
    row = min(plan.chunk, length) * channels * states * 4
    return next(n for n in range(min(max(_BYTES // row, 1), batch), 0, -1) if batch % n == 0)


def _forward(
    keep: bool,
    plan: Plan,
    how: chunk.How,
    weights: chunk.Weights,
    tokens: chunk.Tokens,
    state: jax.Array,
) -> tuple[jax.Array, jax.Array, Any]:
    """The outputs, the last state and, with `keep`, the states that enter the chunks."""

    def step(carry: tuple, start: Any, size: int, _: Any) -> tuple[tuple, Any]:
        state, y = carry
        read = jax.tree.map(lambda x: _read(plan, x, start, size), tokens)
        yc, after = chunk.run(how, plan.softplus, weights, state, read)
        return (after, _write(plan, y, yc, start)), state if keep else None

    begin = (how.enter(state), jnp.zeros_like(tokens.u))
    (state, y), edges = scans.sweep(step, begin, tokens.u.shape[1], plan.chunk, plan.reverse, (None, None))
    stacked, tail = jax.tree.map(how.leave, edges)
    edges = (None if stacked is None else jnp.moveaxis(stacked, 0, 1), tail)
    return y, how.leave(state), edges


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
    edges = (None if stacked is None else jnp.moveaxis(stacked, 1, 0), tail)

    def step(carry: tuple, start: Any, size: int, edge: jax.Array) -> tuple[tuple, None]:
        dstate, dweights, dtokens = carry
        read = jax.tree.map(lambda x: _read(plan, x, start, size), tokens)
        run = partial(chunk.run, how, plan.softplus)
        _, pull = jax.vjp(run, weights, how.enter(edge), read)
        more, dstate, found = pull((_read(plan, dy, start, size), dstate))
        dweights = jax.tree.map(jnp.add, dweights, more)
        dtokens = jax.tree.map(lambda out, x: _write(plan, out, x, start), dtokens, found)
        return (dstate, dweights, dtokens), None

    begin = (how.enter(dlast), *jax.tree.map(jnp.zeros_like, (weights, tokens)))
    length = tokens.u.shape[1]
    (dstate, *found), _ = scans.sweep(step, begin, length, plan.chunk, not plan.reverse, edges)
    return *found, how.leave(dstate)


def _read(plan: Plan, x: jax.Array, start: Any, size: int) -> jax.Array:
    """`size` tokens from `start` on, in the order of the scan and as the first axis: (C, B, G, channels)."""
    x = lax.dynamic_slice_in_dim(x, start, size, axis=1)
    x = jnp.moveaxis(x.astype(scans.wide(x.dtype)), 1, 0)
    x = x.reshape(*x.shape[:2], plan.groups, -1)
    return x[::-1] if plan.reverse else x


def _write(plan: Plan, out: jax.Array, x: jax.Array, start: Any) -> jax.Array:
    x = jnp.moveaxis(x[::-1] if plan.reverse else x, 0, 1).astype(out.dtype)
    x = x.reshape(*x.shape[:2], *out.shape[2:])
    return lax.dynamic_update_slice_in_dim(out, x, start, axis=1)
