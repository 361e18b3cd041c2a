"""Gated linear attention inside one chunk of tokens: decays, scores and their cotangents.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635 (section 4.3). No code was taken from others.

The score of query i for key j < i is sum_k q_ik k_jk exp(g_{j+1,k} + .. + g_{i,k}). The paper divides exponentials of
prefix sums, which overflows for strong decays, and avoids the overflow by a second level of tiles, the innermost of
which are computed pair by pair. Here the chunk is halved recursively instead: if i is in the right half of a block and
j in the left half, the decay between them is (from the middle to i) times (from j to the middle), two products of
numbers in [0, 1]. Each of the log2 C levels is one matrix product. There are no exponentials of positive numbers and no
differences of long sums, so log decays of -50, -1e4 or -inf need no special treatment.

The backward direction is the mirror image (i left, j right). It fills the upper triangle of the same score matrix, so
two directions cost no more matrix products than one.

All arrays are (B, H, C, ..), C a power of two. Pairs have one entry per direction of the scan (forward, backward),
which is None if that direction is not wanted.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[Any, Any]


class Decays(NamedTuple):
    """Products of the decays inside a chunk for one direction: numbers in [0, 1]. K is 1 for one decay per head.

    query[n]: (B, H, C, K), for blocks of 2 ** n tokens: the product from the edge where the scan enters the block up to
      the token, this included.
    key[n]: (B, H, C, K): the product from the token, this excluded, to the edge where the scan leaves the block.
    total: (B, H, K): the product over the chunk.
    """

    query: list[jax.Array]
    key: list[jax.Array]
    total: jax.Array


def decays(a: jax.Array, direction: int) -> Decays:
    """Returns the products of the decays `a` of each token; blocks are doubled until one block is the chunk.

    When two blocks are joined, the products of one half are multiplied by the total of the other half, where that comes
    before (query) or after (key) it.
    """
    query, key = [a], [jnp.ones_like(a)]
    for half in _halves(a.shape[2]):
        q, k = (x[-1].reshape(*a.shape[:2], -1, 2, half, a.shape[-1]) for x in (query, key))
        total = q[..., :1, :] if direction else q[..., -1:, :]
        one = jnp.ones_like(total[..., :1, :, :])
        by_left = jnp.concatenate([one, total[..., :1, :, :]], axis=-3)
        by_right = jnp.concatenate([total[..., 1:, :, :], one], axis=-3)
        before, behind = (by_right, by_left) if direction else (by_left, by_right)
        query.append((q * before).reshape(a.shape))
        key.append((k * behind).reshape(a.shape))
    return Decays(query, key, query[-1][:, :, 0 if direction else -1])


def scores(q: jax.Array, k: jax.Array, pair: Pair) -> jax.Array:
    """Returns (B, H, C, C): the weight of value j for query i; the diagonal counts once per direction."""
    if _per_head(pair, q):
        # Not a product with zero: a NaN in a key is not for the queries before it.
        seen = _seen(pair, q.shape[2])[None, None]
        return jnp.where(seen, jnp.einsum('bhik,bhjk->bhij', q, k) * _faded(pair), 0.0)
    found = _diagonal(jnp.sum(q * k, axis=-1, keepdims=True), pair)
    for level in _levels(pair):
        product = jnp.einsum('bhik,bhjk->bhij', q * level.query, k * level.key)
        found = jnp.where(level.mask, product, found)
    return found


def weighted(scores: jax.Array, v: jax.Array, pair: Pair) -> jax.Array:
    """Returns the sum of the values (B, H, C, V), weighted by the scores.

    In one direction a NaN in a value reaches no token that does not see it: NaN times a score of zero would be NaN.
    """
    if None not in pair:
        return scores @ v
    finite, size = jnp.isfinite(v), v.shape[2]
    token = np.arange(size)[None, None, :, None]
    if pair[0] is None:
        reached = token <= jnp.max(jnp.where(finite, -1, token), axis=2, keepdims=True)
    else:
        reached = token >= jnp.min(jnp.where(finite, size, token), axis=2, keepdims=True)
    return jnp.where(reached, jnp.nan, scores @ jnp.where(finite, v, 0.0))


def cotangents(
    q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array, pair: Pair, edges: Pair
) -> tuple[jax.Array, jax.Array, jax.Array, Pair]:
    """Returns the cotangents of q, k, v and the log decays of a chunk, given that of its outputs.

    A score is multiplied by every decay between its key and its query, so in the forward direction
    dg_t = sum_{i >= t} q_i dq_i - sum_{j >= t} k_j dk_j, where dk counts only the contributions to scores. What a key
    adds to the state that leaves the chunk is multiplied by all later decays, and is summed over these.

    edges: per direction the state that enters the chunk, and the cotangent of the state that leaves it.
    """
    dscores = jnp.einsum('bhiv,bhjv->bhij', do, v)
    own = sum(d is not None for d in pair) * jnp.sum(do * v, axis=-1, keepdims=True)
    dq, dk = own * k, own * q
    dv = jnp.einsum('bhij,bhiv->bhjv', scores(q, k, pair), do)
    dgates = [None, None]
    for n, d in enumerate(pair):
        if d is None:
            continue
        dq_one, dk_one = _from_scores(q, k, dscores, pair, n)
        state, costate = edges[n]
        if state is not None:
            dq_one += d.query[-1] * jnp.einsum('bhcv,bhkv->bhck', do, state)
        dgate = _running(_like_gate(q * dq_one - k * dk_one, d), n, own=True)
        if costate is not None:
            dk_leaving = d.key[-1] * jnp.einsum('bhcv,bhkv->bhck', v, costate)
            dgate += _running(_like_gate(k * dk_leaving, d), 1 - n, own=False)
            dk_one += dk_leaving
            dv += (k * d.key[-1]) @ costate
        if state is not None and costate is not None:
            dgate += _like_gate(d.total * jnp.sum(state * costate, axis=-1), d)[:, :, None]
        dq, dk, dgates[n] = dq + dq_one, dk + dk_one, dgate
    return dq, dk, dv, tuple(dgates)


def _from_scores(
    q: jax.Array, k: jax.Array, dscores: jax.Array, pair: Pair, direction: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the cotangents of queries and keys from the off-diagonal scores of one direction.

    The matrix products are the same for both directions; the compiler computes them once.
    """
    if _per_head(pair, q):
        faded = dscores * _faded(pair)
        faded = jnp.triu(faded, 1) if direction else jnp.tril(faded, -1)
        return faded @ k, jnp.einsum('bhij,bhik->bhjk', faded, q)
    dq, dk = jnp.zeros_like(q), jnp.zeros_like(k)
    for level in _levels(pair):
        faded = jnp.where(level.mask, dscores, 0.0)
        from_keys = level.query * (faded @ (k * level.key))
        from_queries = level.key * jnp.einsum('bhij,bhik->bhjk', faded, q * level.query)
        rows = ~level.right if direction else level.right
        dq += jnp.where(rows, from_keys, 0.0)
        dk += jnp.where(rows, 0.0, from_queries)
    return dq, dk


class Level(NamedTuple):
    """One halving: a mask of the scores that it computes (1, 1, C, C), and of the rows in right halves (1, 1, C, 1)."""

    mask: np.ndarray
    right: np.ndarray
    query: jax.Array
    key: jax.Array


def _levels(pair: Pair) -> Iterator[Level]:
    forward, backward = pair
    size = _any(pair).query[0].shape[2]
    for n, half in enumerate(_halves(size)):
        block = np.arange(size)[None, None, :, None] // half
        right, siblings = block % 2 == 1, block ^ np.swapaxes(block, -1, -2) == 1
        if backward is None:
            yield Level(siblings & right, right, forward.query[n], forward.key[n])
        elif forward is None:
            yield Level(siblings & ~right, right, backward.query[n], backward.key[n])
        else:
            query = jnp.where(right, forward.query[n], backward.query[n])
            key = jnp.where(right, backward.key[n], forward.key[n])
            yield Level(siblings, right, query, key)


def _halves(size: int) -> Iterator[int]:
    """Yields 1, 2, 4, .., size / 2: the halves of blocks of 2, 4, 8, .., size tokens."""
    half = 1
    while half < size:
        yield half
        half *= 2


def _seen(pair: Pair, size: int) -> np.ndarray:
    """Returns which keys (columns) each query of a chunk sees."""
    every = np.ones((size, size), bool)
    if None not in pair:
        return every
    return np.triu(every) if pair[0] is None else np.tril(every)


def _any(pair: Pair) -> Decays:
    return pair[0] or pair[1]


def _per_head(pair: Pair, q: jax.Array) -> bool:
    """Whether all channels of a head share a decay: then the scores are one matrix product times the decays."""
    return _any(pair).total.shape[-1] != q.shape[-1]


def _faded(pair: Pair) -> jax.Array:
    """Returns (B, H, C, C), for one decay per head: the decay from token j to token i."""
    found = _diagonal(jnp.ones_like(_any(pair).query[0]), pair)
    for level in _levels(pair):
        found = jnp.where(level.mask, level.query * jnp.swapaxes(level.key, -1, -2), found)
    return found


def _diagonal(x: jax.Array, pair: Pair) -> jax.Array:
    """Returns the diagonal matrices (B, H, C, C) of x (B, H, C, 1), times the number of directions."""
    directions = sum(d is not None for d in pair)
    return x * (directions * np.eye(x.shape[2], dtype=x.dtype))[None, None]


def _like_gate(x: jax.Array, d: Decays) -> jax.Array:
    """Returns x, summed over the channels if they share a decay."""
    return x if d.total.shape[-1] == x.shape[-1] else jnp.sum(x, axis=-1, keepdims=True)


def _running(x: jax.Array, direction: int, own: bool) -> jax.Array:
    """Returns the sum of x over all tokens that the scan reads after each token, which is included with `own`.

    It is a product with a constant matrix: a cumulative sum is slower on CPUs and no better on matrix units.
    """
    size = x.shape[2]
    after = np.triu(np.ones((size, size), x.dtype), 0 if own else 1)
    after = (after.T if direction else after)[None, None]
    shape = (*x.shape[:2], size, size)
    return jnp.matmul(jnp.broadcast_to(after, shape), x, precision=lax.Precision.HIGHEST)
