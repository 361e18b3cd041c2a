"""What the scans share as Pallas kernels for TPUs: the grid, the memory that it carries, the end of a sequence, vmap.

A step of the grid is a block of tokens of one group of lanes (channels or heads) of one sequence. The blocks of a
sequence run in order, in either direction, so scratch memory carries a state from one block to the next. A block is
read in tiles: tokens that are loaded together and processed in an unrolled loop.

An op writes the maths of a tile and little else: its kernel is given a `Step`, begins and ends what it carries, and
walks over the tiles of the block. `call` runs the kernel on arrays by name. The last block of tokens or of lanes may be
partial: behind the end of an array its memory holds anything, and what is written there is lost.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import pallas, scans

LANES = 128
TILE = 16  # tokens of a tile: rows of a bfloat16 register

_SUBLANES = 8


class Grid(NamedTuple):
    """How a kernel goes over its arrays.

    batch: sequences, the first axis of every array.
    groups: groups of lanes.
    tokens: of a sequence.
    block: tokens in VMEM at a time.
    tile: tokens that are read together; a block is a multiple of them.
    backwards: whether the last block of tokens comes first.
    """

    batch: int
    groups: int
    tokens: int
    block: int
    tile: int
    backwards: bool

    @property
    def blocks(self) -> int:
        return -(-self.tokens // self.block)

    @property
    def tiles(self) -> int:
        """The number of tiles in a block."""
        return self.block // self.tile

    def at(self, count: Any) -> Any:
        """The block of tokens that comes after `count` other ones."""
        return self.blocks - 1 - count if self.backwards else count

    def spec(self, shape: tuple[int, ...], axes: str) -> pl.BlockSpec:
        """The blocks of an array.

        Args:
          shape: of a block.
          axes: what goes over each axis of the array: 'b' sequences, 'g' groups of lanes, 't' blocks of tokens, '.'
            nothing.
        """

        def place(b: Any, g: Any, t: Any) -> tuple:
            where = {'b': b, 'g': g, 't': self.at(t), '.': 0}
            return tuple(where[axis] for axis in axes)

        return pl.BlockSpec(shape, place)


class Step:
    """One step of the grid: begins and ends what is carried, walks over the tiles of a block, reads and writes them."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.group, self.count = pl.program_id(1), pl.program_id(2)
        self.block = grid.at(self.count)

    def begin(self, held: Any, start: Any) -> None:
        """Before the first block: sets scratch memory, a tree, to the blocks `start`, or to zero if that is None."""

        @pl.when(self.count == 0)
        def _() -> None:
            refs = jax.tree.leaves(held)
            for ref, first in zip(refs, jax.tree.leaves(start) or [None] * len(refs)):
                ref[...] = jnp.zeros(ref.shape, ref.dtype) if first is None else first[_inner(first, ref)]

    def end(self, held: Any, outs: Any) -> None:
        """After the last block: writes scratch memory, a tree, to the blocks of outputs; None asks for nothing."""

        @pl.when(self.count == self.grid.blocks - 1)
        def _() -> None:
            for ref, out in zip(jax.tree.leaves(held), jax.tree.leaves(outs)):
                out[_inner(out, ref)] = ref[...]

    def walk(self, backwards: bool, tile: Callable, carry: Any = None, tiles: int | None = None) -> Any:
        """Runs `tile(n, carry) -> carry` for the tiles of the block in order, or for the first `tiles` of them."""
        last = self.grid.tiles - 1
        place = (lambda n: last - n) if backwards else (lambda n: n)
        if last == 0 and tiles is None:
            return tile(0, carry)
        return lax.fori_loop(0, last + 1 if tiles is None else tiles, lambda n, carry: tile(place(n), carry), carry)

    def walk_in_pairs(self, backwards: bool, tiles: tuple[Callable, Callable], carry: Any) -> Any:
        """Like `walk`, where the two functions take turns, in one iteration if the number of tiles is even.

        If they have scratch memory of their own, one of them may load while the other one computes.
        """
        count = self.grid.tiles
        if count % 2:
            return self.walk(backwards, tiles[0], carry)
        place = (lambda n: count - 1 - n) if backwards else (lambda n: n)
        pair = lambda n, carry: tiles[1](place(2 * n + 1), tiles[0](place(2 * n), carry))
        return lax.fori_loop(0, count // 2, pair, carry)

    def order(self, backwards: bool) -> range:
        """The tokens of a tile in order."""
        return range(self.grid.tile)[:: -1 if backwards else 1]

    def rows(self, n: Any) -> Any:
        """Where the tokens of a tile are in the block."""
        size = self.grid.tile
        return pl.ds(n * size if isinstance(n, int) else pl.multiple_of(n * size, size), size)

    def read(self, ref: Any, n: Any, behind: float = 0.0) -> jax.Array:
        """The tokens of a tile (tokens, lanes) in float32, with the value `behind` after the end of the sequence."""
        return self.within(ref[0, self.rows(n), :].astype(jnp.float32), n, behind)

    def within(self, x: jax.Array, n: Any, behind: float = 0.0, axis: int = 0) -> jax.Array:
        """A tile with its tokens along an axis, with the value `behind` after the end of the sequence."""
        if self.grid.tokens % self.grid.block == 0:
            return x
        token = lax.broadcasted_iota(jnp.int32, x.shape, axis) + self.block * self.grid.block + n * self.grid.tile
        return jnp.where(token < self.grid.tokens, x, behind)

    def write(self, ref: Any, n: Any, x: jax.Array) -> None:
        """Writes the tokens of a tile."""
        ref[0, self.rows(n), :] = x.astype(ref.dtype)


def _inner(block: Any, like: Any) -> tuple:
    """The index at which a block, with axes of size 1 before it, has the shape of `like`."""
    return (0,) * (len(block.shape) - len(like.shape)) + (...,)


class Work(NamedTuple):
    """What a kernel does for one sequence: for the compiler, which plans the program around it by this.

    flops, transcendentals: what it computes.
    again: bytes that it reads more than once.
    """

    flops: int
    transcendentals: int = 0
    again: int = 0


def call(
    kernel: Callable[[Step, Any, Any, Any], None],
    grid: Grid,
    specs: Callable[[dict], dict],
    ins: dict,
    outs: dict,
    scratch: dict,
    work: Work,
    name: str,
    memory: int | None = None,
) -> dict:
    """Runs a kernel on trees of arrays; under vmap the mapped axis joins the batch.

    Args:
      kernel: (step, ins, outs, scratch); the last three are trees of the blocks and of scratch memory.
      grid: how it goes over them.
      specs: of arrays, or of the types of outputs, the blocks (`Grid.spec`).
      ins: the arrays.
      outs: the types of the outputs (`pallas.output`).
      scratch: shapes of what is carried, or only used; in float32.
      work: its cost.
      name: of the kernel in profiles.
      memory: bytes of VMEM that it may take (`vmem.limit`); by default the compiler's limit, which fits every chip.

    Returns:
      The outputs.
    """
    is_shape = lambda x: isinstance(x, tuple) and isinstance(x[0], int)
    carried = jax.tree.map(lambda shape: pallas.vmem(shape, jnp.float32), scratch, is_leaf=is_shape)

    def run(batch: int, ins: dict) -> dict:
        batched = jax.tree.map(lambda x: x.update(shape=(batch, *x.shape[1:])), outs)
        return pallas.call(
            lambda *refs: kernel(Step(grid), *refs),
            out_shape=batched,
            grid=(batch, grid.groups, grid.blocks),
            in_specs=[specs(ins)],
            out_specs=specs(batched),
            scratch_shapes=[carried],
            compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary'), memory),
            cost_estimate=pallas.CostEstimate(
                flops=batch * work.flops,
                transcendentals=batch * work.transcendentals,
                bytes_accessed=batch * work.again + sum(map(_bytes, jax.tree.leaves((ins, batched)))),
            ),
            name=name,
        )(jax.tree.map(pallas.in_hbm, ins))

    return pallas.joining_batch(run, grid.batch)(ins)


def _bytes(x: Any) -> int:
    """The bytes of an array as stored, in whole tiles."""
    size = x.dtype.itemsize
    *outer, rows, lanes = x.shape
    tile = min(_SUBLANES * 4 // size, scans.power_of_two(rows))
    return math.prod(outer) * pallas.round_up(rows, tile) * pallas.round_up(lanes, LANES) * size
