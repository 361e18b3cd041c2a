"""The Pallas kernels of the long convolution: the last two levels of a transform, in VMEM.

For each block of channels and each sequence the grid goes over chunks of tokens (a product with the first matrix,
twiddle factors), then chunks of frequencies (a product with the second matrix, with the kernel's spectrum, and back),
then chunks of tokens again, so blocks are transferred while others are computed. A second kernel stops half way and
writes a spectrum: that of the taps and, for their gradient, that of the sequence. See pallas_tpu.py.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from longview.kernels import pallas
from longview.kernels.long_conv.transforms import Level, Monarch

LANES = 128
_CHUNK = 512  # frequencies of a block of the kernel's spectrum


class Tile(NamedTuple):
    """The two levels that a kernel computes.

    parts: 1 for real sequences, 2 for complex ones; rows: rows of tokens, in and out; width: tokens of a row in a
        block; ahead: how many later tokens a token sees, further than which no NaN reaches, or None.
    """

    first: Level
    second: Level
    parts: int
    rows: tuple[int, int]
    width: int
    dtype: DTypeLike
    conjugated: bool
    ahead: int | None

    @property
    def height(self) -> int:
        """The rows of frequencies in a block."""
        return min(self.first.side, max(1, _CHUNK // self.second.kept))

    @property
    def steps(self) -> tuple[int, int]:
        """The number of chunks of tokens, and of frequencies."""
        return self.second.side // self.width, self.first.side // self.height

    def constants(self, outward: bool) -> dict[str, jax.Array]:
        """Returns the matrices by name, and the twiddle factors (chunks, 2, rows, width)."""
        first, second, parts = self.first, self.second, self.parts
        into, out = (first.complex_matrix(n)[:parts].reshape(parts * n, -1) for n in self.rows)
        across = second.complex_matrix(second.side).reshape(2 * second.side, -1)
        found = {'into': into.T, 'across': across.T}
        if outward:
            found |= {'out': out / first.side, 'back': across / second.side}
        found = {name: jnp.asarray(x, self.dtype) for name, x in found.items()}
        twiddles = first.twiddles().reshape(2, first.side, -1, self.width)
        return found | {'twiddles': jnp.moveaxis(twiddles, 2, 0)}


def run(
    monarch: Monarch, ins: dict, count: int, dtype: DTypeLike | None, conjugated: bool, ahead: int | None = None
) -> jax.Array:
    """Runs a kernel on (parts, B, t, D); see `Tile` for `ahead`.

    Returns the convolution with `count` tokens or, if `dtype` is None, the spectrum. Under vmap the calls run one after
    the other.
    """
    ins = {name: x for name, x in ins.items() if x is not None}

    @jax.custom_batching.sequential_vmap
    def alone(ins: dict) -> jax.Array:
        return _call(monarch, ins, count, dtype, conjugated, ahead)

    return alone(ins)


def _call(
    monarch: Monarch, ins: dict, count: int, dtype: DTypeLike | None, conjugated: bool, ahead: int | None
) -> jax.Array:
    first, second = monarch.levels[-2:]
    parts, batch, tokens, channels = ins['x'].shape
    rows = tuple(-(-n // second.side) for n in (tokens, count))
    kinds = [x.dtype for name, x in ins.items() if name in ('x', 'pre', 'post')]
    width = 16 if jnp.bfloat16 in (*kinds, dtype) else 8
    tile = Tile(first, second, parts, rows, width, monarch.dtype, conjugated, ahead)

    def cut(name: str) -> jax.Array:
        x = ins[name] if ins[name].ndim == 4 else ins[name][None]
        lines = rows[1] if name == 'post' else rows[0]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, lines * second.side - x.shape[2]), (0, 0)))
        return x.reshape(*x.shape[:2], lines, second.side, channels)

    ins = {name: cut(name) if name in ('x', 'pre', 'post') else x for name, x in ins.items()}
    if dtype is None:
        shape = (2, batch, first.side, second.kept, channels)
    else:
        shape = (parts, batch, rows[1], second.side, channels)
    out = pallas.output(shape, dtype or jnp.float32, ins['x'])
    outward = dtype is not None
    specs = {name: _spec(tile, name, x.shape, 'skip' in ins) for name, x in ins.items()}
    constants = tile.constants(outward)
    whole = {name: pl.BlockSpec(x.shape, partial(_origin, x.ndim)) for name, x in constants.items()}
    chunks, blocks = tile.steps
    found = pallas.call(
        partial(_kernel, tile, outward),
        out_shape=out,
        grid=(channels // LANES, batch, chunks * (1 + outward) + blocks),
        in_specs=[specs | whole],
        out_specs=_spec(tile, 'y' if outward else 'spectrum', shape),
        scratch_shapes=[pallas.vmem(x, jnp.float32) for x in ((first.side, 2 * second.side, LANES), (1, LANES))],
        compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary')),
        cost_estimate=_cost(tile, outward, ins, constants, out),
        name=f'long_conv_{"product" if outward else "spectrum"}',
    )(jax.tree.map(pallas.in_hbm, ins) | constants)
    return found.reshape(parts, batch, -1, channels)[:, :, :count] if outward else found


def _origin(ndim: int, *place: Any) -> tuple[int, ...]:
    return (0,) * ndim


def _spec(tile: Tile, name: str, shape: tuple[int, ...], twice: bool = False) -> pl.BlockSpec:
    """The block of an array for a grid step; for steps that do not use the array, that of the step before or after.

    twice: whether the input tokens are read a second time, when the outputs are written.
    """
    chunks, blocks = tile.steps
    if name == 'skip':
        return pl.BlockSpec((1, 1, LANES), lambda d, b, n: (0, 0, d))
    if name in ('kernel', 'spectrum'):
        block = (2, 1, tile.height, tile.second.kept, LANES)
        count = shape[1]
        return pl.BlockSpec(block, lambda d, b, n: (0, b % count, jnp.clip(n - chunks, 0, blocks - 1), 0, d))
    inward = lambda n: jnp.minimum(n, chunks - 1)
    outward = lambda n: jnp.maximum(n - chunks - blocks, 0)
    both = lambda n: jnp.where(n < chunks, n, outward(n))
    into = both if twice else inward
    place = {'x': into, 'pre': into, 'post': outward, 'y': outward}[name]
    block = (shape[0], 1, shape[2], tile.width, LANES)
    return pl.BlockSpec(block, lambda d, b, n: (0, b, 0, place(n), d))


def _kernel(tile: Tile, outward: bool, ins: dict, out: Any, memory: Any, lost: Any) -> None:
    """One step of the grid.

    memory: the rows of frequencies, with real parts before imaginary parts; lost: the first token that is not finite.
    """
    chunks, blocks = tile.steps
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _() -> None:
        lost[...] = jnp.full(lost.shape, jnp.inf)

    pl.when(step < chunks)(partial(_inward, tile, ins, memory, lost, step))
    place = step - chunks
    middle = pl.when((step >= chunks) & (place < blocks))
    if outward:
        middle(partial(_across, tile, ins, memory, place))
        pl.when(place >= blocks)(partial(_outward, tile, ins, out, memory, lost, place - blocks))
    else:
        middle(partial(_write, tile, ins, out, memory, place))


def _tokens(ins: dict) -> jax.Array:
    x = ins['x'][:, 0].astype(jnp.float32)
    return x * ins['pre'][:, 0].astype(jnp.float32) if 'pre' in ins else x


def _halves(tile: Tile, chunk: Any) -> tuple[Any, Any]:
    """Returns the slices of the memory with the real and the imaginary parts of a chunk."""
    start = pl.multiple_of(chunk * tile.width, tile.width)
    return tuple(pl.ds(n * tile.second.side + start, tile.width) for n in range(2))


def _finite_tokens(tile: Tile, ins: dict, memory: Any, lost: Any, chunk: Any) -> jax.Array:
    """Returns the tokens of a chunk, with 0 for those that are not finite, and notes the first of these.

    Goes row by row, and through the memory of the frequencies that are to be written: a copy does not fit into VMEM.
    """
    column = lax.broadcasted_iota(jnp.int32, (tile.width, LANES), 0) + chunk * tile.width
    rows, side = tile.rows[0], tile.first.side

    def row(half: Any, first_row: int, n: Any, first: jax.Array) -> jax.Array:
        x = ins['x'][0, 0, first_row + n].astype(jnp.float32)
        x = x * ins['pre'][0, 0, first_row + n].astype(jnp.float32) if 'pre' in ins else x
        finite = jnp.abs(x) < jnp.inf
        memory[n, half, :] = jnp.where(finite, x, 0.0)
        token = (column + (first_row + n) * tile.second.side).astype(jnp.float32)
        return jnp.minimum(first, jnp.where(finite, jnp.inf, token))

    first, read = jnp.full((tile.width, LANES), jnp.inf), []
    for half, start in zip(_halves(tile, chunk), range(0, rows, side)):
        count = min(side, rows - start)
        first = lax.fori_loop(0, count, partial(row, half, start), first)
        read.append(memory[:count, half, :])
    lost[...] = jnp.minimum(lost[...], jnp.min(first, axis=0, keepdims=True))
    return read[0] if len(read) == 1 else jnp.concatenate(read)


def _lose(tile: Tile, out: Any, lost: Any, chunk: Any) -> None:
    """Sets the tokens of a chunk of the outputs that see one that is not finite to NaN."""
    column = lax.broadcasted_iota(jnp.int32, (tile.width, LANES), 0) + chunk * tile.width

    def row(n: Any, _: None) -> None:
        token = (column + n * tile.second.side).astype(jnp.float32)
        y = out[0, 0, n].astype(jnp.float32)
        out[0, 0, n] = jnp.where(token >= lost[...] - tile.ahead, jnp.nan, y).astype(out.dtype)

    lax.fori_loop(0, tile.rows[1], row, None)


def _inward(tile: Tile, ins: dict, memory: Any, lost: Any, chunk: Any) -> None:
    x = _tokens(ins) if tile.ahead is None else _finite_tokens(tile, ins, memory, lost, chunk)
    y = pallas.dot_constant(ins['into'], x.reshape(-1, tile.width * LANES), tile.dtype)
    a, b = y.reshape(2, tile.first.side, tile.width, LANES)
    c, d = ins['twiddles'][chunk][..., None]
    real, imaginary = _halves(tile, chunk)
    memory[:, real, :] = a * c - b * d
    memory[:, imaginary, :] = a * d + b * c


def _across(tile: Tile, ins: dict, memory: Any, block: Any) -> None:
    kept = tile.second.kept

    def row(n: Any, _: None) -> None:
        place = block * tile.height + n
        z = pallas.dot_constant(ins['across'], memory[place], tile.dtype)
        (a, b), c, d = (z[:kept], z[kept:]), ins['kernel'][0, 0, n], ins['kernel'][1, 0, n]
        d = -d if tile.conjugated else d
        product = jnp.concatenate([a * c - b * d, a * d + b * c])
        memory[place] = pallas.dot_constant(ins['back'], product, tile.dtype)

    lax.fori_loop(0, tile.height, row, None)


def _write(tile: Tile, ins: dict, out: Any, memory: Any, block: Any) -> None:
    def row(n: Any, _: None) -> None:
        z = pallas.dot_constant(ins['across'], memory[block * tile.height + n], tile.dtype)
        out[:, 0, n] = z.reshape(2, tile.second.kept, LANES)

    lax.fori_loop(0, tile.height, row, None)


def _outward(tile: Tile, ins: dict, out: Any, memory: Any, lost: Any, chunk: Any) -> None:
    real, imaginary = _halves(tile, chunk)
    a, b = memory[:, real, :], memory[:, imaginary, :]
    c, d = ins['twiddles'][chunk][..., None]
    z = jnp.concatenate([a * c + b * d, b * c - a * d])
    y = pallas.dot_constant(ins['out'], z.reshape(-1, tile.width * LANES), tile.dtype)
    y = y.reshape(tile.parts, tile.rows[1], tile.width, LANES)
    if 'skip' in ins:
        y += ins['skip'][...][None] * _tokens(ins)
    if 'post' in ins:
        y *= ins['post'][:, 0].astype(jnp.float32)
    out[:, 0] = y.astype(out.dtype)
    if tile.ahead is not None:
        pl.when(jnp.min(lost[...]) < jnp.inf)(partial(_lose, tile, out, lost, chunk))


def _cost(tile: Tile, outward: bool, ins: dict, constants: dict, out: Any) -> object:
    """The cost of the matrix products and of the transfer of blocks."""
    _, batch, _, _, channels = ins['x'].shape
    first, second = tile.first, tile.second
    sizes = [2 * first.side * tile.parts * rows * second.side for rows in tile.rows[: 1 + outward]]
    sizes.append((1 + outward) * 4 * first.side * second.side * second.kept)
    bytes_of = lambda x: x.size * x.dtype.itemsize
    moved = sum(map(bytes_of, (*ins.values(), *constants.values()))) + bytes_of(out)
    if 'kernel' in ins:
        moved += bytes_of(ins['kernel']) * (batch // ins['kernel'].shape[1] - 1)
    if 'skip' in ins:
        moved += sum(bytes_of(ins[name]) for name in ('x', 'pre') if name in ins)
    flops = 2 * sum(sizes) * batch * channels
    return pallas.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved)
