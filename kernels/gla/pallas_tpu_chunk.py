"""Gated linear attention inside one chunk of tokens, on values in the VMEM of a TPU.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635 (section 4.3). No code was taken from others. Scores and their cotangents are computed
by halving the chunk recursively, as explained in `intra.py`. Differences due to the chip:

* The channels of a group of G heads are concatenated in the lanes: keys are (C, G K), values (C, G V). `stack` turns
  one operand of a product into G copies below each other, each of which keeps the lanes of one head only, so that one
  product over all lanes serves all heads. For narrow heads this is free on a matrix unit of 128 x 128, since the masked
  lanes would be idle anyway.
* Scores of query i are (C, G C); those of head h are in columns h C to (h + 1) C - 1.
* A state is stored transposed, as (G V, G K), so that decays are in lanes; it is 0 between different heads.
* Blocks of less than 8 tokens, the rows of a register, are joined by rotating rows.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels import pallas

Pair = tuple[Any, Any]
_ROWS = 8  # of a register


class Tile(NamedTuple):
    """Static sizes of a chunk: C tokens (a power of two, 16 or more), G heads, K and V channels.

    narrow: whether operands of matrix products are rounded to bfloat16; sums are always float32.
    """

    tokens: int
    heads: int
    keys: int
    values: int
    narrow: bool

    @property
    def state(self) -> tuple[int, int]:
        return self.heads * self.values, self.heads * self.keys


class Decays(NamedTuple):
    """Products of the decays inside a chunk; see `intra.Decays`. Arrays are (C, G K), total is (1, G K)."""

    query: list[jax.Array]
    key: list[jax.Array]
    total: jax.Array


class Level(NamedTuple):
    """One halving into blocks of `half` tokens; `query` and `key` are the decays to and from the middle."""

    half: int
    query: jax.Array
    key: jax.Array


def decays(a: jax.Array, direction: int) -> Decays:
    """Returns the products of the decays `a` of each token; blocks are doubled until one block is the chunk."""
    query, key = [a], [jnp.ones_like(a)]
    half = 1
    while half < a.shape[0]:
        fade = _siblings_in_register if half < _ROWS else _siblings
        before, behind = fade(query[-1], half, direction)
        query.append(query[-1] * before)
        key.append(key[-1] * behind)
        half *= 2
    edge = 0 if direction else a.shape[0] - 1
    return Decays(query, key, query[-1][edge : edge + 1])


def _siblings(x: jax.Array, half: int, direction: int) -> tuple[jax.Array, jax.Array]:
    """Returns the total decay of each token's sibling block, if that is read before it, and if after it; else 1."""
    blocks = x.reshape(-1, 2, half, x.shape[-1])
    edge = 0 if direction else half - 1
    totals = jnp.broadcast_to(blocks[:, :, edge : edge + 1], blocks.shape)
    one = jnp.ones_like(totals[:, :1])
    of_left = jnp.concatenate([one, totals[:, :1]], axis=1).reshape(x.shape)
    of_right = jnp.concatenate([totals[:, 1:], one], axis=1).reshape(x.shape)
    return (of_right, of_left) if direction else (of_left, of_right)


def _siblings_in_register(x: jax.Array, half: int, direction: int) -> tuple[jax.Array, jax.Array]:
    """`_siblings` for blocks smaller than a register."""
    rows = x.reshape(-1, _ROWS, x.shape[-1])
    place = lax.broadcasted_iota(jnp.int32, rows.shape, 1) & (2 * half - 1)
    edge = 0 if direction else half - 1
    of_left = of_right = jnp.ones_like(rows)
    for n in range(half):
        of_left = jnp.where(place == half + n, _down(rows, half + n - edge), of_left)
        of_right = jnp.where(place == n, _down(rows, n - half - edge), of_right)
    of_left, of_right = of_left.reshape(x.shape), of_right.reshape(x.shape)
    return (of_right, of_left) if direction else (of_left, of_right)


def _down(rows: jax.Array, by: int) -> jax.Array:
    return pallas.roll(rows, by % _ROWS, 1)


def advance(tile: Tile, held: jax.Array, keys: jax.Array, values: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the state after a chunk: decayed, plus the products of keys (already decayed) and values."""
    state = held * total + dot(tile, values, keys, 'tn')
    if tile.heads == 1:
        return state
    heads = (_head(x, w) for x, w in zip(_places(state.shape), (tile.values, tile.keys)))
    return jnp.where(jnp.equal(*heads), state, 0.0)


def apart(tile: Tile, function: Callable[..., Any], like: Any, *arrays: Any) -> Any:
    """Returns `function(tile, *arrays)`, computed for one head after the other, with zeros for the other heads.

    A NaN in one head would reach the others of its group: the products over all lanes multiply it by zero.

    like: a tree of what is returned, the arrays from whose shapes it is taken.
    """

    def of_head(x: jax.Array, n: Any) -> jax.Array:
        return _head(_places(x.shape)[1], x.shape[1] // tile.heads) == n

    def step(n: Any, found: Any) -> Any:
        alone = jax.tree.map(lambda x: jnp.where(of_head(x, n), x, 0.0), arrays)
        return jax.tree.map(lambda x, new: jnp.where(of_head(x, n), new, x), found, function(tile, *alone))

    blank = jax.tree.map(jnp.zeros_like, like)
    return step(0, blank) if tile.heads == 1 else lax.fori_loop(0, tile.heads, step, blank)


def exact_outputs(tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, pair: Pair, states: Pair) -> jax.Array:
    """`outputs`, where a NaN in a value reaches no token that does not see it."""
    if None not in pair:
        return outputs(tile, q, k, v, pair, states)
    finite = jnp.abs(v) < jnp.inf
    token = _places(v.shape)[0].astype(jnp.float32)
    o = outputs(tile, q, k, jnp.where(finite, v, 0.0), pair, states)
    if pair[0] is None:
        reached = token <= jnp.max(jnp.where(finite, -1.0, token), axis=0, keepdims=True)
    else:
        reached = token >= jnp.min(jnp.where(finite, float(tile.tokens), token), axis=0, keepdims=True)
    return jnp.where(reached, jnp.nan, o)


def outputs(tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, pair: Pair, states: Pair) -> jax.Array:
    """Returns (C, G V), from the tokens of the chunk and the state that enters it in each direction."""
    found = jnp.where(_own(tile), _count(pair) * dot(tile, q, stack(tile, k), 'nt'), 0.0)
    for level in _levels(pair):
        product = dot(tile, q * level.query, stack(tile, k * level.key), 'nt')
        found = jnp.where(_mask(tile, level.half, pair), product, found)
    o = dot(tile, found, stack(tile, v))
    for fading, state in zip(pair, states):
        if fading is not None:
            o += dot(tile, q * fading.query[-1], state, 'nt')
    return o


def cotangents(
    tile: Tile,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    do: jax.Array,
    pair: Pair,
    edges: Pair,
) -> tuple[jax.Array, jax.Array, jax.Array, Pair]:
    """Returns the cotangents of q, k, v and the log decays of a chunk, given that of its outputs.

    edges: per direction the state that enters the chunk, and the cotangent of the state that leaves it.
    """
    dq, dk, dv, scored = _through_scores(tile, q, k, v, do, pair)
    dgates = [None, None]
    for n, fading in enumerate(pair):
        if fading is None:
            continue
        state, costate = edges[n]
        dq_entering = fading.query[-1] * dot(tile, do, state)
        dk_leaving = fading.key[-1] * dot(tile, v, costate)
        dv += dot(tile, k * fading.key[-1], costate, 'nt')
        across = fading.total * jnp.sum(state * costate, axis=0, keepdims=True)
        dgates[n] = across + _running(tile, scored[n] + q * dq_entering, k * dk_leaving, n)
        dq, dk = dq + dq_entering, dk + dk_leaving
    return dq, dk, dv, tuple(dgates)


def _through_scores(
    tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array, pair: Pair
) -> tuple[jax.Array, jax.Array, jax.Array, list[jax.Array]]:
    """Returns the cotangents of q, k and v from scores and, per direction, q dq - k dk without the diagonal.

    Summed over the two tokens of a score this difference cancels. It cancels to float32 precision only if both terms
    are computed from the same rounded numbers.
    """
    own, count = _own(tile), _count(pair)
    by_query, by_key = dot(tile, do, stack(tile, v), 'nt'), dot(tile, v, stack(tile, do), 'nt')
    dq = dot(tile, jnp.where(own, count * by_query, 0.0), stack(tile, k))
    dk = dot(tile, jnp.where(own, count * by_key, 0.0), stack(tile, q))
    scores = jnp.where(own, count * dot(tile, k, stack(tile, q), 'nt'), 0.0)
    scored = [jnp.zeros_like(q), jnp.zeros_like(q)]
    for level in _levels(pair):
        ql, kl = _rounded(tile, q * level.query), _rounded(tile, k * level.key)
        q_stack, k_stack = stack(tile, ql), stack(tile, kl)
        mask = _mask(tile, level.half, pair)
        mask_t = _mask(tile, level.half, pair[::-1])
        scores = jnp.where(mask_t, dot(tile, kl, q_stack, 'nt'), scores)
        from_keys = dot(tile, jnp.where(mask, by_query, 0.0), k_stack)
        from_queries = dot(tile, jnp.where(mask_t, by_key, 0.0), q_stack)
        dq += level.query * from_keys
        dk += level.key * from_queries
        right = _places(q.shape)[0] & level.half != 0
        to_right, to_left = (ql * from_keys, kl * from_queries)
        scored[0] += jnp.where(right, to_right, -to_left)
        scored[1] += jnp.where(right, -to_left, to_right)
    return dq, dk, dot(tile, scores, stack(tile, do)), scored


def _running(tile: Tile, own: jax.Array, others: jax.Array, direction: int) -> jax.Array:
    """Returns at each token the sum of `own` over the tokens from it on, plus that of `others` over those before it."""
    count = 1 if tile.heads == 1 else 2  # both in one product fill a matrix unit
    row, lane = _places((tile.tokens, count * tile.tokens))
    token = lane & (tile.tokens - 1)
    after = (token <= row) if direction else (token >= row)
    if count == 1:
        return _exact(tile, after, own) + _exact(tile, ~after, others)
    return _exact(tile, (lane < tile.tokens) == after, jnp.concatenate([own, others], axis=0))


def _exact(tile: Tile, which: jax.Array, x: jax.Array) -> jax.Array:
    """Returns sums of rows of x, in float32 precision also for narrow tiles."""
    ones = jnp.where(which, 1.0, 0.0)
    if not tile.narrow:
        return dot(tile, ones, x)
    high = _rounded(tile, x)
    return dot(tile, ones, high) + dot(tile, ones, x - high)


def dot(tile: Tile, a: jax.Array, b: jax.Array, how: str = 'nn') -> jax.Array:
    """Returns a b ('nn'), a b^T ('nt') or a^T b ('tn') in float32."""
    contract = (0 if how[0] == 't' else 1, 1 if how[1] == 't' else 0)
    if tile.narrow:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=lax.Precision.DEFAULT if tile.narrow else lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def stack(tile: Tile, x: jax.Array) -> jax.Array:
    """Returns (G C, G W) for x (C, G W): one copy per head, which keeps the lanes of that head only."""
    if tile.heads == 1:
        return x
    head = _head(_places(x.shape)[1], x.shape[1] // tile.heads)
    return jnp.concatenate([jnp.where(head == n, x, 0.0) for n in range(tile.heads)], axis=0)


def _rounded(tile: Tile, x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(jnp.float32) if tile.narrow else x


def _levels(pair: Pair) -> Iterator[Level]:
    """Yields the halvings; with two directions, right halves query left ones and left halves query right ones."""
    forward, backward = pair
    for n in range(len((forward or backward).query) - 1):
        query, key = ([None if d is None else d[side][n] for d in pair] for side in (0, 1))
        if backward is None:
            yield Level(1 << n, query[0], key[0])
        elif forward is None:
            yield Level(1 << n, query[1], key[1])
        else:
            right = _places(query[0].shape)[0] & (1 << n) != 0
            yield Level(1 << n, jnp.where(right, *query), jnp.where(right, *key[::-1]))


def _mask(tile: Tile, half: int, pair: Pair) -> jax.Array:
    """Returns the mask (C, G C) of the scores that a halving computes; forwards, their queries are in right halves."""
    row, lane = _places((tile.tokens, tile.heads * tile.tokens))
    found = (row ^ lane & (tile.tokens - 1)) & -half == half
    if pair[1] is None:
        return found & (row & half != 0)
    return found & (row & half == 0) if pair[0] is None else found


def _own(tile: Tile) -> jax.Array:
    """Returns the mask (C, G C) of the scores of tokens for themselves."""
    row, lane = _places((tile.tokens, tile.heads * tile.tokens))
    return row == lane & (tile.tokens - 1)


def _places(shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    return tuple(lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))


def _head(index: jax.Array, width: int) -> jax.Array:
    # Not `//`, which computes the sign; that can be lowered only if the chip is present.
    return lax.div(index, jnp.full_like(index, width))


def _count(pair: Pair) -> float:
    return float(sum(d is not None for d in pair))
