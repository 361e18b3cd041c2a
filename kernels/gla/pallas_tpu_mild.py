"""Gated linear attention with mild decays inside one chunk of tokens, on values in the VMEM of a TPU.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635 (section 4.2). No code was taken from others. The decay between two tokens is that from
the middle of the chunk to the token of the query, times that from the token of the key to the middle. One of them is
the exponential of a positive number if both tokens are on the same side, so this holds as long as no channel loses more
than `MOST` in a chunk: then scores are a single product. The kernels ask for it block by block.

Log decays are summed by a product with a triangle of ones. Sums to one edge of a chunk, of which no difference is
taken, hold for any decay; states are computed from them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from longview.kernels.gla.pallas_tpu_tile import (
    Pair,
    Tile,
    dot,
    exact_sums,
    gathered,
    rounded,
    score_places,
    stack,
    up_to,
)

MOST = 40.0  # loss of log decay in a chunk; the square of its exponential is far from the ends of float32


class Decays(NamedTuple):
    """Products of the decays inside a chunk for one direction, (C, G K), and over it, (1, G K).

    query, key: from the middle of the chunk to the token, and from the token to the middle.
    into, out: from the edge where the scan enters the chunk to the middle, and from there to where it leaves, (1, G K).
    """

    query: jax.Array
    key: jax.Array
    into: jax.Array
    out: jax.Array
    total: jax.Array

    @property
    def entering(self) -> jax.Array:
        """From the edge where the scan enters the chunk up to the token, this included."""
        return self.query * self.into

    @property
    def leaving(self) -> jax.Array:
        """From the token, this excluded, to the edge where the scan leaves the chunk."""
        return self.key * self.out


def decays(tile: Tile, gate: jax.Array, direction: int) -> Decays:
    """Returns the products of mild decays; gate: (C, G K) log decays."""
    sums = exact_sums(tile, up_to(tile, direction), gate)
    last = 0 if direction else tile.tokens - 1
    total, middle = sums[last : last + 1], sums[tile.tokens // 2 : tile.tokens // 2 + 1]
    logs = (sums - middle, middle - sums, middle, total - middle, total)
    return Decays(*map(jnp.exp, logs))


def scores(tile: Tile, q: jax.Array, k: jax.Array, pair: Pair) -> jax.Array:
    """Returns (C, G C): the weight of the value of each token for each query."""
    found = 0.0
    for n, d in enumerate(pair):
        if d is not None:
            found += jnp.where(_seen(tile, n), dot(tile, q * d.query, stack(tile, k * d.key), 'nt'), 0.0)
    return found


def through_scores(
    tile: Tile, q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array, pair: Pair
) -> tuple[jax.Array, jax.Array, jax.Array, list[jax.Array | None]]:
    """Returns the cotangents of q, k and v from scores and, per direction, q dq - k dk.

    Both terms of the difference are computed from the same rounded numbers; see `pallas_tpu_chunk.py`.
    """
    weights, scored = 0.0, [None, None]
    dq = dk = 0.0
    dscores = dot(tile, do, stack(tile, v), 'nt')
    for n, d in enumerate(pair):
        if d is None:
            continue
        seen = _seen(tile, n)
        ql, kl = rounded(tile, q * d.query), rounded(tile, k * d.key)
        k_stack = stack(tile, kl)
        weights += jnp.where(seen, dot(tile, ql, k_stack, 'nt'), 0.0)
        asked = jnp.where(seen, dscores, 0.0)
        from_keys, from_queries = dot(tile, asked, k_stack), gathered(tile, asked, ql)
        dq += d.query * from_keys
        dk += d.key * from_queries
        scored[n] = ql * from_keys - kl * from_queries
    return dq, dk, gathered(tile, weights, do), scored


def _seen(tile: Tile, direction: int) -> jax.Array:
    """Returns the mask (C, G C) of the scores of a direction; that of a token for itself is in both."""
    query, key = score_places(tile)
    return (query <= key) if direction else (query >= key)
