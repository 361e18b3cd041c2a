"""Gated linear attention inside one chunk of tokens, on values in the VMEM of a TPU.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635 (section 4.3). No code was taken from others. Scores and their cotangents are computed
by halving the chunk recursively, as explained in `intra.py`; in one product if the channels of a head share a decay
(`pallas_tpu_head.py`) or if no decay is strong (`pallas_tpu_mild.py`). Heads share lanes and products, as explained in
`pallas_tpu_tile.py`. Blocks of less than 8 tokens, the rows of a register, are joined by rotating rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels import pallas
from longview.kernels.gla import pallas_tpu_head as per_head
from longview.kernels.gla import pallas_tpu_mild as mild
from longview.kernels.gla.pallas_tpu_tile import (
    Pair,
    Tile,
    count,
    dot,
    exact_sums,
    head_sums,
    into_keys,
    out_of_state,
    over_lanes,
    own,
    places,
    rounded,
    score_places,
    stack,
    sum_over_values,
)

_ROWS = 8  # of a register


class Decays(NamedTuple):
    """Products of the decays inside a chunk; see `intra.Decays`. Arrays are (C, G K), total is (1, G K)."""

    query: list[jax.Array]
    key: list[jax.Array]
    total: jax.Array

    @property
    def entering(self) -> jax.Array:
        return self.query[-1]

    @property
    def leaving(self) -> jax.Array:
        return self.key[-1]


class Level(NamedTuple):
    """One halving into blocks of `half` tokens; `query` and `key` are the decays to and from the middle."""

    half: int
    query: jax.Array
    key: jax.Array


def decays(gate: jax.Array, direction: int) -> Decays:
    """Returns the products of the decays of a chunk; blocks are doubled until one block is the chunk.

    gate: (C, G K) log decays.
    """
    a = jnp.exp(gate)
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


def exact_outputs(tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, pair: Pair, states: Pair) -> jax.Array:
    """`outputs`, where a NaN in a value reaches no token that does not see it."""
    if None not in pair:
        return outputs(tile, q, k, v, pair, states)
    finite = jnp.abs(v) < jnp.inf
    token = places(v.shape)[0].astype(jnp.float32)
    o = outputs(tile, q, k, jnp.where(finite, v, 0.0), pair, states)
    if pair[0] is None:
        reached = token <= jnp.max(jnp.where(finite, -1.0, token), axis=0, keepdims=True)
    else:
        reached = token >= jnp.min(jnp.where(finite, float(tile.tokens), token), axis=0, keepdims=True)
    return jnp.where(reached, jnp.nan, o)


def outputs(tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, pair: Pair, states: Pair) -> jax.Array:
    """Returns (C, G V), from the tokens of the chunk and the state that enters it in each direction."""
    scores = {mild.Decays: mild.scores, per_head.Decays: per_head.scores}.get(_kind(pair), _scores)
    o = dot(tile, scores(tile, q, k, pair), stack(tile, v))
    for fading, state in zip(pair, states):
        if fading is not None:
            o += out_of_state(tile, q * fading.entering, state)
    return o


def _kind(pair: Pair) -> type:
    """Returns the class of the decays of a chunk."""
    return type(pair[0] or pair[1])


def _scores(tile: Tile, q: jax.Array, k: jax.Array, pair: Pair) -> jax.Array:
    """Returns (C, G C): the weight of the value of each token for each query."""
    found = jnp.where(own(tile), count(pair) * dot(tile, q, stack(tile, k), 'nt'), 0.0)
    for level in _levels(pair):
        product = dot(tile, q * level.query, stack(tile, k * level.key), 'nt')
        found = jnp.where(_mask(tile, level.half, pair), product, found)
    return found


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
    others = {mild.Decays: mild.through_scores, per_head.Decays: per_head.through_scores}
    through_scores = others.get(_kind(pair), _through_scores)
    dq, dk, dv, scored = through_scores(tile, q, k, v, do, pair)
    dgates = [None, None]
    for n, fading in enumerate(pair):
        if fading is None:
            continue
        state, costate = edges[n]
        dq_entering = fading.entering * into_keys(tile, do, state)
        dk_leaving = fading.leaving * into_keys(tile, v, costate)
        dv += out_of_state(tile, k * fading.leaving, costate)
        across = fading.total * sum_over_values(tile, state * costate)
        if tile.shared:
            dgates[n] = scored[n] + per_head.of_gate(tile, q * dq_entering, k * dk_leaving, across, n)
        else:
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
    by_query, by_key = dot(tile, do, stack(tile, v), 'nt'), dot(tile, v, stack(tile, do), 'nt')
    times = count(pair)
    of_own = times * over_lanes(tile, head_sums(tile, do * v), tile.keys)
    dq, dk = of_own * k, of_own * q
    scores = jnp.where(own(tile), times * over_lanes(tile, head_sums(tile, q * k), tile.tokens), 0.0)
    scored = [jnp.zeros_like(q), jnp.zeros_like(q)]
    for halving in _halvings(tile, pair):
        both, mask = rounded(tile, halving.joined(q, k) * halving.decay), halving.mask(tile)
        stacked = stack(tile, both)
        product = dot(tile, both, stacked, 'nt')
        scores = halving.joined(scores, jnp.where(mask, product, scores))
        found = dot(tile, jnp.where(mask, halving.joined(by_query, by_key), 0.0), stacked)
        change = halving.decay * found
        dq, dk = halving.joined(dq + change, dq), halving.joined(dk, dk + change)
        change, n = both * found, halving.direction
        scored[n] = halving.joined(scored[n] + change, scored[n] - change)
    return dq, dk, dot(tile, scores, stack(tile, do)), scored


class Halving(NamedTuple):
    """One halving into blocks of `half` tokens, in one direction.

    Queries are in the right halves of blocks and keys in the left ones, backwards the other way around. So one array
    holds the rows of both, and one product the cotangents of both.

    decay: (C, G K), from the middle of a block to the token of a query, or from that of a key to the middle.
    cut: whether rows can be cut (`Tile`).
    """

    half: int
    direction: int
    decay: jax.Array
    cut: bool

    def joined(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Returns (C, ..), the rows of the queries from one array and those of the keys from the other."""
        right, left = (keys, queries) if self.direction else (queries, keys)
        return _joined(right, left, self.half, self.cut)

    def mask(self, tile: Tile) -> jax.Array:
        """Returns which (C, G C) are in sibling halves: a query and a key, or a key and a query."""
        row, token = score_places(tile)
        if self.cut and self.half >= _ROWS:  # then all rows of a register are in the same half
            registers = (tile.tokens // _ROWS, _ROWS, row.shape[1])
            row = lax.broadcasted_iota(jnp.int32, registers, 0).reshape(row.shape) * _ROWS
        return (row & -self.half) ^ self.half == token & -self.half


def _halvings(tile: Tile, pair: Pair) -> Iterator[Halving]:
    for direction, d in enumerate(pair):
        for n in range(0 if d is None else len(d.query) - 1):
            right, left = (d.key[n], d.query[n]) if direction else (d.query[n], d.key[n])
            yield Halving(1 << n, direction, _joined(right, left, 1 << n, tile.cut), tile.cut)


def _joined(right: jax.Array, left: jax.Array, half: int, cut: bool) -> jax.Array:
    """Returns the rows of one array in the right halves of blocks, and those of the other one in the left halves."""
    if not cut or half < _ROWS:
        return jnp.where(places(right.shape)[0] & half != 0, right, left)
    right, left = (x.reshape(-1, 2, half, x.shape[-1]) for x in (right, left))
    return jnp.concatenate([left[:, :1], right[:, 1:]], axis=1).reshape(-1, right.shape[-1])


def _running(tile: Tile, own: jax.Array, others: jax.Array, direction: int) -> jax.Array:
    """Returns at each token the sum of `own` over the tokens from it on, plus that of `others` over those before it."""
    parts = 1 if tile.heads == 1 else 2  # both in one product fill a matrix unit
    row, lane = places((tile.tokens, parts * tile.tokens))
    token = lane & (tile.tokens - 1)
    after = (token <= row) if direction else (token >= row)
    if parts == 1:
        return exact_sums(tile, after, own) + exact_sums(tile, ~after, others)
    return exact_sums(tile, (lane < tile.tokens) == after, jnp.concatenate([own, others], axis=0))


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
            right = places(query[0].shape)[0] & (1 << n) != 0
            yield Level(1 << n, jnp.where(right, *query), jnp.where(right, *key[::-1]))


def _mask(tile: Tile, half: int, pair: Pair) -> jax.Array:
    """Returns the mask (C, G C) of the scores that a halving computes; forwards, their queries are in right halves."""
    row, token = score_places(tile)
    found = (row ^ token) & -half == half
    if pair[1] is None:
        return found & (row & half != 0)
    return found & (row & half == 0) if pair[0] is None else found
