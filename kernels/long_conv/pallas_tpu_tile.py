"""What the kernels of the long convolution do in VMEM: the last two levels of a transform, and their inverses.

The first of the two levels takes chunks of tokens (`pallas_tpu_level`); the second one takes rows of its frequencies,
whose results are multiplied by the kernel's spectrum and transformed back in place. See pallas_tpu_call.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from longview.kernels import pallas
from longview.kernels.long_conv import pallas_tpu_level as level
from longview.kernels.long_conv.pallas_tpu_level import GROUP, LANES, Pair, Side
from longview.kernels.long_conv.transforms import Level

_UNROLLED = 4  # rows of frequencies at a time; one would leave the matrix units idle


class Tile(NamedTuple):
    """The two levels that a kernel computes: the first one on sequences and on taps, and the second one.

    members: sequences that are convolved by one kernel; ahead: how many later tokens a token sees, further than which
      no NaN reaches, or None.
    """

    sequence: Side
    taps: Side
    second: Level
    members: int
    ahead: int | None = None

    @property
    def dtype(self) -> DTypeLike:
        return self.sequence.dtype

    @property
    def chunks(self) -> int:
        """The number of chunks of tokens."""
        return self.second.side // GROUP

    @property
    def lines(self) -> int:
        """The lines of a row of frequencies in the spectra."""
        return pallas.round_up(self.second.kept, 8)

    def constants(self) -> dict[str, jax.Array]:
        """Returns the matrices, and the twiddle factors, by name."""
        second = self.second
        matrix = second.complex_matrix(second.side)
        across = jnp.asarray(matrix.transpose(2, 3, 1, 0).reshape(2 * second.kept, -1), self.dtype)
        found = {'across': across, 'back': level.rows_of_operand(matrix / second.side, 'ct', self.dtype)}
        for name, side in (('sequence', self.sequence), ('taps', self.taps)):
            found |= {f'{name} into': side.into(), f'{name} out': side.out()}
        return found | {'twiddles': self.sequence.twiddles()}

    def memory(self, gradients: bool) -> dict[str, Any]:
        """The scratch memory of a kernel by name."""
        first = self.sequence.level
        count, kind = level.stored(first.side * self.second.side, self.dtype)
        spectrum, _ = level.stored(first.side * self.lines, self.dtype)
        numbers = pallas.vmem((count, LANES), kind)
        larger = max(self.sequence, self.taps, key=lambda side: side.rows)
        found = {'spectrum': pallas.vmem((spectrum, LANES), kind), 'x': numbers} | larger.copies(GROUP)
        if not gradients:
            return found | {'lost': pallas.vmem((1, LANES), jnp.float32)}
        return found | {'dy': numbers, 'sum': pallas.vmem((2 * first.side * self.lines, LANES), jnp.float32)}


class Work(NamedTuple):
    """What a kernel does in a step, with its constants and its memory by name."""

    tile: Tile
    constants: dict[str, Any]
    memory: dict[str, Any]

    def inward(self, side: str, name: str, x: jax.Array, chunk: Any) -> jax.Array:
        """Transforms a chunk of tokens of a sequence or of taps into the memory `name`.

        Returns an array that is NaN if a token is not finite.
        """
        kind, probes = getattr(self.tile, side), []
        level.load(kind, x, self.memory['read'])

        def put(n: int, y: Pair) -> None:
            level.write(self.memory[name], chunk * GROUP + n, self.tile.second.side, y, self.tile.dtype)
            probes.append(y[0][: level.ROWS] * 0)

        twiddles = self._twiddles(chunk)
        level.inward(kind, self.constants[f'{side} into'], twiddles, GROUP, 0, self.memory['read'], put)
        return sum(probes)

    def outward(self, side: str, name: str, chunk: Any) -> jax.Array:
        """Returns a chunk of tokens, (rows, tokens, lanes), from the memory `name`."""
        tile, kind = self.tile, getattr(self.tile, side)
        rows, columns = kind.level.side, tile.second.side
        get = lambda n: level.read(self.memory[name], chunk * GROUP + n, rows, columns, tile.dtype)
        matrix = self.constants[f'{side} out']
        level.outward(kind, matrix, self._twiddles(chunk), GROUP, 0, get, self.memory['written'])
        count, _ = level.stored(kind.rows * GROUP, tile.dtype) if kind.whole else (kind.rows * GROUP, None)
        return self.memory['written'][pl.ds(0, count), :].reshape(kind.rows, -1, LANES)

    def finite_inward(self, x: jax.Array, chunk: Any) -> None:
        """Transforms a chunk of a sequence, with 0 for tokens that are not finite, and notes the first of these."""
        lost = self.memory['lost']

        @pl.when(chunk == 0)
        def _() -> None:
            lost[...] = jnp.full(lost.shape, jnp.inf)

        probe = jnp.sum(self.inward('sequence', 'x', x, chunk))

        @pl.when(probe != probe)
        def _() -> None:
            known = jnp.abs(x.astype(jnp.float32)) < jnp.inf
            first = jnp.where(known, jnp.inf, self._token(x.shape, chunk))
            lost[...] = jnp.minimum(lost[...], jnp.min(first.reshape(-1, LANES), axis=0, keepdims=True))
            self.inward('sequence', 'x', jnp.where(known, x.astype(jnp.float32), 0), chunk)

    def lose(self, out: Any, chunk: Any) -> None:
        """Sets the tokens of a chunk of the outputs that see one that is not finite to NaN."""
        lost = self.memory['lost'][...][None]

        @pl.when(jnp.min(lost) < jnp.inf)
        def _() -> None:
            seen = self._token(out.shape, chunk) >= lost - self.tile.ahead
            out[...] = jnp.where(seen, jnp.nan, out[...].astype(jnp.float32)).astype(out.dtype)

    def keep_spectrum(self) -> None:
        """Transforms rows of the taps."""
        put = lambda n: level.write(self.memory['spectrum'], self._line(n), 1, self._across('x', n), self.tile.dtype)
        self._rows(put)

    def multiply(self) -> None:
        """Multiplies the rows of a sequence by the spectrum."""
        self._rows(lambda n: self._back('x', n, _times(self._across('x', n), self._spectrum(n))))

    def multiply_both(self, with_y: bool) -> None:
        """Multiplies the rows of the cotangents by the conjugated spectrum, and adds up the spectrum of the taps'.

        with_y: whether those of the sequence are multiplied too.
        """
        total, kept = self.memory['sum'], self.tile.second.kept

        def row(n: Any) -> None:
            x, dy, kernel = self._across('x', n), self._across('dy', n), self._spectrum(n)
            for part, more in enumerate(_times(dy, _conjugate(x))):
                total[pl.ds(2 * self._line(n) + part * self.tile.lines, kept), :] += more
            self._back('dy', n, _times(dy, _conjugate(kernel)))
            if with_y:
                self._back('x', n, _times(x, kernel))

        self._rows(row)

    def end(self) -> None:
        """Transforms the rows of the taps' cotangents back."""
        total, kept = self.memory['sum'], self.tile.second.kept

        def row(n: Any) -> None:
            start = 2 * self._line(n)
            self._back('x', n, tuple(total[pl.ds(start + part * self.tile.lines, kept), :] for part in range(2)))

        self._rows(row)

    def _twiddles(self, chunk: Any) -> Pair:
        return level.turned(self.constants['twiddles'], chunk * GROUP)

    def _token(self, shape: tuple[int, ...], chunk: Any) -> jax.Array:
        """The numbers of the tokens of a chunk."""
        rows, columns = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(2))
        return (rows * self.tile.second.side + columns + chunk * GROUP).astype(jnp.float32)

    def _rows(self, row: Callable[[Any], None]) -> None:
        def some(n: Any, _: None) -> None:
            for place in range(_UNROLLED):
                row(n * _UNROLLED + place)

        lax.fori_loop(0, self.tile.sequence.level.side // _UNROLLED, some, None)

    def _line(self, row: Any) -> Any:
        return pl.multiple_of(row * self.tile.lines, 8)

    def _spectrum(self, row: Any) -> Pair:
        return level.read(self.memory['spectrum'], self._line(row), self.tile.second.kept, 1, self.tile.dtype)

    def _across(self, name: str, row: Any) -> Pair:
        """The frequencies of a row."""
        second, dtype = self.tile.second, self.tile.dtype
        count, _ = level.stored(second.side, dtype)
        x = self.memory[name][pl.ds(pl.multiple_of(row * count, 8), count), :]
        x = pallas.halves(x) if x.dtype == jnp.uint32 else x
        z = pallas.dot_constant(self.constants['across'], x, dtype)
        return z[: second.kept], z[second.kept :]

    def _back(self, name: str, row: Any, z: Pair) -> None:
        """Writes a row from its frequencies."""
        side, dtype = self.tile.second.side, self.tile.dtype
        y = pallas.dot_constant(self.constants['back'], level.operand(z, dtype), dtype)
        level.write(self.memory[name], pl.multiple_of(row * side, 8), 1, (y[:side], y[side:]), dtype)


def _times(x: Pair, y: Pair) -> Pair:
    (a, b), (c, d) = x, y
    return a * c - b * d, a * d + b * c


def _conjugate(x: Pair) -> Pair:
    return x[0], -x[1]
