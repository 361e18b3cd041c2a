"""The layout of gated linear attention in the memory of a TPU: lanes, groups of heads, blocks, bytes.

A TPU stores arrays in tiles of 128 lanes, so (B, T, H, K) with K = 64 takes twice its size. The kernels take (B, T, H
K) instead, in groups of heads whose lanes are a multiple of 128, or all heads in one group if there is no such group.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from longview.kernels import pallas, scan_tpu, scans, vmem
from longview.kernels.gla.pallas_tpu_tile import LANES, Tile

_CHUNK = 64  # tokens with which two heads fill a matrix unit; a single head takes twice as many
_WHOLE = 512  # most lanes with which all heads are one group, though most of the products are masked
_SHARE = 0.75  # of the vector memory for what the kernel knows of; the compiler needs the rest


class Plan(NamedTuple):
    """Static arguments. `given` are the sizes of the caller; `heads` and `tile` are those of the layout."""

    tile: Tile
    batch: int
    tokens: int
    heads: int
    given: tuple[int, int, int]  # H, K, V of the caller
    block: int  # tokens in VMEM at a time; 0 if not even a chunk fits
    coblock: int  # the same for the backward kernels, which need more memory per token
    scale: float
    memory: int  # bytes of VMEM that a kernel may take

    @property
    def groups(self) -> int:
        return self.heads // self.tile.heads

    @property
    def blocks(self) -> int:
        return -(-self.tokens // self.block)

    @property
    def chunks(self) -> int:
        """The number of chunks in a block."""
        return self.block // self.tile.tokens

    @property
    def states(self) -> tuple[int, ...]:
        return (self.batch, self.groups, *self.tile.state)

    def grid(self, walk: int) -> scan_tpu.Grid:
        return scan_tpu.Grid(self.batch, self.groups, self.tokens, self.block, self.tile.tokens, bool(walk))

    def spec(self, grid: scan_tpu.Grid, x: Any) -> pl.BlockSpec:
        """The blocks of an array: tokens, states, or what there is of each block: states at edges, gates of chunks."""
        if x.ndim == 3:
            return grid.spec((1, self.block, x.shape[-1] // self.groups), 'btg')
        if x.ndim == 4:
            return grid.spec((1, 1, *self.tile.state), 'bg..')
        return grid.spec((1, 1, x.shape[2] // self.blocks, *x.shape[3:]), 'bgt..')

    def work(self, ins: dict) -> scan_tpu.Work:
        """What a kernel computes: products per token, all heads of a group together, as they are multiplied."""
        tile, gates = self.tile, sum(x is not None for x in ins['gates'])
        keys, values, scores = tile.heads * tile.keys, tile.heads * tile.values, tile.heads * tile.tokens
        state = gates * math.prod(tile.state)
        levels = 1 if tile.shared else tile.tokens.bit_length()
        between = 2 * gates * scores * tile.tokens if tile.shared else 0  # sums of log decays
        if 'dlast' in ins:
            products = scores * (3 * levels * keys + (2 if tile.shared else 3) * values) + 2 * between + 5 * state
        elif 'do' in ins or 'q' not in ins:
            products = state  # edges alone
        else:
            products = scores * (levels * keys + values) + between + 2 * state
        rows = self.groups * self.blocks * self.block
        return scan_tpu.Work(2 * rows * products, rows * gates * (scores if tile.shared else keys))


def plan_for(
    q: jax.Array,
    v: jax.Array,
    gates: Sequence[jax.Array],
    scale: float,
    sizes: tuple[int, int] | None = None,
) -> Plan:
    """Returns the layout of a call; see `pallas_tpu.gla` for `sizes`."""
    batch, tokens, *given = *q.shape, v.shape[-1]
    heads, group, keys, values = _group(*given)
    narrow = q.dtype == v.dtype == jnp.bfloat16
    shared = all(g.ndim == 3 for g in gates)
    if sizes:
        tile = Tile(sizes[0], group, keys, values, narrow, shared)
        return Plan(tile, batch, tokens, heads, tuple(given), sizes[1], sizes[1], scale, vmem.limit())
    chunk = _CHUNK if group > 1 else 2 * _CHUNK
    tile = Tile(max(16, min(chunk, scans.power_of_two(tokens))), group, keys, values, narrow, shared)
    gate = 0 if shared else sum(g.dtype.itemsize for g in gates)
    keys = (2 * q.dtype.itemsize + gate) * pallas.round_up(tile.heads * keys, LANES)
    values = v.dtype.itemsize * pallas.round_up(tile.state[0], LANES)
    forward = _block(tile, tokens, keys + 2 * values, len(gates) - 1)
    backward = _block(tile, tokens, 2 * keys + 3 * values, 2 * len(gates) - 1)
    return Plan(tile, batch, tokens, heads, tuple(given), forward, backward, scale, vmem.limit())


def _block(tile: Tile, tokens: int, row: int, lists: int) -> int:
    """Returns the tokens of a block: the sequence is split into the fewest equal parts that fit into VMEM.

    row: bytes of all arrays per token; lists: number of states that are stored for each chunk.
    """
    lanes = pallas.round_up(tile.state[1], LANES)
    state = 4 * pallas.round_up(tile.state[0], 8) * lanes
    levels = 2 * (lists // 2 + 1) * tile.tokens.bit_length() * lanes
    values = 4 * (tile.heads * tile.tokens + lanes + pallas.round_up(tile.state[0], LANES))
    fixed = 10 * state + 4 * tile.tokens * (levels + values)
    fit = (int(_SHARE * vmem.limit()) - fixed) // (2 * row * tile.tokens + lists * state)  # blocks are buffered twice
    if fit < 1:
        return 0
    chunks = -(-tokens // tile.tokens)
    return -(-chunks // -(-chunks // fit)) * tile.tokens


def _group(heads: int, keys: int, values: int) -> tuple[int, int, int, int]:
    """Returns the number of heads, the heads of a group, and the channels K and V; they may be padded."""
    found = _dense(heads, keys, values)
    if found is None and heads * max(keys, values) <= _WHOLE:
        found = heads
    if found is None:
        keys, values = _padded(keys), _padded(values)
        least = max(1, LANES // keys, LANES // values)
        heads = -(-heads // least) * least
        found = _dense(heads, keys, values)
    return heads, found, keys, values


def _dense(heads: int, keys: int, values: int) -> int | None:
    """Returns the smallest group of heads whose keys and values fill whole rows of lanes."""
    for group in range(1, heads + 1):
        if heads % group == 0 and group * keys % LANES == 0 == group * values % LANES:
            return group if group * max(keys, values) <= 2 * _WHOLE or group == 1 else None
    return None


def _padded(channels: int) -> int:
    """Returns the channels, padded to a divisor or a multiple of the lanes."""
    if channels >= LANES:
        return -(-channels // LANES) * LANES
    return scans.power_of_two(channels)


def to_lanes(plan: Plan, x: jax.Array) -> jax.Array:
    """Returns (B, T, H W) for x (B, T, H, W), padded with zeros to the layout."""
    x = _pad(plan, x, {2: plan.heads, 3: _width(plan, x.shape[3])})
    return x.reshape(*x.shape[:2], -1)


def with_channels(plan: Plan, g: jax.Array, q: jax.Array) -> jax.Array:
    """Returns a gate per channel in lanes, or a gate per head as it is if the kernel takes that."""
    if plan.tile.shared:
        return g
    return to_lanes(plan, g if g.ndim == q.ndim else jnp.broadcast_to(g[..., None], q.shape))


def to_gate(plan: Plan, g: jax.Array) -> jax.Array:
    """Returns (B, groups, chunks, G, C) in float32 for a gate per head (B, T, H), padded to whole blocks."""
    tile, size = plan.tile, plan.blocks * plan.block
    g = _pad(plan, g.astype(jnp.float32), {1: size, 2: plan.heads})
    return g.reshape(g.shape[0], -1, tile.tokens, plan.groups, tile.heads).transpose(0, 3, 1, 4, 2)


def from_gate(plan: Plan, x: jax.Array, g: jax.Array) -> jax.Array:
    """Undoes `to_gate` for a gate of the shape and dtype of `g`."""
    x = x.transpose(0, 2, 4, 1, 3).reshape(x.shape[0], -1, plan.heads)
    return x[:, : g.shape[1], : g.shape[2]].astype(g.dtype)


def to_states(plan: Plan, x: jax.Array) -> jax.Array:
    """Returns the states (B, H, K, V) as the kernels store them (`pallas_tpu_tile.py`), in float32."""
    tile = plan.tile
    x = _pad(plan, x.astype(jnp.float32), {1: plan.heads, 2: tile.keys, 3: tile.values})
    x = x.reshape(plan.batch, plan.groups, tile.heads, tile.keys, tile.values).transpose(0, 1, 2, 4, 3)
    if not tile.apart:
        x = x[..., None, :] * _diagonal(tile)
    return x.reshape(plan.states)


def to_heads(plan: Plan, x: jax.Array, v: jax.Array) -> jax.Array:
    """Undoes `to_lanes` for outputs (B, T, H, V), or `to_states` for states (B, H, K, V)."""
    heads, keys, values = plan.given
    tile = plan.tile
    if x.ndim == 3:
        x = x.reshape(*x.shape[:2], plan.heads, tile.values)
        return x[:, :, :heads, :values].astype(v.dtype)
    if not tile.apart:
        x = x.reshape(plan.batch, plan.groups, tile.heads, tile.values, tile.heads, tile.keys)
        x = jnp.sum(x * _diagonal(tile), axis=4)
    x = x.reshape(plan.batch, plan.heads, tile.values, tile.keys).transpose(0, 1, 3, 2)
    return x[:, :heads, :keys, :values]


def _diagonal(tile: Tile) -> jax.Array:
    """Returns the identity over pairs of heads, (1, 1, G, 1, G, 1)."""
    return jnp.eye(tile.heads, dtype=jnp.float32)[None, None, :, None, :, None]


def _width(plan: Plan, width: int) -> int:
    return plan.tile.keys if width == plan.given[1] else plan.tile.values


def _pad(plan: Plan, x: jax.Array, sizes: dict[int, int]) -> jax.Array:
    pads = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, pads) if any(after for _, after in pads) else x
