"""Gated linear attention in chunks of tokens: plain XLA, forward and backward, any length.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635. No code of a reference implementation was used.

A loop walks over chunks of C tokens and carries the (K, V) state. Between chunks everything is a
matrix product. Inside one, the score of query i for key j < i is
sum_k q_ik k_jk exp(g_{j+1,k} + .. + g_{i,k}). The paper divides exponentials of prefix sums, which
overflows for strong decay, and cures that by a second level of tiles, the innermost done pair by
pair. Here a chunk is halved again and again instead: where i lies in the right half of a block and
j in the left, the decay between them is (from the middle to i) times (from j to the middle), two
products of numbers in [0, 1]. Each of the log2 C levels is one matrix product; no exponential of a
positive number is formed and no long sum is subtracted from another, so log decays of -50, -1e4 or
-inf need no special care.

Reading backwards is the mirror image (i left, j right). It fills the upper triangle of the same
score matrix, so two directions cost the matrix products of one. "Forward" and "backward" below are
directions of reading (0 and 1); derivatives are "cotangents". A sequence of one chunk needs no
state: that is the parallel, quadratic form.

The backward pass keeps the inputs only. A first walk rebuilds the states at the chunk edges; a
second one, against it, carries the cotangent of the state and works inside each chunk. A score
fades with every decay between its key and its query, hence the cotangent of a log decay follows
from those of queries and keys, summed inside the chunk:

    dg_t = sum_{i >= t} q_i dq_i - sum_{j >= t} k_j dk_j + what crosses an edge of the chunk.

Inputs may be bfloat16; arithmetic and state are float32 (float64 for float64 inputs).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from kernels import dispatch

_CHUNK = 32  # measured on a CPU against 16, 64 and 128, heads of (32, 64) and (64, 128)
_BYTES = 2**18  # what the keys and values of a chunk may take: some thirty such arrays share a cache

Pair = tuple[Any, Any]  # one entry per direction of reading; None where it is not asked for


class Plan(NamedTuple):
    """The static part of a call: tokens per chunk, factor on the queries, is the last state wanted."""

    chunk: int
    scale: float
    last: bool


def gla(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b t h k'],
    v: Float[Array, 'b t h v'],
    g: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    initial_state: Float[Array, 'b h k v'] | None = None,
    *,
    scale: float,
    reverse: bool = False,
    chunk: int | None = None,
) -> tuple[Float[Array, 'b t h v'], Float[Array, 'b h k v']]:
    """One direction; see `kernels.gla.gla`."""
    gates, states = (_place(reverse, x) for x in (_with_channels(g, q), initial_state))
    o, states = _attend(Plan(_chunk(q, chunk), scale, True), q, k, v, gates, states)
    return o, states[reverse]


def bidirectional_gla(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b t h k'],
    v: Float[Array, 'b t h v'],
    g_forward: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    g_backward: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    *,
    scale: float,
    chunk: int | None = None,
) -> Float[Array, 'b t h v']:
    """Both directions summed; see `kernels.gla.bidirectional_gla`."""
    gates = tuple(_with_channels(g, q) for g in (g_forward, g_backward))
    if gates[0].shape != gates[1].shape:
        gates = tuple(jnp.broadcast_to(g, q.shape) for g in gates)
    return _attend(Plan(_chunk(q, chunk), scale, False), q, k, v, gates, (None, None))[0]


def _with_channels(g: jax.Array, q: jax.Array) -> jax.Array:
    """(B, T, H, K), with K = 1 for one decay a head."""
    return g if g.ndim == q.ndim else g[..., None]


def _chunk(q: jax.Array, chunk: int | None) -> int:
    return _power(min(chunk or _CHUNK, q.shape[1]))


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def _place(direction: int, x: Any) -> Pair:
    return (None, x) if direction else (x, None)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, gates: Pair, states: Pair
) -> tuple[jax.Array, Pair]:
    """The outputs of one direction or of both, and the last states where the plan wants them."""
    return _by_sequences(_forward, plan, (q, k, v, gates, states))


def _attend_forward(plan: Plan, *inputs: Any) -> tuple[tuple[jax.Array, Pair], tuple]:
    return _by_sequences(_forward, plan, inputs), inputs


def _attend_backward(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    pullback = partial(_by_sequences, _backward, plan)
    return dispatch.first_order('gla', pullback)(inputs, cotangents)


_attend.defvjp(_attend_forward, _attend_backward)


@partial(jax.jit, static_argnums=(0, 1))
def _by_sequences(run: Callable, plan: Plan, inputs: tuple, *more: tuple) -> Any:
    """Runs on the whole batch; on a CPU a few sequences at a time, for a chunk of them stays cached.

    Twice as fast there from about 8 sequences on. Not where a batch may be split over devices:
    a loop over it would have to gather it.
    """
    q, _, v, _, _ = inputs
    batch, _, heads, _ = q.shape
    fit = _BYTES // (plan.chunk * heads * (q.shape[-1] + v.shape[-1]) * 4)
    few = next(n for n in range(min(max(fit, 1), batch), 0, -1) if batch % n == 0)
    whole = partial(run, plan)
    if few == batch or dispatch.sharded(q):
        return whole(inputs, *more)

    def in_turn(*args: tuple) -> Any:
        groups = jax.tree.map(lambda x: x.reshape(batch // few, few, *x.shape[1:]), args)
        found = lax.map(lambda args: whole(*args), groups)
        return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), found)

    return lax.platform_dependent(inputs, *more, cpu=in_turn, default=whole)


class Memory(NamedTuple):
    """A (K, V) matrix that a walk over the chunks carries, and what makes it.

    A state (sum of k v^T) is carried with the reading; its cotangent (sum of q do^T), against it.
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
        decays = _chunk_decays(gates, start, size)
        oc = _scores(qc, kc, decays) @ vc
        for n, entering in ((first, state), (other, edge and edge[0])):
            oc = oc if entering is None else oc + (qc * decays[n].query[-1]) @ entering
        return (_advance(memories[first], state, start, size), _write(o, oc, start, size)), None

    begin = (_start(states[first], plan, q, v), jnp.zeros_like(v))
    (state, o), _ = _sweep(step, begin, q.shape[1], plan.chunk, first, others)
    return o, _place(first, state if plan.last else None)


def _backward(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    q, k, v, gates, states = inputs
    do, dstates = cotangents
    first, other = _order(gates)
    state = [g if g is None else Memory(g, n, True, k, v) for n, g in enumerate(gates)]
    costate = [
        g if g is None else Memory(g, n, False, q, do, plan.scale) for n, g in enumerate(gates)
    ]
    blank = None if gates[other] is None else _start(None, plan, q, v)
    begin = (_start(states[first], plan, q, v), blank)
    edges = _edges(plan, (state[first], costate[other]), begin, first)

    def step(carry: Any, start: Any, size: int, edge: Any) -> tuple[Any, None]:
        walked, outs = carry
        # Per direction: the state that enters the chunk, the cotangent of the one that leaves it.
        pairs = ((edge[0], walked[0]), (walked[1], edge[1]))
        qc, kc, vc, doc = (_read(x, start, size) for x in (q, k, v, do))
        decays = _chunk_decays(gates, start, size)
        pairs = pairs if first == 0 else pairs[::-1]
        found = _chunk_cotangents(qc, kc, vc, doc * plan.scale, decays, pairs)
        outs = jax.tree.map(lambda out, x: _write(out, x, start, size), outs, found)
        return (_advance_all((costate[first], state[other]), walked, start, size), outs), None

    begin = (_start(dstates[first], plan, q, v), blank)
    outs = jax.tree.map(jnp.zeros_like, (q, k, v, gates))
    (walked, outs), _ = _sweep(step, (begin, outs), q.shape[1], plan.chunk, other, edges)
    dstate = None if states[first] is None else walked[0].astype(states[first].dtype)
    return *outs, _place(first, dstate)


def _order(gates: Pair) -> tuple[int, int]:
    """The direction that the outputs are made in, and the other one."""
    return (0, 1) if gates[0] is not None else (1, 0)


def _start(state: jax.Array | None, plan: Plan, q: jax.Array, v: jax.Array) -> jax.Array | None:
    """What a walk starts from: None, which costs nothing, for zero before an only chunk."""
    if state is not None:
        return state.astype(_wide(q.dtype))
    shape = (q.shape[0], *q.shape[2:], v.shape[-1])
    return jnp.zeros(shape, _wide(q.dtype)) if q.shape[1] > plan.chunk else None


def _sweep(
    step: Callable, carry: Any, length: int, chunk: int, direction: int, given: Pair
) -> tuple[Any, Pair]:
    """Runs `step(carry, start, size, given)` over the chunks, in direction 1 from the last.

    The full chunks are a loop; the rest, always at the end of the sequence, is a step of its own.
    What the steps are given and give back is a pair: stacked over the full chunks, of the rest.
    """
    full, rest = (0, length) if length <= chunk else divmod(length, chunk)
    stacked = tail = None
    if rest and direction:
        carry, tail = step(carry, full * chunk, rest, given[1])
    if full:
        body = lambda carry, x: step(carry, x[0] * chunk, chunk, x[1])
        starts = jnp.arange(full)
        carry, stacked = lax.scan(body, carry, (starts, given[0]), reverse=bool(direction))
    if rest and not direction:
        carry, tail = step(carry, full * chunk, rest, given[1])
    return carry, (stacked, tail)


def _edges(plan: Plan, memories: tuple, begin: tuple, direction: int) -> Pair:
    """What the memories hold before each chunk, walking in the direction given."""

    def step(carry: Any, start: Any, size: int, _: None) -> tuple[Any, Any]:
        return _advance_all(memories, carry, start, size), carry

    length = memories[0].rows.shape[1]
    return _sweep(step, begin, length, plan.chunk, direction, (None, None))[1]


def _advance_all(memories: tuple, held: tuple, start: Any, size: int) -> tuple:
    return tuple(_advance(m, x, start, size) for m, x in zip(memories, held))


def _advance(memory: Memory | None, held: jax.Array | None, start: Any, size: int) -> Any:
    """What the memory holds after a chunk, from what it held before: fade, then add the chunk."""
    if memory is None:
        return None
    decays = _decays(_read_gate(memory.gate, start, size), memory.direction)
    fade = decays.key[-1] if memory.with_reading else decays.query[-1]
    rows, columns = (_read(x, start, size) for x in (memory.rows, memory.columns))
    added = jnp.einsum('bhck,bhcv->bhkv', rows * fade, columns * memory.scale)
    return added if held is None else decays.total[..., None] * held + added


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _read(x: jax.Array, start: Any, size: int) -> jax.Array:
    """`size` tokens from `start` as (B, H, C, ..), C the next power of two, filled with zeros."""
    x = lax.dynamic_slice_in_dim(x, start, size, axis=1)
    x = jnp.pad(x, ((0, 0), (0, _power(size) - size), (0, 0), (0, 0)))
    return x.astype(_wide(x.dtype)).transpose(0, 2, 1, 3)


def _read_gate(g: jax.Array, start: Any, size: int) -> jax.Array:
    """The decays of a chunk.

    Heads and channels are one axis for the exponential: on a CPU, XLA vectorises it in long rows only.
    """
    rows = g.reshape(*g.shape[:2], 1, -1)
    a = jnp.exp(_read(rows, start, size))
    return a.reshape(a.shape[0], -1, *g.shape[2:]).transpose(0, 2, 1, 3)


def _write(out: jax.Array, x: jax.Array, start: Any, size: int) -> jax.Array:
    x = x.transpose(0, 2, 1, 3)[:, :size].astype(out.dtype)
    return lax.dynamic_update_slice_in_dim(out, x, start, axis=1)


class Decays(NamedTuple):
    """How one direction fades inside a chunk; every number is in [0, 1]; K is 1 for one a head.

    query[n]: (B, H, C, K), in blocks of 2 ** n tokens, from the edge where the reading enters the
      block up to the token and with it.
    key[n]: (B, H, C, K), from behind the token to the edge where the reading leaves the block.
    total: (B, H, K), over the chunk.
    """

    query: list[jax.Array]
    key: list[jax.Array]
    total: jax.Array


def _chunk_decays(gates: Pair, start: Any, size: int) -> Pair:
    return tuple(
        None if g is None else _decays(_read_gate(g, start, size), n) for n, g in enumerate(gates)
    )


def _decays(a: jax.Array, direction: int) -> Decays:
    """Doubles the blocks until one is the chunk, scaling a half by its sibling's total."""
    query, key = [a], [jnp.ones_like(a)]
    for half in _halves(a.shape[2]):
        q, k = (x[-1].reshape(*a.shape[:2], -1, 2, half, a.shape[-1]) for x in (query, key))
        total = q[..., :1, :] if direction else q[..., -1:, :]
        one = jnp.ones_like(total[..., :1, :, :])
        right = jnp.concatenate([one, total[..., :1, :, :]], axis=-3)
        left = jnp.concatenate([total[..., 1:, :, :], one], axis=-3)
        query.append((q * (left if direction else right)).reshape(a.shape))
        key.append((k * (right if direction else left)).reshape(a.shape))
    return Decays(query, key, query[-1][:, :, 0 if direction else -1])


def _halves(size: int) -> Iterator[int]:
    """1, 2, 4, .. size / 2: what blocks of 2, 4, 8, .. tokens are halved into."""
    half = 1
    while half < size:
        yield half
        half *= 2


class Level(NamedTuple):
    """One halving: the scores it makes (1, 1, C, C), the rows in right halves (1, 1, C, 1), decays."""

    mask: np.ndarray
    right: np.ndarray
    query: jax.Array
    key: jax.Array


def _levels(decays: Pair) -> Iterator[Level]:
    forward, backward = decays
    for n, half in enumerate(_halves(_any(decays).query[0].shape[2])):
        block = np.arange(_any(decays).query[0].shape[2])[None, None, :, None] // half
        right, siblings = block % 2 == 1, block ^ np.swapaxes(block, -1, -2) == 1
        if backward is None:
            yield Level(siblings & right, right, forward.query[n], forward.key[n])
        elif forward is None:
            yield Level(siblings & ~right, right, backward.query[n], backward.key[n])
        else:
            query = jnp.where(right, forward.query[n], backward.query[n])
            key = jnp.where(right, backward.key[n], forward.key[n])
            yield Level(siblings, right, query, key)


def _any(decays: Pair) -> Decays:
    return decays[0] or decays[1]


def _one_per_head(q: jax.Array, decays: Pair) -> bool:
    return _any(decays).total.shape[-1] != q.shape[-1]


def _scores(q: jax.Array, k: jax.Array, decays: Pair) -> jax.Array:
    """(B, H, C, C): what query i takes of value j; on the diagonal, once per direction."""
    if _one_per_head(q, decays):
        return jnp.einsum('bhik,bhjk->bhij', q, k) * _fading(decays)
    scores = _diagonal(jnp.sum(q * k, axis=-1, keepdims=True), decays)
    for level in _levels(decays):
        product = jnp.einsum('bhik,bhjk->bhij', q * level.query, k * level.key)
        scores = jnp.where(level.mask, product, scores)
    return scores


def _fading(decays: Pair) -> jax.Array:
    """(B, H, C, C) for one decay a head: what is left of token j at token i."""
    fading = _diagonal(jnp.ones_like(_any(decays).query[0]), decays)
    for level in _levels(decays):
        fading = jnp.where(level.mask, level.query * jnp.swapaxes(level.key, -1, -2), fading)
    return fading


def _diagonal(x: jax.Array, decays: Pair) -> jax.Array:
    """(B, H, C, 1) -> (B, H, C, C), counted once per direction."""
    return x * (sum(d is not None for d in decays) * np.eye(x.shape[2], dtype=x.dtype))[None, None]


def _chunk_cotangents(
    q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array, decays: Pair, edges: Pair
) -> tuple[jax.Array, jax.Array, jax.Array, Pair]:
    """Cotangents of a chunk's q, k, v and log decays.

    edges: per direction the state that enters the chunk and the cotangent of the one that leaves.
    """
    dscores = jnp.einsum('bhiv,bhjv->bhij', do, v)
    own = sum(d is not None for d in decays) * jnp.sum(do * v, axis=-1, keepdims=True)
    dq, dk = own * k, own * q
    dv = jnp.einsum('bhij,bhiv->bhjv', _scores(q, k, decays), do)
    dgates = [None, None]
    for n, inside in enumerate(_inside_cotangents(q, k, dscores, decays)):
        if inside is None:
            continue
        d, (state, costate) = decays[n], edges[n]
        dq_inside, dk_inside = inside
        if state is not None:
            dq_inside += d.query[-1] * jnp.einsum('bhcv,bhkv->bhck', do, state)
        dgate = _running(_like_gate(q * dq_inside - k * dk_inside, d), n, inclusive=True)
        if costate is not None:
            dk_cross = d.key[-1] * jnp.einsum('bhcv,bhkv->bhck', v, costate)
            dgate += _running(_like_gate(k * dk_cross, d), 1 - n, inclusive=False)
            dv += (k * d.key[-1]) @ costate
            dk += dk_cross
        if state is not None and costate is not None:
            dgate += _like_gate(d.total * jnp.sum(state * costate, axis=-1), d)[:, :, None]
        dq, dk, dgates[n] = dq + dq_inside, dk + dk_inside, dgate
    return dq, dk, dv, tuple(dgates)


def _inside_cotangents(q: jax.Array, k: jax.Array, dscores: jax.Array, decays: Pair) -> list:
    """Per direction, what the scores off the diagonal give to queries and keys."""
    found = [None if d is None else [0.0, 0.0] for d in decays]
    if _one_per_head(q, decays):
        faded = dscores * _fading(decays)
        for n, pair in enumerate(found):
            if pair is not None:
                masked = jnp.triu(faded, 1) if n else jnp.tril(faded, -1)
                found[n] = [masked @ k, jnp.einsum('bhij,bhik->bhjk', masked, q)]
        return found
    for level in _levels(decays):
        masked = jnp.where(level.mask, dscores, 0.0)
        dq = level.query * (masked @ (k * level.key))
        dk = level.key * jnp.einsum('bhij,bhik->bhjk', masked, q * level.query)
        for pair, rows in zip(found, (level.right, ~level.right)):
            if pair is not None:
                pair[0] += jnp.where(rows, dq, 0.0)
                pair[1] += jnp.where(~rows, dk, 0.0)
    return found


def _like_gate(x: jax.Array, decays: Decays) -> jax.Array:
    """Summed over the channels where they share a decay."""
    one = decays.total.shape[-1] != x.shape[-1]
    return jnp.sum(x, axis=-1, keepdims=True) if one else x


def _running(x: jax.Array, direction: int, inclusive: bool) -> jax.Array:
    """At token t the sum of x over the tokens read after it, and its own where inclusive."""
    size = x.shape[2]
    after = np.tril(np.ones((size, size), x.dtype), 0 if inclusive else -1)
    after = jnp.broadcast_to((after if direction else after.T)[None, None], (*x.shape[:2], size, size))
    return jnp.matmul(after, x, precision=lax.Precision.HIGHEST)
