"""Gated linear attention by chunks of tokens, in plain XLA, for any length and with gradients.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635 (the chunkwise form, section 4.2). No code was taken from others.

A pass over the sequence carries the (K, V) state from chunk to chunk; between chunks everything is a matrix product.
The computation inside of a chunk is in `intra.py`, and is shared by both directions of a bidirectional scan: a first
pass computes the states that enter the chunks from the right, and a second pass the outputs of both directions. A
sequence of one chunk needs no state, which is the parallel, quadratic form.

The backward pass keeps the inputs only, so its memory is linear in T. A first pass recomputes the states at the edges
of the chunks; a second pass in the opposite direction carries the cotangent of the state.

"Forward" and "backward" (0 and 1) are directions of the scan below; derivatives are "cotangents".
Inputs may be bfloat16; arithmetic and state are float32 (float64 for float64 inputs).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels import derivatives, scans
from longview.kernels.gla import intra
from longview.kernels.gla.arrays import Chunk, Gate, Keys, Start, State, Values

_CHUNK = 32  # the fastest of 16 to 128 on a CPU, for heads of (32, 64) and (64, 128)
_BYTES = 2**18  # of keys and values in a chunk: with the arrays computed from them, about a cache

Pair = tuple[Any, Any]  # one entry per direction of the scan; None if that direction is not wanted


class Plan(NamedTuple):
    """Static arguments: tokens per chunk, factor on the queries, whether last states are returned."""

    chunk: int
    scale: float
    last: bool


def gla(
    q: Keys, k: Keys, v: Values, g: Gate, initial_state: Start = None, *, scale: float, reverse: bool, chunk: Chunk
) -> tuple[Values, State]:
    """One direction; see `kernels.gla.gla`."""
    gates, states = (_place(reverse, x) for x in (_with_channels(g, q), initial_state))
    plan = Plan(_chunk(chunk, q, v, 1), scale, True)
    o, states = _attend(plan, *_of_one_width(q, k, v, gates, states))
    return o.astype(v.dtype), states[reverse]


def bidirectional_gla(
    q: Keys, k: Keys, v: Values, g_forward: Gate, g_backward: Gate, *, scale: float, chunk: Chunk
) -> Values:
    """The sum of both directions; see `kernels.gla.bidirectional_gla`."""
    gates = tuple(_with_channels(g, q) for g in (g_forward, g_backward))
    if gates[0].shape != gates[1].shape:
        gates = tuple(jnp.broadcast_to(g, q.shape) for g in gates)
    plan = Plan(_chunk(chunk, q, v, 2), scale, False)
    o, _ = _attend(plan, *_of_one_width(q, k, v, gates, (None, None)))
    return o.astype(v.dtype)


def _with_channels(g: jax.Array, q: jax.Array) -> jax.Array:
    """Returns (B, T, H, K), with K = 1 for one decay per head."""
    return g if g.ndim == q.ndim else g[..., None]


def _of_one_width(*inputs: Any) -> tuple:
    """Returns all inputs in float64 if any of them is float64, so that the state has one dtype throughout."""
    wide = jnp.result_type(*jax.tree.leaves(inputs)) == jnp.float64
    return jax.tree.map(lambda x: x.astype(jnp.float64), inputs) if wide else inputs


def _chunk(chunk: int | None, q: jax.Array, v: jax.Array, directions: int) -> int:
    """Returns the tokens per chunk: more for wide heads, so that states at the edges take less than the inputs."""
    if chunk is None:
        keys, values = q.shape[-1], v.shape[-1]
        inputs, state = (2 + directions) * keys + 2 * values, directions * keys * values
        chunk = _CHUNK
        while 4 * state > 3 * inputs * chunk:
            chunk *= 2
    return scans.power_of_two(min(chunk, q.shape[1]))


def _place(direction: int, x: Any) -> Pair:
    return (None, x) if direction else (x, None)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple[jax.Array, Pair], tuple]:
    """Outputs of one direction or both, and last states if the plan wants them, of q, k, v, gates and states."""
    return _by_sequences(_forward, plan, inputs), inputs


def _cotangents(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    return _by_sequences(_backward, plan, inputs, cotangents)


_attend = derivatives.with_rule(_outputs, _cotangents, derivatives.own_derivative('gla', 1))


@partial(jax.jit, static_argnums=(0, 1))
def _by_sequences(run: Callable, plan: Plan, inputs: tuple, *more: tuple) -> Any:
    """Runs on the whole batch; on a CPU in float32, on a few sequences at a time: twice as fast if it is large."""
    q, _, v, *_ = inputs
    whole = partial(run, plan)
    few = scans.few(q, max(_BYTES // (plan.chunk * q.shape[2] * (q.shape[3] + v.shape[3]) * 4), 2))
    narrow = any(x.dtype != scans.wide(x.dtype) for x in jax.tree.leaves((inputs, more)))
    if few == q.shape[0] and not narrow:
        return whole(inputs, *more)
    return scans.where_it_runs(whole, whole, few, (inputs, *more))


class Memory(NamedTuple):
    """A (K, V) matrix that a pass over the chunks carries, and the arrays from which it is computed.

    A state (sum of k v^T) is carried in the direction of the scan, its cotangent (sum of q do^T) in the opposite one.
    """

    gate: jax.Array
    direction: int
    with_reading: bool
    rows: jax.Array
    columns: jax.Array
    scale: float = 1.0


def _forward(plan: Plan, inputs: tuple) -> tuple[jax.Array, Pair]:
    q, k, v, gates, states = inputs
    first, other = _order(gates)
    memories = [g if g is None else Memory(g, n, True, k, v) for n, g in enumerate(gates)]
    blank = _start(None, plan, q, v)
    others = (None, None)
    if gates[other] is not None:
        others = _edges(plan, (memories[other],), (blank,), other)

    def step(carry: Any, start: Any, size: int, edge: Any) -> tuple[Any, None]:
        state, o = carry
        qc, kc, vc = (_read(x, start, size) for x in (q, k, v))
        qc *= plan.scale
        decays = _decays(gates, start, size)
        oc = intra.weighted(intra.scores(qc, kc, decays), vc, decays)
        for n, entering in ((first, state), (other, _unstack(edge)[0])):
            oc = oc if entering is None else oc + (qc * decays[n].query[-1]) @ entering
        return (_advance(memories[first], state, start, size), _write(o, oc, start, size)), None

    begin = (_start(states[first], plan, q, v), jnp.zeros_like(v))
    (state, o), _ = scans.sweep(step, begin, q.shape[1], plan.chunk, bool(first), others)
    return o, _place(first, state if plan.last else None)


def _backward(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    q, k, v, gates, states = inputs
    do, dstates = cotangents
    first, other = _order(gates)
    state = [g if g is None else Memory(g, n, True, k, v) for n, g in enumerate(gates)]
    costate = [g if g is None else Memory(g, n, False, q, do, plan.scale) for n, g in enumerate(gates)]
    blank = None if gates[other] is None else _start(None, plan, q, v)
    begin = (_start(states[first], plan, q, v), blank)
    edges = _edges(plan, (state[first], costate[other]), begin, first)

    def step(carry: Any, start: Any, size: int, edge: Any) -> tuple[Any, None]:
        walked, outs = carry
        edge = _unstack(edge)
        # Per direction: the state that enters the chunk, and the cotangent of the state that leaves it.
        pairs = ((edge[0], walked[0]), (walked[1], edge[1]))
        qc, kc, vc, doc = (_read(x, start, size) for x in (q, k, v, do))
        decays = _decays(gates, start, size)
        pairs = pairs if first == 0 else pairs[::-1]
        found = intra.cotangents(qc, kc, vc, doc * plan.scale, decays, pairs)
        outs = jax.tree.map(lambda out, x: _write(out, x, start, size), outs, found)
        return (_advance_all((costate[first], state[other]), walked, start, size), outs), None

    begin = (_start(dstates[first], plan, q, v), blank)
    outs = jax.tree.map(jnp.zeros_like, (q, k, v, gates))
    (walked, outs), _ = scans.sweep(step, (begin, outs), q.shape[1], plan.chunk, bool(other), edges)
    dstate = None if states[first] is None else walked[0].astype(states[first].dtype)
    return *outs, _place(first, dstate)


def _order(gates: Pair) -> tuple[int, int]:
    """Returns the direction in which the outputs are computed, and the other one."""
    return (0, 1) if gates[0] is not None else (1, 0)


def _start(state: jax.Array | None, plan: Plan, q: jax.Array, v: jax.Array) -> jax.Array | None:
    """Returns the initial state of a pass; a zero state before a single chunk is None, which costs nothing."""
    if state is not None:
        return state.astype(scans.wide(q.dtype))
    if q.shape[1] <= plan.chunk:
        return None
    shape = (q.shape[0], *q.shape[2:], v.shape[-1])
    return jnp.zeros_like(q, scans.wide(q.dtype), shape=shape)  # like q: varies as it does in shard_map


def _edges(plan: Plan, memories: tuple, begin: tuple, direction: int) -> Pair:
    """Returns the values of the memories before each chunk, in a pass in the given direction; see `_unstack`.

    They are in one array, since for each array XLA would allocate a buffer of zeros and another one to copy it from.
    """

    def step(carry: Any, start: Any, size: int, _: None) -> tuple[Any, Any]:
        held = [x for x in carry if x is not None]
        return _advance_all(memories, carry, start, size), jnp.stack(held) if held else None

    length = memories[0].rows.shape[1]
    return scans.sweep(step, begin, length, plan.chunk, bool(direction), (None, None))[1]


def _unstack(edge: jax.Array | None) -> Pair:
    """Returns the values of two memories before a chunk, from the stacked array; None for one that is not in it."""
    held = () if edge is None else tuple(edge)
    return (*held, None, None)[:2]


def _advance_all(memories: tuple, held: tuple, start: Any, size: int) -> tuple:
    return tuple(_advance(m, x, start, size) for m, x in zip(memories, held))


def _advance(memory: Memory | None, held: jax.Array | None, start: Any, size: int) -> Any:
    """Returns the value of a memory after a chunk, given the value before it: decay, then add the chunk."""
    if memory is None:
        return None
    a = _read_gate(memory.gate, start, size)
    decays = intra.decays(a, memory.direction)
    fade = decays.key[-1] if memory.with_reading else decays.query[-1]
    rows, columns = (_read(x, start, size) for x in (memory.rows, memory.columns))
    added = jnp.einsum('bhck,bhcv->bhkv', rows * fade, columns * memory.scale)
    return added if held is None else decays.total[..., None] * held + added


def _read(x: jax.Array, start: Any, size: int) -> jax.Array:
    """Returns `size` tokens from `start` on as (B, H, C, ..), padded with zeros to a power of two C."""
    x = lax.dynamic_slice_in_dim(x, start, size, axis=1)
    x = jnp.pad(x, ((0, 0), (0, scans.power_of_two(size) - size), (0, 0), (0, 0)))
    return x.astype(scans.wide(x.dtype)).transpose(0, 2, 1, 3)


def _read_gate(g: jax.Array, start: Any, size: int) -> jax.Array:
    """Returns the decays of a chunk.

    Heads and channels are one axis for the exponential, since XLA on CPUs vectorizes long rows only.
    """
    rows = g.reshape(*g.shape[:2], 1, -1)
    a = jnp.exp(_read(rows, start, size))
    return a.reshape(a.shape[0], -1, *g.shape[2:]).transpose(0, 2, 1, 3)


def _write(out: jax.Array, x: jax.Array, start: Any, size: int) -> jax.Array:
    x = x.transpose(0, 2, 1, 3)[:, :size].astype(out.dtype)
    return lax.dynamic_update_slice_in_dim(out, x, start, axis=1)


def _decays(gates: Pair, start: Any, size: int) -> Pair:
    reads = [None if g is None else _read_gate(g, start, size) for g in gates]
    return tuple(None if a is None else intra.decays(a, n) for n, a in enumerate(reads))
