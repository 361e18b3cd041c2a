"""One level of the transform on a block of tokens in VMEM, and the kernels that are one level and nothing else.

A level multiplies the tokens t1 that are `rest` apart by a matrix, for each t2 < `rest`. Neighbouring tokens lie in the
sublanes of one register, so those of one t2 are read with a stride, from a copy of the block in 32-bit words (a TPU has
strides for no narrower type). No register is ever shuffled:

* Two bfloat16 tokens, 2 i and 2 i + 1, are one word, as they lie in memory anyway, and go into one product.
* A complex number is a word with its real part in the lower and its imaginary part in the upper half. As bfloat16 such
  rows are the operand of a product, real and imaginary parts in turn. In float32 it is two rows.

The levels before the last two, of sequences that do not fit into VMEM, are kernels of their own, from HBM to HBM. The
complex numbers between them are (B, t, D) words, or (B, 2 t, D) in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from longview.kernels import pallas
from longview.kernels.long_conv.transforms import Level

LANES = 128
ROWS = 8  # the rows t1 of a block are padded to a multiple of this
GROUP = 16  # tokens t2 that are transformed without a loop
_TOKENS = 2**11  # numbers in a block of a kernel that is one level

Pair = tuple[jax.Array, jax.Array]  # real and imaginary part


class Side(NamedTuple):
    """A level as a kernel computes it.

    rows: tokens t1 for each t2, in and out; dtype: type of the operands of products; whole: whether the tokens are
      complex numbers.
    """

    level: Level
    rows: int
    dtype: DTypeLike
    whole: bool = False

    @property
    def each(self) -> int:
        """How many tokens t2 go into one product."""
        return 2 if _narrow(self.dtype) and not self.whole else 1

    def into(self) -> jax.Array:
        """Returns the matrix to frequencies: for each token its real parts, then its imaginary parts."""
        matrix = self.level.complex_matrix(self.rows)
        if self.whole:
            order = 'ctef->eftc' if _narrow(self.dtype) else 'ctef->efct'
        else:
            matrix, order = np.einsum('pq,tef->peftq', np.eye(self.each), matrix[0]), 'peftq->peftq'
        return jnp.asarray(np.einsum(order, matrix).reshape(self.each * 2 * self.level.side, -1), self.dtype)

    def out(self) -> jax.Array:
        """Returns the matrix back to tokens: their real parts, then imaginary parts if there are such."""
        matrix = self.level.complex_matrix(self.rows)[: 1 + self.whole] / self.level.side
        return rows_of_operand(matrix, 'ct', self.dtype)

    def twiddles(self) -> jax.Array:
        """Returns the twiddle factors (2, side, rest), with zeros to fill the lanes."""
        return jnp.pad(self.level.twiddles(), ((0, 0), (0, 0), (0, -self.level.rest % LANES)))

    def copies(self, width: int) -> dict[str, object]:
        """Memory for copies of a block of tokens that is read, and of one that is written."""
        count, kind = stored(self.rows * width, self.dtype)
        if self.whole:
            return {name: pallas.vmem((count, LANES), kind) for name in ('read', 'written')}
        words = pallas.vmem((self.rows * width // self.each, LANES), kind)
        return {'read': words, 'written': pallas.vmem((self.rows * width, LANES), jnp.float32)}


def _narrow(dtype: DTypeLike) -> bool:
    return dtype == jnp.bfloat16


def stored(count: int, dtype: DTypeLike) -> tuple[int, DTypeLike]:
    """Returns how complex numbers are stored: the number of rows and their type."""
    return (count, jnp.uint32) if _narrow(dtype) else (2 * count, jnp.float32)


def read(memory: Any, start: Any, count: int, stride: int, dtype: DTypeLike) -> Pair:
    """Reads complex numbers."""
    if _narrow(dtype):
        return pallas.unpacked(memory[pl.ds(start, count, stride=stride), :])
    real, imaginary = (memory[pl.ds(2 * start + n, count, stride=2 * stride), :] for n in range(2))
    return real, imaginary


def write(memory: Any, start: Any, stride: int, x: Pair, dtype: DTypeLike) -> None:
    """Writes complex numbers."""
    count = len(x[0])
    if _narrow(dtype):
        memory[pl.ds(start, count, stride=stride), :] = pallas.word(*x)
        return
    for n in range(2):
        memory[pl.ds(2 * start + n, count, stride=2 * stride), :] = x[n]


def operand(x: Pair, dtype: DTypeLike) -> jax.Array:
    """Complex numbers (n, lanes) as the operand of a product with `rows_of_operand`, (2 n, lanes)."""
    return pallas.halves(pallas.word(*x)) if _narrow(dtype) else jnp.concatenate(x)


def rows_of_operand(matrix: np.ndarray, tokens: str, dtype: DTypeLike) -> jax.Array:
    """A matrix (c t e f), whose e f are multiplied by an operand, with its rows in the order of `tokens`."""
    frequencies = 'fe' if _narrow(dtype) else 'ef'
    matrix = np.einsum(f'ctef->{tokens}{frequencies}', matrix)
    return jnp.asarray(matrix.reshape(matrix.shape[0] * matrix.shape[1], -1), dtype)


def load(side: Side, x: jax.Array, copy: Any) -> None:
    """Copies tokens (rows, width, lanes), or stored complex numbers, to where `inward` reads them."""
    x = x.reshape(-1, LANES)
    if not side.whole:
        x = x.astype(side.dtype)
    x = pallas.words(x) if x.dtype == jnp.bfloat16 else x
    copy[pl.ds(0, len(x)), :] = x


def turned(twiddles: Any, start: Any) -> Pair:
    """Twiddle factors of the tokens from `start` on, in the first lanes: (side, lanes)."""
    lanes = twiddles.shape[2]
    real, imaginary = (pallas.roll(twiddles[n], lax.rem(lanes - start, lanes), 1) for n in range(2))
    return real, imaginary


def inward(side: Side, matrix: Any, twiddles: Pair, width: int, group: Any, copy: Any, put: Callable) -> None:
    """Transforms a group of `GROUP` tokens t2 of a copy (rows * width).

    put: is given the place of a token in the group, and its frequencies.
    """
    count = side.level.side
    for n in range(0, GROUP, side.each):
        y = pallas.dot_constant(matrix, _tokens(side, width, group * GROUP + n, copy), side.dtype)
        for k in range(side.each):
            real, imaginary = (y[place * count : (place + 1) * count] for place in (2 * k, 2 * k + 1))
            put(n + k, _twiddled((real, imaginary), twiddles, n + k))


def _tokens(side: Side, width: int, start: Any, copy: Any) -> jax.Array:
    """The tokens t1 of `side.each` tokens t2 from `start` on, as an operand of the matrix."""
    if not _narrow(side.dtype):
        if side.whole:
            return jnp.concatenate(read(copy, start, side.rows, width, side.dtype))
        return copy[pl.ds(start, side.rows, stride=width), :]
    return pallas.halves(copy[pl.ds(lax.div(start, side.each), side.rows, stride=width // side.each), :])


def outward(side: Side, matrix: Any, twiddles: Pair, width: int, group: Any, get: Callable, copy: Any) -> None:
    """Transforms a group of tokens t2 back, into a copy (rows * width): float32, or stored complex numbers.

    get: returns the frequencies of a token, given its place in the group.
    """
    for n in range(GROUP):
        x = operand(_twiddled(get(n), twiddles, n, conjugated=True), side.dtype)
        y, start = pallas.dot_constant(matrix, x, side.dtype), group * GROUP + n
        if side.whole:
            write(copy, start, width, (y[: side.rows], y[side.rows :]), side.dtype)
        else:
            copy[pl.ds(start, side.rows, stride=width), :] = y


def _twiddled(x: Pair, twiddles: Pair, place: int, conjugated: bool = False) -> Pair:
    (a, b), (c, d) = x, (table[:, place : place + 1] for table in twiddles)
    return (a * c + b * d, b * c - a * d) if conjugated else (a * c - b * d, a * d + b * c)


def rows_for(count: int, rest: int) -> int:
    """The rows t1 of a block of so many tokens."""
    return pallas.round_up(-(-count // rest), ROWS)


def cut(x: jax.Array, rest: int) -> jax.Array:
    """Returns (B, rows, rest, D) for (B, t, D), with zeros behind."""
    rows = rows_for(x.shape[1], rest)
    x = jnp.pad(x, ((0, 0), (0, rows * rest - x.shape[1]), (0, 0)))
    return x.reshape(len(x), rows, rest, -1)


def run_into(level: Level, x: jax.Array, dtype: DTypeLike, whole: bool) -> jax.Array:
    """Applies a level to real tokens or stored complex numbers (B, t, D): stored frequencies (B * side, rest, D)."""
    x = cut(x, stored(level.rest, dtype)[0] if whole else level.rest)
    side = Side(level, x.shape[1], dtype, whole)
    lines, kind = stored(level.rest, dtype)
    z = _run(side, True, x, pallas.output((len(x), level.side, lines, x.shape[-1]), kind, x))
    return z.reshape(-1, lines, x.shape[-1])


def run_out(level: Level, z: jax.Array, count: int, dtype: DTypeLike, out: DTypeLike | None) -> jax.Array:
    """Applies the inverse to stored frequencies (B * side, rest, D): the first `count` tokens, (B, count, D).

    out: type of real tokens, or None for stored complex numbers.
    """
    side = Side(level, rows_for(count, level.rest), dtype, out is None)
    lines, kind = stored(level.rest, dtype)
    z = z.reshape(-1, level.side, lines, z.shape[-1])
    shape = (len(z), side.rows, level.rest if out else lines, z.shape[-1])
    y = _run(side, False, z, pallas.output(shape, out or kind, z))
    return y.reshape(len(z), -1, z.shape[-1])[:, : count if out else stored(count, dtype)[0]]


def _run(side: Side, into: bool, x: jax.Array, out: Any) -> jax.Array:
    level, rest = side.level, side.level.rest
    width = min(rest, max(GROUP, _TOKENS // max(level.side, side.rows)))
    constants = {'matrix': side.into() if into else side.out(), 'twiddles': side.twiddles()}
    lanes = max(width, LANES)  # of a block of twiddle factors, which several blocks of tokens may share

    def block(shape: tuple[int, ...]) -> pl.BlockSpec:
        lines = shape[2] // rest * width
        return pl.BlockSpec((None, shape[1], lines, LANES), lambda n, d, b: (b, 0, n, d))

    specs = {
        'matrix': pl.BlockSpec(constants['matrix'].shape, lambda n, d, b: (0, 0)),
        'twiddles': pl.BlockSpec((2, level.side, lanes), lambda n, d, b: (0, 0, lax.div(n * width, lanes))),
    }
    frequencies = stored(level.side * width, side.dtype)
    scratch = side.copies(width) | {'frequencies': pallas.vmem((frequencies[0], LANES), frequencies[1])}
    batch, _, _, channels = x.shape
    bytes_of = lambda x: x.size * x.dtype.itemsize

    @jax.custom_batching.sequential_vmap
    def run(x: jax.Array) -> jax.Array:
        return pallas.call(
            partial(_into_kernel if into else _out_kernel, side, width),
            out_shape=out,
            grid=(rest // width, channels // LANES, batch),
            in_specs=[block(x.shape), specs],
            out_specs=block(out.shape),
            scratch_shapes=[scratch],
            compiler_params=pallas.tpu_params(('parallel', 'parallel', 'parallel')),
            cost_estimate=pallas.CostEstimate(
                flops=4 * level.side * (1 + side.whole) * side.rows * rest * batch * channels,
                transcendentals=0,
                bytes_accessed=sum(map(bytes_of, (x, out, *constants.values()))),
            ),
            name=f'long_conv_level_{"into" if into else "out"}',
        )(pallas.in_hbm(x), constants)

    return run(x)


def _into_kernel(side: Side, width: int, x: Any, constants: dict, z: Any, memory: dict) -> None:
    load(side, x[...], memory['read'])

    def group(n: jax.Array, twiddles: Pair) -> None:
        put = lambda place, y: write(memory['frequencies'], n * GROUP + place, width, y, side.dtype)
        inward(side, constants['matrix'], twiddles, width, n, memory['read'], put)

    _groups(width, constants['twiddles'], group)
    z[...] = memory['frequencies'][...].reshape(z.shape)


def _out_kernel(side: Side, width: int, z: Any, constants: dict, y: Any, memory: dict) -> None:
    memory['frequencies'][...] = z[...].reshape(memory['frequencies'].shape)

    def group(n: jax.Array, twiddles: Pair) -> None:
        get = lambda place: read(memory['frequencies'], n * GROUP + place, side.level.side, width, side.dtype)
        outward(side, constants['matrix'], twiddles, width, n, get, memory['written'])

    _groups(width, constants['twiddles'], group)
    y[...] = memory['written'][...].reshape(y.shape).astype(y.dtype)


def _groups(width: int, twiddles: Any, group: Callable[[jax.Array, Pair], None]) -> None:
    """Calls a function with the number of each group of tokens in a block, and their twiddle factors."""
    start = lax.rem(pl.program_id(0) * width, twiddles.shape[2])
    lax.fori_loop(0, width // GROUP, lambda n, _: group(n, turned(twiddles, start + n * GROUP)), None)
