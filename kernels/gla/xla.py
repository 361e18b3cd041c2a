"""Gated linear attention in chunks of tokens: plain XLA, forward and backward, any length.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023, https://arxiv.org/abs/2312.06635.

A loop walks over chunks of C tokens and carries the (K, V) state. Between chunks everything is a matrix product; inside
one, the score of query i for key j < i is sum_k q_ik k_jk exp(g_{j+1,k} + ... + g_{i,k}). The paper divides prefix sums,
exp(b_i) / exp(b_j), which overflows for strong decay, and cures it by a second level of tiles with the last one done
in full precision. Here a chunk is halved again and again instead: where i lies in the right half of a block and j in the
left, the decay between them is (from the middle to i) times (from j to the middle), both products of numbers in [0, 1].
So each of the log2 C levels is one matrix product, no exponential of a positive number is ever formed, no sum is
subtracted from a sum, and log decays of -50, -1e4 or -inf need no special care.

The other direction is the mirror image (i left, j right), fills the upper triangle of the same score matrix, and so
shares the matrix products. "Forward" and "backward" below are directions of reading; gradients are "cotangents".

The backward pass keeps nothing but the inputs: a first walk rebuilds the states at the chunk edges, a second one runs
against it with the cotangent of the state and works inside each chunk. The cotangent of a log decay needs no further
products: a decay acts on everything that crosses its token, hence
    dg_t = sum_{i >= t} q_i dq_i - sum_{j >= t} k_j dk_j   (inside the chunk) + what crosses the whole chunk.

Inputs may be bfloat16; all arithmetic and the state are float32 (float64 for float64 inputs).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[Any, Any]  # one entry per direction of reading: (forward, backward); None where it is not asked for


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
    only = (lambda x: (None, x)) if reverse else (lambda x: (x, None))
    o, states = _attend(_chunk(q, chunk), scale, True, q, k, v, only(_per_channel(g, q)), only(initial_state))
    return o, states[int(reverse)]


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
    gates = (_per_channel(g_forward, q), _per_channel(g_backward, q))
    return _attend(_chunk(q, chunk), scale, False, q, k, v, gates, (None, None))[0]


def _per_channel(g: jax.Array, q: jax.Array) -> jax.Array:
    return g if g.ndim == q.ndim else jnp.broadcast_to(g[..., None], q.shape)


def _chunk(q: jax.Array, chunk: int | None) -> int:
    """Tokens per chunk, a power of two."""
    return _ceil_power(min(32 if chunk is None else chunk, q.shape[1]))


def _ceil_power(size: int) -> int:
    return 1 << (size - 1).bit_length()


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
    chunk: int, scale: float, last: bool, q: jax.Array, k: jax.Array, v: jax.Array, gates: Pair, states: Pair
) -> tuple[jax.Array, Pair]:
    """(o, last states) of one or both directions; the states only if `last`."""
    length = q.shape[1]
    first, other = _order(gates)
    edges = None
    if gates[other] is not None and length > chunk:
        walk = partial(_walk_states, (k, v), 'key', gates[other], other)
        _, edges = _sweep(walk, _zero_state(q, v), length, chunk, other)

    def step(carry: Any, start: Any, size: int, edge: jax.Array | None) -> tuple[Any, None]:
        state, o = carry
        qc, kc, vc = _read(q, start, size) * scale, _read(k, start, size), _read(v, start, size)
        decays = _chunk_decays(gates, start, size)
        seen = (state, edge) if first == 0 else (edge, state)
        oc = _scores(qc, kc, decays) @ vc
        for d, s in zip(decays, seen):
            oc = oc if d is None or s is None else oc + (qc * d.query[-1]) @ s
        state = _carry(state, kc * decays[first].key[-1], decays[first].total, vc)
        return (state, _write(o, oc, start, size)), None

    start_state = _start_state(states[first], q, v, chunk)
    (state, o), _ = _sweep(step, (start_state, jnp.zeros_like(v)), length, chunk, first, edges)
    state = state if last else None
    return o, (state, None) if first == 0 else (None, state)


def _attend_forward(
    chunk: int, scale: float, last: bool, q: jax.Array, k: jax.Array, v: jax.Array, gates: Pair, states: Pair
) -> tuple[Any, Any]:
    return _attend(chunk, scale, last, q, k, v, gates, states), (q, k, v, gates, states)


def _attend_backward(chunk: int, scale: float, last: bool, kept: Any, cotangents: Any) -> Any:
    q, k, v, gates, states = kept
    do, dstates = cotangents
    length = q.shape[1]
    first, other = _order(gates)
    both = gates[other] is not None
    many = length > chunk

    def rebuild(carry: Any, start: Any, size: int, _: None) -> tuple[Any, Any]:
        state, costate = carry
        state, _ = _walk_states((k, v), 'key', gates[first], first, state, start, size, None)
        if both:
            scaled = (q, do)
            costate, _ = _walk_states(scaled, 'query', gates[other], other, costate, start, size, None)
        return (state, costate), carry

    zero = _zero_state(q, v)
    edges = None
    if length > chunk:
        begin = (_start_state(states[first], q, v, chunk), zero if both else None)
        _, edges = _sweep(rebuild, begin, length, chunk, first)
    elif states[first] is not None:
        edges = (None, (_start_state(states[first], q, v, chunk), None))

    def step(carry: Any, start: Any, size: int, edge: Any) -> tuple[Any, None]:
        costate, state, outs = carry
        state_first, costate_other = (None, None) if edge is None else edge
        qc, kc, vc, doc = (_read(x, start, size) for x in (q, k, v, do))
        qc = qc * scale
        decays = _chunk_decays(gates, start, size)
        pairs = [(state_first, costate), (state, None if costate_other is None else costate_other * scale)]
        pairs = pairs if first == 0 else pairs[::-1]
        dq, dk, dv, dgates = _chunk_cotangents(qc, kc, vc, doc, decays, pairs)
        d = decays[first]
        if costate is not None:
            costate = _carry(costate, qc * d.query[-1], d.total, doc)
        if both and many:
            d = decays[other]
            state = _carry(state, kc * d.key[-1], d.total, vc)
        news = (dq * scale, dk, dv, *dgates)
        outs = tuple(None if o is None else _write(o, x, start, size) for o, x in zip(outs, news))
        return (costate, state, outs), None

    outs = tuple(None if x is None else jnp.zeros_like(x) for x in (q, k, v, *gates))
    costate = dstates[first].astype(zero.dtype) if last else zero if many else None
    begin = (costate, zero if both and many else None, outs)
    (costate, _, outs), _ = _sweep(step, begin, length, chunk, 1 - first, edges)
    dq, dk, dv, *dgates = outs
    dstate = None if states[first] is None else costate.astype(states[first].dtype)
    return dq, dk, dv, tuple(dgates), (dstate, None) if first == 0 else (None, dstate)


_attend.defvjp(_attend_forward, _attend_backward)


# ---
class Decays(NamedTuple):
    """How one direction fades inside a chunk, for blocks of 1, 2, 4, .. C tokens; every number is in [0, 1].

    query[n]: (B, H, C, K), from the edge where the block is entered up to and with the token.
    key[n]: (B, H, C, K), from behind the token to the edge where the block is left.
    total: (B, H, K), over the chunk.
    """

    query: list[jax.Array]
    key: list[jax.Array]
    total: jax.Array


def _chunk_decays(gates: Pair, start: Any, size: int) -> tuple[Decays | None, Decays | None]:
    return tuple(None if g is None else _decays(_read_gate(g, start, size), d) for d, g in enumerate(gates))


def _decays(a: jax.Array, direction: int) -> Decays:
    query, key = [a], [jnp.ones_like(a)]
    for half in _levels(a.shape[2]):
        q, k = _blocks(query[-1], half), _blocks(key[-1], half)
        total = q[..., :1, :] if direction else q[..., -1:, :]
        one = jnp.ones_like(total[..., :1, :, :])
        since = jnp.concatenate([one, total[..., :1, :, :]], axis=-3)
        until = jnp.concatenate([total[..., 1:, :, :], one], axis=-3)
        since, until = (until, since) if direction else (since, until)
        query.append((q * since).reshape(a.shape))
        key.append((k * until).reshape(a.shape))
    return Decays(query, key, query[-1][:, :, 0] if direction else query[-1][:, :, -1])


def _levels(size: int) -> Iterator[int]:
    half = 1
    while half < size:
        yield half
        half *= 2


def _blocks(x: jax.Array, half: int) -> jax.Array:
    """(B, H, C, K) -> (B, H, blocks, 2, half, K)."""
    return x.reshape(*x.shape[:2], -1, 2, half, x.shape[-1])


class Level(NamedTuple):
    """One halving: which scores it makes, and the decays its queries and keys carry. `right`: (C, 1), rows of right halves."""

    mask: np.ndarray
    right: np.ndarray
    query: jax.Array
    key: jax.Array


def _halvings(decays: Pair) -> Iterator[Level]:
    forward, backward = decays
    size = (forward or backward).query[0].shape[2]
    token = np.arange(size)
    for n, half in enumerate(_levels(size)):
        side = token // half
        right = (side % 2 == 1)[:, None]
        pair = (side[:, None] ^ side[None, :]) == 1
        if backward is None:
            yield Level(pair & right, right, forward.query[n], forward.key[n])
        elif forward is None:
            yield Level(pair & ~right, right, backward.query[n], backward.key[n])
        else:
            query = jnp.where(right, forward.query[n], backward.query[n])
            yield Level(pair, right, query, jnp.where(right, backward.key[n], forward.key[n]))


def _scores(q: jax.Array, k: jax.Array, decays: Pair) -> jax.Array:
    """(B, H, C, C): row i holds what query i takes of each value."""
    size = q.shape[2]
    directions = sum(d is not None for d in decays)
    scores = directions * jnp.sum(q * k, axis=-1, keepdims=True) * jnp.eye(size, dtype=q.dtype)[None, None]
    for level in _halvings(decays):
        product = jnp.einsum('bhik,bhjk->bhij', q * level.query, k * level.key)
        scores = jnp.where(level.mask, product, scores)
    return scores


def _chunk_cotangents(
    q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array, decays: Pair, edges: list
) -> tuple[jax.Array, jax.Array, jax.Array, list]:
    """Cotangents of a chunk's q, k, v and log decays. edges: per direction, the state entering and the cotangent of the one leaving."""
    directions = sum(d is not None for d in decays)
    dscores = jnp.einsum('bhiv,bhjv->bhij', do, v)
    diagonal = directions * jnp.diagonal(dscores, axis1=2, axis2=3)[..., None]
    dq, dk = diagonal * k, diagonal * q
    dv = jnp.einsum('bhij,bhiv->bhjv', _scores(q, k, decays), do)
    dqs, dks = _split_cotangents(q, k, dscores, decays)
    dgates = [None, None]
    for n, (d, (state, costate)) in enumerate(zip(decays, edges)):
        if d is None:
            continue
        inner = k * dks[n]
        crossing = 0.0
        if costate is not None:
            through = d.key[-1] * jnp.einsum('bhcv,bhkv->bhck', v, costate)
            dks[n] += through
            dv += (k * d.key[-1]) @ costate
            crossing = _running(k * through, 1 - n, inclusive=False)
        if state is not None:
            dqs[n] += d.query[-1] * jnp.einsum('bhcv,bhkv->bhck', do, state)
        if state is not None and costate is not None:
            crossing += (d.total * jnp.sum(state * costate, axis=-1))[:, :, None]
        dgates[n] = _running(q * dqs[n] - inner, n, inclusive=True) + crossing
        dq, dk = dq + dqs[n], dk + dks[n]
    return dq, dk, dv, dgates


def _split_cotangents(q: jax.Array, k: jax.Array, dscores: jax.Array, decays: Pair) -> tuple[list, list]:
    """What the scores of each direction (but for the diagonal) give to the queries and to the keys."""
    dqs, dks = [0.0, 0.0], [0.0, 0.0]
    for level in _halvings(decays):
        masked = jnp.where(level.mask, dscores, 0.0)
        dq = level.query * (masked @ (k * level.key))
        dk = level.key * jnp.einsum('bhij,bhik->bhjk', masked, q * level.query)
        for n, rows in enumerate((level.right, ~level.right)):
            if decays[n] is not None:
                dqs[n] += jnp.where(rows, dq, 0.0)
                dks[n] += jnp.where(~rows, dk, 0.0)
    return dqs, dks


def _running(x: jax.Array, direction: int, inclusive: bool) -> jax.Array:
    """Sum over the tokens from t on in reading order (those after t where not inclusive)."""
    size = x.shape[2]
    matrix = np.tril(np.ones((size, size), x.dtype), 0 if inclusive else -1)
    matrix = matrix if direction else matrix.T
    return jnp.einsum('tc,bhck->bhtk', matrix, x, precision=lax.Precision.HIGHEST)


# ---
def _order(gates: Pair) -> tuple[int, int]:
    """The direction the outputs are made in, and the other one."""
    return (0, 1) if gates[0] is not None else (1, 0)


def _zero_state(q: jax.Array, v: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.zeros((q.shape[0], *q.shape[2:], v.shape[-1]), dtype)


def _start_state(state: jax.Array | None, q: jax.Array, v: jax.Array, chunk: int) -> jax.Array | None:
    """The state to start from; None, which costs nothing, where there is none and only one chunk."""
    zero = _zero_state(q, v)
    if state is not None:
        return state.astype(zero.dtype)
    return zero if q.shape[1] > chunk else None


def _carry(state: jax.Array | None, x: jax.Array, total: jax.Array, y: jax.Array) -> jax.Array:
    added = jnp.einsum('bhck,bhcv->bhkv', x, y)
    return added if state is None else total[..., None] * state + added


def _walk_states(
    sources: Pair, role: str, gate: jax.Array, direction: int, state: jax.Array, start: Any, size: int, _: None
) -> tuple[jax.Array, jax.Array]:
    """A step that only carries a state (or, against the reading, its cotangent); also gives back the one it met."""
    decays = _decays(_read_gate(gate, start, size), direction)
    x, y = (_read(source, start, size) for source in sources)
    return _carry(state, x * getattr(decays, role)[-1], decays.total, y), state


def _read(x: jax.Array, start: Any, size: int) -> jax.Array:
    """`size` tokens from `start` as (B, H, C, .) in the arithmetic's dtype, C the next power of two, filled with zeros."""
    x = lax.dynamic_slice_in_dim(x, start, size, axis=1)
    x = jnp.pad(x, ((0, 0), (0, _ceil_power(size) - size), (0, 0), (0, 0)))
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).transpose(0, 2, 1, 3)


def _read_gate(g: jax.Array, start: Any, size: int) -> jax.Array:
    """The decays of a chunk. Heads and channels are one axis for the exponential: XLA on CPUs vectorises long rows only."""
    batch, length, heads, channels = g.shape
    g = lax.dynamic_slice_in_dim(g.reshape(batch, length, heads * channels), start, size, axis=1)
    g = jnp.pad(g, ((0, 0), (0, _ceil_power(size) - size), (0, 0)))
    a = lax.optimization_barrier(jnp.exp(g.astype(jnp.promote_types(g.dtype, jnp.float32))))
    return a.reshape(batch, -1, heads, channels).transpose(0, 2, 1, 3)


def _write(out: jax.Array, x: jax.Array, start: Any, size: int) -> jax.Array:
    x = x.transpose(0, 2, 1, 3)[:, :size].astype(out.dtype)
    return lax.dynamic_update_slice_in_dim(out, x, start, axis=1)


def _sweep(
    step: Callable, carry: Any, length: int, chunk: int, direction: int, given: Any = None
) -> tuple[Any, tuple[Any, Any]]:
    """Runs `step(carry, start, size, given)` over the chunks, from the last one where direction is 1.

    The full chunks run in a loop, the rest at the end of the sequence apart; what steps give back (and are given) is
    a pair: stacked over the full chunks, and of the rest.
    """
    full, rest = (0, length) if length <= chunk else divmod(length, chunk)
    looped, single = (None, None) if given is None else given
    tail = None
    if rest and direction:
        carry, tail = step(carry, full * chunk, rest, single)
    stacked = None
    if full:
        body = lambda carry, x: step(carry, x[0] * chunk, chunk, x[1])
        carry, stacked = lax.scan(body, carry, (jnp.arange(full), looped), reverse=bool(direction))
    if rest and not direction:
        carry, tail = step(carry, full * chunk, rest, single)
    return carry, (stacked, tail)
