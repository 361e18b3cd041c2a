"""The Pallas kernels of the long convolution, from arrays in HBM to arrays in HBM: outputs, and all gradients.

For each block of channels the grid goes over kernels, and for each kernel over the sequences that it convolves. The
kernel's spectrum is computed first and stays in VMEM. A sequence is read and written in chunks of tokens, so blocks are
transferred while others are computed; between the two its frequencies are multiplied by the spectrum.

For gradients the inputs and the cotangents of the outputs are read together. The spectra of the kernel's cotangent are
added up in VMEM, and transformed back after the last sequence.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from longview.kernels import pallas
from longview.kernels.long_conv.pallas_tpu_level import GROUP, LANES, Side, cut, rows_for, stored
from longview.kernels.long_conv.pallas_tpu_tile import Tile, Work
from longview.kernels.long_conv.transforms import Monarch

_SEQUENCES = ('x', 'dy', 'y', 'dx')  # those that a kernel transforms
_VALUES = 2**20  # bytes of VMEM for what a kernel computes with, besides chunks of gated tokens


class Step(NamedTuple):
    """A step of the grid: a chunk of tokens of a phase.

    Phase 0 reads the taps; for each sequence one phase reads it and one writes its results; one more, with gradients,
    writes those of the taps.
    """

    phase: Any
    chunk: Any
    chunks: int
    members: int

    @classmethod
    def of(cls, tile: Tile, n: Any) -> 'Step':
        return cls(lax.div(n, tile.chunks), lax.rem(n, tile.chunks), tile.chunks, tile.members)

    @property
    def member(self) -> Any:
        return lax.div(jnp.clip(self.phase - 1, 0, 2 * self.members - 1), 2)

    @property
    def reads(self) -> Any:
        return (lax.rem(self.phase, 2) == 1) & ~self.ends

    @property
    def writes(self) -> Any:
        return (self.phase > 0) & (lax.rem(self.phase, 2) == 0)

    @property
    def ends(self) -> Any:
        return self.phase > 2 * self.members

    @property
    def last(self) -> Any:
        return self.chunk == self.chunks - 1

    def place(self, name: str) -> Any:
        """The chunk of an array in this step; where the array is not used, that of the step before or after.

        name: taps, dtaps, or when a sequence is in use (`Call.used`).
        """
        first, final = 0, self.chunks - 1
        if name == 'taps':
            return jnp.where(self.phase == 0, self.chunk, final)
        if name == 'dtaps':
            return jnp.where(self.ends, self.chunk, first)
        if name == 'read':
            return jnp.where(self.reads, self.chunk, jnp.where(self.phase == 0, first, final))
        if name == 'written':
            return jnp.where(self.writes, self.chunk, jnp.where(self.ends, final, first))
        return jnp.where(self.reads | self.writes, self.chunk, jnp.where(self.ends, final, first))


class Call(NamedTuple):
    """A kernel and the types of its arrays by name: sequences and taps (B, rows, tokens of a row, D), and skips.

    ins: x, taps and, if there are such, pre, post, skip; for gradients dy. outs: y; for gradients dx, dtaps, and the
      cotangents dpre, dpost, dskip of what there is.
    """

    tile: Tile
    ins: dict[str, jax.ShapeDtypeStruct]
    outs: dict[str, jax.ShapeDtypeStruct]

    @classmethod
    def of(cls, monarch: Monarch, ahead: int | None, ins: dict, outs: dict[str, DTypeLike], whole: bool) -> 'Call':
        """Returns the kernel for arrays, or their types, (B, t, D), which are real or stored complex numbers.

        outs: the dtypes of the outputs, of no account where numbers are complex; ahead: see `Tile`.
        """
        first, second = monarch.levels[-2:]
        rest, kind = stored(second.side, monarch.dtype) if whole else (second.side, None)
        kernels, _, channels = ins['taps'].shape
        rows = {name: rows_for(ins[name].shape[1], rest) for name in ('x', 'taps')}
        sides = (Side(first, count, monarch.dtype, whole) for count in rows.values())

        def blocked(name: str, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
            if name in ('skip', 'dskip'):
                return jax.ShapeDtypeStruct((1 if name == 'skip' else kernels, 1, channels), dtype)
            like = 'taps' if name in ('taps', 'dtaps') else 'x'
            return jax.ShapeDtypeStruct((len(ins[like]), rows[like], rest, channels), kind or dtype)

        tile = Tile(*sides, second, len(ins['x']) // kernels, ahead)
        given = {name: blocked(name, x.dtype) for name, x in ins.items()}
        return cls(tile, given, {name: blocked(name, dtype) for name, dtype in outs.items()})

    @property
    def gradients(self) -> bool:
        return 'dtaps' in self.outs

    @property
    def grid(self) -> tuple[int, int, int]:
        taps, tile = self.ins['taps'], self.tile
        return taps.shape[-1] // LANES, len(taps), tile.chunks * (1 + 2 * tile.members + self.gradients)

    def used(self, name: str) -> str:
        """Returns when a sequence is in use: while sequences are read, while results are written, or in both."""
        given = self.ins.keys()
        if name in self.outs or (name == 'post' and not self.gradients):
            return 'written'
        if not self.gradients:
            again = {'x', 'pre'} if 'skip' in given else ()
        else:
            again = {'pre'} | ({'x'} if 'pre' in given or 'skip' in given else set())
            again |= {'dy'} if given & {'skip', 'post'} else set()
            again |= {'post'} if 'skip' in given else set()
        return 'both' if name in again else 'read'

    def moved(self) -> int:
        """Returns the bytes that the kernel moves."""
        twice = [x for name, x in self.ins.items() if name not in ('taps', 'skip') and self.used(name) == 'both']
        constants = jax.eval_shape(self.tile.constants)
        return sum(map(_size, (*self.ins.values(), *self.outs.values(), *constants.values(), *twice)))

    def memory(self) -> int:
        """Returns the bytes of VMEM that the kernel needs: blocks are in it twice, while one is being transferred."""
        chunked = [x for name, x in (self.ins | self.outs).items() if x.ndim == 4]
        blocks = sum(_size(x) // (len(x) * x.shape[3] // LANES * self.tile.chunks) for x in chunked)
        constants = sum(map(_size, jax.eval_shape(self.tile.constants).values()))
        scratch = sum(map(_size, self.tile.memory(self.gradients).values()))
        wide = 4 * self.tile.sequence.rows * GROUP * LANES * len(self.ins.keys() & {'pre', 'post', 'skip'})
        return scratch + 2 * (blocks + constants) + wide + _VALUES

    def flops(self) -> int:
        """Returns the operations of all matrix products."""
        tile, second = self.tile, self.tile.second
        first, parts = tile.sequence.level.side, 1 + tile.sequence.whole
        rows = {name: x.shape[1] for name, x in (self.ins | self.outs).items() if name in _SEQUENCES}
        edges = tile.members * sum(rows.values()) + tile.taps.rows * (1 + self.gradients)
        middles = tile.members * len(rows) + 1 + self.gradients
        channels, kernels, _ = self.grid
        alone = 2 * first * second.side * (parts * edges + 2 * second.kept * middles)
        return 2 * alone * channels * LANES * kernels

    def run(self, arrays: dict[str, jax.Array], limit: int) -> dict[str, jax.Array]:
        """Runs the kernel on (B, t, D), in `limit` bytes of VMEM. Under vmap the calls run one after the other."""
        arrays = {name: cut(x, self.ins[name].shape[2]) if name != 'skip' else x for name, x in arrays.items()}
        constants = self.tile.constants()
        whole = {name: pl.BlockSpec(x.shape, partial(_origin, x.ndim)) for name, x in constants.items()}
        specs = {name: self._spec(name, x) for name, x in (self.ins | self.outs).items()}

        @jax.custom_batching.sequential_vmap
        def run(ins: dict) -> dict:
            return pallas.call(
                partial(_gradients_kernel if self.gradients else _outputs_kernel, self),
                out_shape=[{name: pallas.output(x.shape, x.dtype, ins['x']) for name, x in self.outs.items()}],
                grid=self.grid,
                in_specs=[{name: specs[name] for name in ins}, whole],
                out_specs=[{name: specs[name] for name in self.outs}],
                scratch_shapes=[self.tile.memory(self.gradients)],
                compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary'), limit),
                cost_estimate=pallas.CostEstimate(flops=self.flops(), transcendentals=0, bytes_accessed=self.moved()),
                name=f'long_conv_{"gradients" if self.gradients else "outputs"}',
            )(jax.tree.map(pallas.in_hbm, ins), constants)[0]

        found = run(arrays)
        return {name: x.reshape(len(x), -1, x.shape[-1]) for name, x in found.items()}

    def _spec(self, name: str, x: Any) -> pl.BlockSpec:
        """The block of an array for a step of the grid; where it is not used, that of the step before or after."""
        tile, kernels = self.tile, len(self.ins['taps'])
        if x.ndim == 3:
            return pl.BlockSpec((None, 1, LANES), lambda d, k, n: (lax.rem(k, len(x)), 0, d))
        block = (None, x.shape[1], x.shape[2] // tile.chunks, LANES)
        if name in ('taps', 'dtaps'):
            return pl.BlockSpec(block, lambda d, k, n: (k, 0, Step.of(tile, n).place(name), d))

        def place(d: Any, k: Any, n: Any) -> tuple:
            step = Step.of(tile, n)
            return step.member * kernels + k, 0, step.place(self.used(name)), d

        return pl.BlockSpec(block, place)


def _size(x: Any) -> int:
    return math.prod(x.shape) * jnp.dtype(x.dtype).itemsize


def _origin(ndim: int, *place: Any) -> tuple[int, ...]:
    return (0,) * ndim


def _outputs_kernel(call: Call, ins: dict, constants: dict, outs: dict, memory: dict) -> None:
    tile = call.tile
    work = Work(tile, constants, memory)
    step = Step.of(tile, pl.program_id(2))
    pl.when(step.phase == 0)(partial(_taps, work, ins, step))

    @pl.when(step.reads)
    def _() -> None:
        if tile.ahead is None:
            work.inward('sequence', 'x', _product(ins, 'x', 'pre'), step.chunk)
        else:
            work.finite_inward(_product(ins, 'x', 'pre'), step.chunk)
        pl.when(step.last)(work.multiply)

    @pl.when(step.writes)
    def _() -> None:
        y = work.outward('sequence', 'x', step.chunk)
        if 'skip' in ins:
            y += _skipped(ins, 'x', 'pre')
        if 'post' in ins:
            y *= _wide(ins['post'])
        _put(outs['y'], y)
        if tile.ahead is not None:
            work.lose(outs['y'], step.chunk)


def _gradients_kernel(call: Call, ins: dict, constants: dict, outs: dict, memory: dict) -> None:
    tile = call.tile
    work = Work(tile, constants, memory)
    step = Step.of(tile, pl.program_id(2))

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        memory['sum'][...] = jnp.zeros(memory['sum'].shape, jnp.float32)
        if 'dskip' in outs:
            outs['dskip'][...] = jnp.zeros(outs['dskip'].shape, jnp.float32)

    pl.when(step.phase == 0)(partial(_taps, work, ins, step))

    @pl.when(step.reads)
    def _() -> None:
        x, dc = _product(ins, 'x', 'pre'), _product(ins, 'dy', 'post')
        work.inward('sequence', 'x', x, step.chunk)
        work.inward('sequence', 'dy', dc, step.chunk)
        if 'dskip' in outs:
            both = x.astype(jnp.float32) * dc.astype(jnp.float32)
            outs['dskip'][...] += jnp.sum(both.reshape(-1, LANES), axis=0, keepdims=True)
        pl.when(step.last)(partial(work.multiply_both, 'dpost' in outs))

    @pl.when(step.writes)
    def _() -> None:
        dx = work.outward('sequence', 'dy', step.chunk)
        if 'skip' in ins:
            dx += _skipped(ins, 'dy', 'post')
        _put(outs['dx'], dx * _wide(ins['pre']) if 'pre' in ins else dx)
        if 'dpre' in outs:
            _put(outs['dpre'], dx * _wide(ins['x']))
        if 'dpost' in outs:
            y = work.outward('sequence', 'x', step.chunk)
            y = y + _skipped(ins, 'x', 'pre') if 'skip' in ins else y
            _put(outs['dpost'], y * _wide(ins['dy']))

    @pl.when(step.ends)
    def _() -> None:
        pl.when(step.chunk == 0)(work.end)
        _put(outs['dtaps'], work.outward('taps', 'x', step.chunk))


def _taps(work: Work, ins: dict, step: Step) -> None:
    work.inward('taps', 'x', ins['taps'][...], step.chunk)
    pl.when(step.last)(work.keep_spectrum)


def _put(out: Any, y: jax.Array) -> None:
    out[...] = y.reshape(out.shape).astype(out.dtype)


def _wide(block: Any) -> jax.Array:
    return block[...].astype(jnp.float32)


def _product(ins: dict, name: str, gate: str) -> jax.Array:
    """The tokens of a block times their gate, in float32; without a gate as they are."""
    return _wide(ins[name]) * _wide(ins[gate]) if gate in ins else ins[name][...]


def _skipped(ins: dict, name: str, gate: str) -> jax.Array:
    return _wide(ins['skip'])[None] * _product(ins, name, gate).astype(jnp.float32)
