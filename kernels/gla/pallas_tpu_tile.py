"""Heads that share the lanes of a TPU: products, states and sums of a chunk of gated linear attention in its VMEM.

The channels of a group of G heads are concatenated in the lanes: keys are (C, G K), values (C, G V), scores of query i
(C, G C), where those of head h are in columns h C to (h + 1) C - 1. `stack` turns one operand of a product into G
copies below each other, each of which keeps the lanes of one head only, so that one product over all lanes serves all
heads. For narrow heads this is free on a matrix unit of 128 x 128, since the masked lanes would be idle anyway.

A state is stored transposed, as (G V, G K), so that decays are in lanes; it is 0 between different heads. If the keys
of a head fill whole rows of lanes, products with it are computed head by head, and it is stored as (G V, K).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LANES = 128
LOWEST = -1e30  # instead of a log decay of -inf, where it is multiplied by zero

Pair = tuple[Any, Any]


class Tile(NamedTuple):
    """Static sizes of a chunk: C tokens (a power of two, 16 or more), G heads, K and V channels.

    narrow: whether operands of matrix products are rounded to bfloat16; sums are always float32.
    shared: whether the channels of a head share a decay.
    cut: whether rows can be cut and joined, on a TPU.
    """

    tokens: int
    heads: int
    keys: int
    values: int
    narrow: bool
    shared: bool
    cut: bool = True

    @property
    def apart(self) -> bool:
        """Whether states are multiplied head by head."""
        return self.heads > 1 and self.keys % LANES == 0

    @property
    def state(self) -> tuple[int, int]:
        return self.heads * self.values, self.keys if self.apart else self.heads * self.keys


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
    head = head_of(places(x.shape)[1], x.shape[1] // tile.heads)
    return jnp.concatenate([jnp.where(head == n, x, 0.0) for n in range(tile.heads)], axis=0)


def gathered(tile: Tile, scores: jax.Array, x: jax.Array) -> jax.Array:
    """Returns (C, G W): per head the transposed scores, of (C, G C), times x (C, G W)."""
    found = dot(tile, scores, x, 'tn')
    if tile.heads == 1:
        return found
    head = head_of(places(x.shape)[1], x.shape[1] // tile.heads)
    size, sums = tile.tokens, found[: tile.tokens]
    for n in range(1, tile.heads):
        sums = jnp.where(head == n, found[n * size : (n + 1) * size], sums)
    return sums


def advance(tile: Tile, held: jax.Array, keys: jax.Array, values: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the state after a chunk: decayed, plus the products of keys (already decayed) and values."""
    if tile.apart:
        parts = zip(*(by_head(tile, x) for x in (values, keys, total)), by_head(tile, held, axis=0))
        return jnp.concatenate([old * t + dot(tile, v, k, 'tn') for v, k, t, old in parts], axis=0)
    state = held * total + dot(tile, values, keys, 'tn')
    if tile.heads == 1:
        return state
    heads = (head_of(x, w) for x, w in zip(places(state.shape), (tile.values, tile.keys)))
    return jnp.where(jnp.equal(*heads), state, 0.0)


def out_of_state(tile: Tile, keys: jax.Array, state: jax.Array) -> jax.Array:
    """Returns (C, G V): per head its keys or queries (C, G K) times the state."""
    if not tile.apart:
        return dot(tile, keys, state, 'nt')
    parts = zip(by_head(tile, keys), by_head(tile, state, axis=0))
    return jnp.concatenate([dot(tile, k, s, 'nt') for k, s in parts], axis=1)


def into_keys(tile: Tile, values: jax.Array, state: jax.Array) -> jax.Array:
    """Returns (C, G K): per head its values (C, G V) times the transposed state."""
    if not tile.apart:
        return dot(tile, values, state)
    parts = zip(by_head(tile, values), by_head(tile, state, axis=0))
    return jnp.concatenate([dot(tile, v, s) for v, s in parts], axis=1)


def sum_over_values(tile: Tile, state: jax.Array) -> jax.Array:
    """Returns (1, G K), the sums over the values of a state."""
    if not tile.apart:
        return jnp.sum(state, axis=0, keepdims=True)
    return jnp.concatenate([jnp.sum(s, axis=0, keepdims=True) for s in by_head(tile, state, axis=0)], axis=1)


def by_head(tile: Tile, x: jax.Array, axis: int = 1) -> list[jax.Array]:
    """Returns the part of each head along an axis."""
    size = x.shape[axis] // tile.heads
    return [lax.slice_in_dim(x, n * size, (n + 1) * size, axis=axis) for n in range(tile.heads)]


def head_sums(tile: Tile, x: jax.Array) -> list[jax.Array]:
    """Returns the sums over the lanes of each head, (C, 1)."""
    if tile.heads == 1:
        return [jnp.sum(x, axis=1, keepdims=True)]
    head = head_of(places(x.shape)[1], x.shape[1] // tile.heads)
    return [jnp.sum(jnp.where(head == n, x, 0.0), axis=1, keepdims=True) for n in range(tile.heads)]


def over_lanes(tile: Tile, parts: list[jax.Array], width: int) -> jax.Array:
    """Returns (rows, G W) for a column (rows, 1) of each head: its number in all of the lanes of the head."""
    rows = parts[0].shape[0]
    if width % LANES == 0 or tile.heads == 1:
        return jnp.concatenate([jnp.broadcast_to(part, (rows, width)) for part in parts], axis=1)
    shape = rows, tile.heads * width
    head, found = head_of(places(shape)[1], width), jnp.broadcast_to(parts[0], shape)
    for n, part in enumerate(parts[1:], 1):
        found = jnp.where(head == n, jnp.broadcast_to(part, shape), found)
    return found


def exact_sums(tile: Tile, which: jax.Array, x: jax.Array) -> jax.Array:
    """Returns sums of rows of x, in float32 precision also for narrow tiles.

    which: (rows, count of rows of x), the rows that are in each sum.
    """
    return exactly(tile, partial(dot, tile, jnp.where(which, 1.0, 0.0)), x)


def exactly(tile: Tile, product: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Returns `product(x)` in float32 precision; its other operand is the same in bfloat16."""
    if not tile.narrow:
        return product(x)
    high = rounded(tile, x)
    return product(high) + product(x - high)


def to_edges(tile: Tile, direction: int) -> jax.Array:
    """Returns (2 C, C): the tokens between each token and the edge where the scan enters, then where it leaves."""
    row, lane = places((2 * tile.tokens, tile.tokens))
    token = row & (tile.tokens - 1)
    before = (lane >= token) if direction else (lane <= token)
    return (row < tile.tokens) == before


def to_edge(tile: Tile, gate: jax.Array, direction: int, leaving: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the decays of any strength from tokens to one edge of the chunk, (C, G K), and over it, (1, G K).

    gate: (C, G K) log decays.
    leaving: whether from the token, this excluded, to where the scan leaves the chunk; otherwise from where it enters
      the chunk up to the token, this included.
    """
    gate = jnp.maximum(gate, LOWEST)
    which = ~up_to(tile, direction) if leaving else up_to(tile, direction)
    sums = exact_sums(tile, which, gate)
    edge = 0 if bool(direction) != leaving else tile.tokens - 1
    total = sums[edge : edge + 1] + gate[edge : edge + 1] if leaving else sums[edge : edge + 1]
    return jnp.exp(sums), jnp.exp(total)


def up_to(tile: Tile, direction: int) -> jax.Array:
    """Returns (C, C): for each token those that the scan reads before it, and itself."""
    row, lane = places((tile.tokens, tile.tokens))
    return (lane >= row) if direction else (lane <= row)


def rounded(tile: Tile, x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(jnp.float32) if tile.narrow else x


def each_alone(tile: Tile, function: Callable[..., Any], like: Any, arrays: Any, states: Any) -> Any:
    """Returns `function(tile, *arrays, states)`, computed for one head after the other, with zeros for the other heads.

    A NaN in one head would reach the others of its group: the products over all lanes multiply it by zero.

    like: a tree of what is returned, the arrays from whose shapes it is taken.
    arrays, states: trees.
    """

    def of_head(x: jax.Array, n: Any, by_rows: bool = False) -> jax.Array:
        by_rows = by_rows or x.shape == (tile.heads, tile.tokens)  # a gate per head
        axis = 0 if by_rows else 1
        return head_of(places(x.shape)[axis], x.shape[axis] // tile.heads) == n

    def step(n: Any, found: Any) -> Any:
        keep = lambda x, by_rows=False: jnp.where(of_head(x, n, by_rows), x, 0.0)
        kept = jax.tree.map(keep, arrays), jax.tree.map(partial(keep, by_rows=tile.apart), states)
        new = function(tile, *kept[0], kept[1])
        return jax.tree.map(lambda x, new: jnp.where(of_head(x, n), new, x), found, new)

    blank = jax.tree.map(jnp.zeros_like, like)
    return step(0, blank) if tile.heads == 1 else lax.fori_loop(0, tile.heads, step, blank)


def own(tile: Tile) -> jax.Array:
    """Returns the mask (C, G C) of the scores of tokens for themselves."""
    row, token = score_places(tile)
    return row == token


def score_places(tile: Tile) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens of the query and of the key of each score, (C, G C)."""
    row, lane = places((tile.tokens, tile.heads * tile.tokens))
    return row, lane & (tile.tokens - 1)


def count(pair: Pair) -> float:
    """Returns the number of directions."""
    return float(sum(d is not None for d in pair))


def places(shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns the row and the lane of each number."""
    return tuple(lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))


def head_of(index: jax.Array, width: int) -> jax.Array:
    """Returns the head of each row or lane, `width` of which belong to a head."""
    # Not `//`, which computes the sign; that can be lowered only if the chip is present.
    return lax.div(index, jnp.full_like(index, width))
