"""The layout of gated linear attention in the memory of a TPU: lanes, groups of heads, blocks, bytes.

A TPU stores arrays in tiles of 128 lanes, so (B, T, H, K) with K = 64 takes twice its size. The kernels take (B, T, H
K) instead, in groups of heads whose lanes are a multiple of 128, or all heads in one group if they are few. Otherwise a
block has the lanes of many heads, and the kernel takes one head after the other out of it.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import pallas, scan_tpu, scans, vmem
from longview.kernels.gla.pallas_tpu_tile import LANES, Tile, places

_CHUNK = 64  # tokens with which two heads fill a matrix unit; a single head takes twice as many
_WHOLE = 512  # most lanes with which all heads are one group, though most of the products are masked
_FEW = 4  # heads that are multiplied together with up to twice as many: more are faster one after the other
_SHARE = 0.75  # of the vector memory for what the kernel knows of; the compiler needs the rest


class Plan(NamedTuple):
    """Static arguments.

    A tile is a group of heads that share lanes. `parts` tiles lie side by side in a block; those of several parts are
    single heads, whose channels begin anywhere in the lanes and are brought to whole rows of lanes in VMEM.
    """

    tile: Tile
    parts: int
    batch: int
    tokens: int
    heads: int
    keys: int  # channels of a head in HBM; those of the tile may be more
    values: int
    block: int  # tokens in VMEM at a time; 0 if not even a chunk fits
    coblock: int  # the same for the backward kernels, which need more memory per token
    scale: float
    memory: int  # bytes of VMEM that a kernel may take

    @property
    def tiles(self) -> int:
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
        return (self.batch, self.tiles, *self.tile.state)

    def grid(self, walk: int) -> scan_tpu.Grid:
        groups = -(-self.tiles // self.parts)
        return scan_tpu.Grid(self.batch, groups, self.tokens, self.block, self.tile.tokens, bool(walk))

    def specs(self, grid: scan_tpu.Grid, arrays: dict) -> dict:
        """The blocks of arrays by name: tokens, states, or what there is of each block."""

        def spec(name: str, x: Any) -> pl.BlockSpec:
            if x.ndim == 3:
                lanes = x.shape[-1] // self.tiles * self.parts
                return grid.spec((1, self.block, pallas.round_up(lanes, LANES) if self.parts > 1 else lanes), 'btg')
            if x.ndim == 4:
                return grid.spec((1, self.parts, *self.tile.state), 'bg..')
            here = self.chunks if name == 'gates' else 1  # gates of chunks, or states at edges
            return grid.spec((1, self.parts, here, *x.shape[3:]), 'bgt..')

        return {name: jax.tree.map(partial(spec, name), x) for name, x in arrays.items()}

    def work(self, ins: dict) -> scan_tpu.Work:
        """What a kernel computes: products per token, all heads of a tile together, as they are multiplied."""
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
        rows = self.tiles * self.blocks * self.block
        return scan_tpu.Work(2 * rows * products, rows * gates * (scores if tile.shared else keys))


def plan_for(
    q: jax.Array,
    v: jax.Array,
    gates: Sequence[jax.Array],
    scale: float,
    sizes: tuple[int, int] | None = None,
) -> Plan:
    """Returns the layout of a call; see `pallas_tpu.gla` for `sizes`."""
    batch, tokens, heads, keys, values = *q.shape, v.shape[-1]
    narrow = q.dtype == v.dtype == jnp.bfloat16
    shared = all(g.ndim == 3 for g in gates)
    group, parts = _group(heads, keys, values)
    whole = lambda width: pallas.round_up(width, LANES) if parts > 1 else width
    chunk = _CHUNK if group > 1 else 2 * _CHUNK
    chunk = sizes[0] if sizes else max(16, min(chunk, scans.power_of_two(tokens)))
    tile = Tile(chunk, group, whole(keys), whole(values), narrow, shared)
    if sizes:
        block = coblock = sizes[1]
    else:
        gate = 0 if shared else sum(g.dtype.itemsize for g in gates)
        row = (2 * q.dtype.itemsize + gate) * pallas.round_up(parts * group * keys, LANES)
        wide = v.dtype.itemsize * pallas.round_up(parts * group * values, LANES)
        block = _block(tile, parts, tokens, row + 2 * wide, len(gates) - 1)
        coblock = _block(tile, parts, tokens, 2 * row + 3 * wide, 2 * len(gates) - 1)
    return Plan(tile, parts, batch, tokens, heads, keys, values, block, coblock, scale, vmem.limit())


def _block(tile: Tile, parts: int, tokens: int, row: int, lists: int) -> int:
    """Returns the tokens of a block: the sequence is split into the fewest equal parts that fit into VMEM.

    row: bytes of all arrays per token; lists: number of states that are stored for each chunk.
    """
    lanes = pallas.round_up(tile.state[1], LANES)
    state = 4 * pallas.round_up(tile.state[0], 8) * lanes
    levels = 2 * (lists // 2 + 1) * tile.tokens.bit_length() * lanes
    values = 4 * (tile.heads * tile.tokens + lanes + pallas.round_up(tile.state[0], LANES))
    fixed = 10 * parts * state + 4 * tile.tokens * (levels + values)
    fit = (int(_SHARE * vmem.limit()) - fixed) // (2 * row * tile.tokens + lists * state)  # blocks are buffered twice
    if fit < 1:
        return 0
    chunks = -(-tokens // tile.tokens)
    return -(-chunks // -(-chunks // fit)) * tile.tokens


def _group(heads: int, keys: int, values: int) -> tuple[int, int]:
    """Returns the heads of a tile, and the tiles that lie side by side in a block."""
    found = _dense(heads, keys, values)
    if found is None and heads * max(keys, values) <= _WHOLE:
        found = heads
    if found is not None:
        return found, 1
    full = math.lcm(*(LANES // math.gcd(LANES, width) for width in (keys, values)))  # heads that fill whole rows
    return 1, min(heads, full)


def _dense(heads: int, keys: int, values: int) -> int | None:
    """Returns the smallest group of heads whose keys and values fill whole rows of lanes."""
    for group in range(1, heads + 1):
        if heads % group == 0 and group * keys % LANES == 0 == group * values % LANES:
            most = 2 * _WHOLE if group <= _FEW else _WHOLE
            return group if group * max(keys, values) <= most or group == 1 else None
    return None


class Window(NamedTuple):
    """The lanes of a block that hold those of a tile: `size` whole rows from `start` on, of which `shift` come before.

    width: lanes of the tile in HBM.
    """

    start: Any
    size: int
    shift: Any
    width: int

    def taken(self, x: jax.Array, lanes: int) -> jax.Array:
        """Returns the lanes of the tile, with zeros up to `lanes`, given those of the window."""
        if self.size == self.width:
            return x
        moved = pallas.roll(_words(x), lax.rem(self.size - self.shift, self.size), 1)[:, :lanes]
        return _numbers(jnp.where(places(moved.shape)[1] < self.width, moved, 0), x.dtype)

    def kept(self, x: jax.Array) -> jax.Array:
        """Returns the lanes of the window with zeros for those of other tiles."""
        return x if self.size == self.width else jnp.where(self._inside(x.shape), x, 0.0)

    def put(self, x: jax.Array, among: jax.Array) -> jax.Array:
        """Returns the lanes of the window, `among`, with those of the tile set to `x`."""
        if self.size == self.width:
            return x
        if self.size > x.shape[1]:
            x = jnp.concatenate([x, jnp.zeros((x.shape[0], self.size - x.shape[1]), x.dtype)], axis=1)
        moved, among_words = pallas.roll(_words(x.astype(among.dtype)), self.shift, 1), _words(among)
        return _numbers(jnp.where(self._inside(moved.shape), moved, among_words), among.dtype)

    def _inside(self, shape: tuple[int, int]) -> jax.Array:
        lane = places(shape)[1] - self.shift
        return (lane >= 0) & (lane < self.width)


def _words(x: jax.Array) -> jax.Array:
    """Returns numbers of 32 bits, the only ones that lanes can be rolled of: two rows of bfloat16 in one."""
    return pallas.words(x) if x.dtype == jnp.bfloat16 else x


def _numbers(x: jax.Array, dtype: Any) -> jax.Array:
    """Undoes `_words`."""
    return pallas.halves(x) if dtype == jnp.bfloat16 else x


def window(lanes: int, width: int, parts: int, part: Any) -> Window:
    """Returns where in a block of `lanes` the tile `part` is, a traced number, of `parts` tiles of `width` lanes."""
    if width % LANES == 0:
        return Window(pl.multiple_of(part * width, LANES), width, 0, width)
    most = max(n * width % LANES for n in range(parts)) + width
    size = min(lanes, pallas.round_up(most, LANES))
    start = jnp.minimum(part * width & -LANES, lanes - size)
    return Window(pl.multiple_of(start, LANES), size, part * width - start, width)


def to_lanes(x: jax.Array) -> jax.Array:
    """Returns (B, T, H W) for x (B, T, H, W)."""
    return x.reshape(*x.shape[:2], -1)


def to_gate(plan: Plan, g: jax.Array) -> jax.Array:
    """Returns a gate as the kernels take it: (B, T, H K), or (B, tiles, chunks, G, C) if heads share decays.

    The latter is in float32, with zeros after the end of the last chunk.
    """
    if not plan.tile.shared:
        wide = (plan.batch, plan.tokens, plan.heads, plan.keys)
        return to_lanes(g if g.ndim == 4 else jnp.broadcast_to(g[..., None], wide))
    tile = plan.tile
    g = jnp.pad(g.astype(jnp.float32), ((0, 0), (0, -plan.tokens % tile.tokens), (0, 0)))
    return g.reshape(plan.batch, -1, tile.tokens, plan.tiles, tile.heads).transpose(0, 3, 1, 4, 2)


def to_states(plan: Plan, x: jax.Array) -> jax.Array:
    """Returns the states (B, H, K, V) as the kernels store them (`pallas_tpu_tile.py`), in float32."""
    tile = plan.tile
    pads = ((0, 0), (0, 0), (0, tile.keys - plan.keys), (0, tile.values - plan.values))
    x = jnp.pad(x.astype(jnp.float32), pads)
    x = x.reshape(plan.batch, plan.tiles, tile.heads, tile.keys, tile.values).transpose(0, 1, 2, 4, 3)
    if not tile.apart:
        x = x[..., None, :] * _diagonal(tile)
    return x.reshape(plan.states)


def from_states(plan: Plan, x: jax.Array) -> jax.Array:
    """Undoes `to_states`."""
    tile = plan.tile
    if not tile.apart:
        x = x.reshape(plan.batch, plan.tiles, tile.heads, tile.values, tile.heads, tile.keys)
        x = jnp.sum(x * _diagonal(tile), axis=4)
    x = x.reshape(plan.batch, plan.heads, tile.values, tile.keys).transpose(0, 1, 3, 2)
    return x[:, :, : plan.keys, : plan.values]


def _diagonal(tile: Tile) -> jax.Array:
    """Returns the identity over pairs of heads, (1, 1, G, 1, G, 1)."""
    return jnp.eye(tile.heads, dtype=jnp.float32)[None, None, :, None, :, None]
