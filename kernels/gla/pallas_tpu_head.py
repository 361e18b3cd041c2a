"""Gated linear attention with one decay per head inside one chunk of tokens, on values in the VMEM of a TPU.

The decay of RetNet (Sun et al., 2023, https://arxiv.org/abs/2307.08621) and of Mamba-2 (Dao and Gu, 2024,
https://arxiv.org/abs/2405.21060, whose "segment sums" these are). No code was taken from others. All channels of a head
share a decay, so its scores are one product of queries and keys, times a (C, C) matrix of decays between tokens.

The log decay from token j to token i is the sum of those of the tokens behind j up to i, and it is computed as that
sum: a product of a triangle of ones with the gates, from which those up to j are left out. The difference of two sums
from the first token on would lose the small decays of tokens that follow a large one.

A gate is (G, C), tokens in lanes; arrays of scores are (C, G C), as in `pallas_tpu_tile.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from longview.kernels.gla import pallas_tpu_tile as tile_of
from longview.kernels.gla.pallas_tpu_tile import (
    LOWEST,
    Pair,
    Tile,
    by_head,
    count,
    dot,
    exact_sums,
    exactly,
    gathered,
    head_of,
    over_lanes,
    own,
    places,
    score_places,
    stack,
    to_edges,
    up_to,
)


class Decays(NamedTuple):
    """Products of the decays inside a chunk for one direction.

    between: (C, G C), from the token of a key to that of a query; 1 on the diagonal, and 0 where no decay is read.
    entering: (C, G K), from the edge where the scan enters the chunk up to the token, this included.
    leaving: (C, G K), from the token, this excluded, to the edge where the scan leaves the chunk.
    total: (1, G K), over the chunk.
    """

    between: jax.Array
    entering: jax.Array
    leaving: jax.Array
    total: jax.Array


def decays(tile: Tile, gate: jax.Array, direction: int, exact: bool) -> Decays:
    """Returns the products of the decays of a chunk.

    gate: (G, C) log decays.
    exact: whether a NaN in a gate stays away from the tokens before it.
    """
    columns = jnp.maximum(gate, LOWEST).T
    sums = _sums_with_nan if exact else exact_sums
    edges = jnp.exp(sums(tile, to_edges(tile, direction), columns))
    entering, leaving = (
        over_lanes(tile, by_head(tile, x), tile.keys) for x in (edges[: tile.tokens], edges[tile.tokens :])
    )
    behind = _behind(tile, direction)
    read = jnp.where(behind, over_lanes(tile, by_head(tile, columns), tile.tokens), 0.0)
    between = jnp.exp(sums(tile, up_to(tile, direction), read))
    last = 0 if direction else tile.tokens - 1
    return Decays(jnp.where(behind | own(tile), between, 0.0), entering, leaving, entering[last : last + 1])


def to_edge(tile: Tile, gate: jax.Array, direction: int, leaving: bool) -> tuple[jax.Array, jax.Array]:
    """`pallas_tpu_tile.to_edge` of (G, C) log decays."""
    decays = tile_of.to_edge(tile, gate.T, direction, leaving)
    return tuple(over_lanes(tile, by_head(tile, x), tile.keys) for x in decays)


def scores(tile: Tile, q: jax.Array, k: jax.Array, pair: Pair) -> jax.Array:
    """Returns (C, G C): the weight of the value of each token for each query."""
    return _weighted(tile, dot(tile, q, stack(tile, k), 'nt'), pair)


def through_scores(
    tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array, pair: Pair
) -> tuple[jax.Array, jax.Array, jax.Array, list[jax.Array | None]]:
    """Returns the cotangents of q, k and v from scores and, per direction, those of the gate, (G, C)."""
    product = dot(tile, q, stack(tile, k), 'nt')
    weighted = _weighted(tile, product, pair)
    dproduct = _weighted(tile, dot(tile, do, stack(tile, v), 'nt'), pair)
    dq, dk = dot(tile, dproduct, stack(tile, k)), gathered(tile, dproduct, q)
    logs = product * dproduct  # the cotangent of the log of a decay between two tokens
    dgates = [None if d is None else _of_gate(tile, logs, n) for n, d in enumerate(pair)]
    return dq, dk, gathered(tile, weighted, do), dgates


def of_gate(tile: Tile, entering: jax.Array, leaving: jax.Array, across: jax.Array, direction: int) -> jax.Array:
    """Returns the cotangent of a gate (G, C) from what enters and leaves the chunk.

    entering, leaving: (C, G K), the cotangents of the logs of `Decays.entering` and `Decays.leaving`.
    across: (1, G K), that of the log of the total.
    """
    row = places(entering.shape)[0]
    last = 0 if direction else tile.tokens - 1
    entering = jnp.where(row == last, entering + across, entering)
    token, other = places((tile.tokens, tile.tokens))  # rows are summed, lanes are tokens of the gate
    after = (token <= other) if direction else (token >= other)
    return _row_sums(tile, _by_rows(tile, entering), after) + _row_sums(tile, _by_rows(tile, leaving), ~after)


def _of_gate(tile: Tile, logs: jax.Array, direction: int) -> jax.Array:
    """Returns the cotangent of a gate (G, C), given that of the logs of the decays between tokens.

    A decay between two tokens reads the gates of the tokens behind the key up to the query.
    """
    behind = _behind(tile, direction)
    later = exact_sums(tile, up_to(tile, 1 - direction), jnp.where(behind, logs, 0.0))
    return _by_rows(tile, jnp.where(behind, later, 0.0))


def _weighted(tile: Tile, x: jax.Array, pair: Pair) -> jax.Array:
    """Returns x (C, G C) times the decays between tokens; what a query does not see is 0, also if x is NaN there."""
    query, key = score_places(tile)
    forward, backward = pair
    if backward is None:
        return jnp.where(query >= key, x * forward.between, 0.0)
    if forward is None:
        return jnp.where(query <= key, x * backward.between, 0.0)
    both = jnp.where(query > key, forward.between, backward.between)
    return x * jnp.where(query == key, count(pair), both)


def _behind(tile: Tile, direction: int) -> jax.Array:
    """Returns (C, G C): whether the scan reads the token of the row after that of the column."""
    row, token = score_places(tile)
    return (row < token) if direction else (row > token)


def _by_rows(tile: Tile, x: jax.Array) -> jax.Array:
    """Returns (G, C) for x (C, G W): the sums over the lanes of each head, in float32 precision."""
    row, lane = places((tile.heads, x.shape[1]))
    ones = jnp.where(row == head_of(lane, x.shape[1] // tile.heads), 1.0, 0.0)
    return exactly(tile, lambda x: dot(tile, ones, x, 'nt'), x)


def _row_sums(tile: Tile, x: jax.Array, which: jax.Array) -> jax.Array:
    """Returns (G, C) for x (G, C): sums over the lanes of x that `which` (C, C) has in a column."""
    ones = jnp.where(which, 1.0, 0.0)
    return exactly(tile, lambda x: dot(tile, x, ones), x)


def _sums_with_nan(tile: Tile, which: jax.Array, x: jax.Array) -> jax.Array:
    """`exact_sums`, where only sums that contain a NaN are NaN: it is not multiplied by the zeros for other rows."""
    known = x == x
    clean = exact_sums(tile, which, jnp.where(known, x, 0.0))
    return jnp.where(exact_sums(tile, which, jnp.where(known, 0.0, 1.0)) > 0, jnp.nan, clean)
