"""The transform in which a convolution is a product: its sizes, and its form as matrix products for TPUs.

A real sequence of period 2N that changes its sign after one period is equivalent to the complex sequence

    z_t = (x_t - i x_{t+N}) exp(-2 pi i t / 4N),  t < N

of half its length. So a sequence with as many zeros after it takes one complex transform of the sequence's own length,
and nothing is computed for the zeros: Crandall & Fagin, Discrete Weighted Transforms and Large-Integer Arithmetic,
1994. The transform of z is that of x at the frequencies (f + 1/4) / N. Without the weights (`quarter` 0) the period is
N and the convolution is circular.

`Monarch` is this transform as products with small matrices, for TPUs, since XLA's FFT makes poor use of their matrix
units: Fu et al., FlashFFTConv, 2023, https://arxiv.org/abs/2311.05908, section 3.1; the decomposition is Bailey's, FFTs
in External or Hierarchical Memory, 1990. Frequencies come out permuted; this does not matter for a product of two
spectra, so they are never reordered. Rows of matrices that would be multiplied by zeros, or whose results are not
needed, are left out. Tokens from N on are further columns of the first matrix. No code was taken from others.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

SIDE = 128  # of the matrix units of a TPU
LEAST = 256  # the least period that is a power of two: both sides of order 2 fill registers of bfloat16
_TABLE = 2**17  # numbers in the largest table of twiddle factors that is stored as a constant of the program


class Level(NamedTuple):
    """One step of a decomposition: a matrix over the slow index, twiddle factors, and a rest of size `rest`.

    quarter: 0 or 1, the offset of the frequencies in quarters; kept: how many of the lowest frequencies the last level
      keeps.
    """

    side: int
    rest: int
    quarter: int
    kept: int

    def matrix(self, rows: int) -> np.ndarray:
        """Returns (rows, 2, kept): the matrix from tokens to the real and imaginary parts of frequencies."""
        frequency = 4 * lowest(self.side, self.kept) + self.quarter
        angle = np.pi / (2 * self.side) * (np.outer(np.arange(rows), frequency) % (4 * self.side))
        return np.stack([np.cos(angle), -np.sin(angle)], 1)

    def complex_matrix(self, rows: int) -> np.ndarray:
        """Returns (2, rows, 2, kept), the matrix for complex tokens; its transpose divided by `side` is its inverse."""
        real = self.matrix(rows)
        return np.stack([real, np.stack([-real[:, 1], real[:, 0]], 1)])

    def twiddles(self) -> jax.Array:
        """Returns (2, side, rest): exp(-2 pi i (f + quarter/4) s / (side rest))."""
        return roots(self.side, self.quarter, self.side * self.rest, self.rest)

    def into(self, x: jax.Array, dtype: DTypeLike) -> jax.Array:
        """Applies the step: real or complex (1 or 2, B, t, D) -> (2, B * kept, rest, D)."""
        parts, batch, tokens, channels = x.shape
        rows = -(-tokens // self.rest)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, rows * self.rest - tokens), (0, 0)))
        x = x.reshape(parts, batch, rows, self.rest, channels)
        x = _dot('cbtsd,ctef->ebfsd', x, self.complex_matrix(rows)[:parts], dtype)
        if self.rest > 1:
            x = times(x, self.twiddles()[:, None, :, :, None])
        return x.reshape(2, batch * self.kept, self.rest, channels)

    def out(self, x: jax.Array, parts: int, count: int, dtype: DTypeLike) -> jax.Array:
        """Applies the inverse: (2, B * kept, rest, D) -> the first `count` tokens, (parts, B, count, D)."""
        _, batch, _, channels = x.shape
        batch //= self.kept
        x = x.reshape(2, batch, self.kept, self.rest, channels)
        if self.rest > 1:
            x = times(x, conjugate(self.twiddles())[:, None, :, :, None])
        rows = -(-count // self.rest)
        matrix = self.complex_matrix(rows)[:parts] / self.side
        x = _dot('ebfsd,ctef->cbtsd', x, matrix, dtype)
        return x.reshape(parts, batch, rows * self.rest, channels)[:, :, :count]


class Monarch(NamedTuple):
    """A transform as products with matrices of the given sides, whose product is its size.

    dtype: type of the operands of products; keep: how many of the lowest frequencies of the last level are kept, which
      are the lowest of all. Spectra are float32 (2, B, frequencies, D), real and imaginary part.
    """

    sides: tuple[int, ...]
    dtype: DTypeLike
    keep: int | None = None

    @property
    def levels(self) -> tuple[Level, ...]:
        found, rest = [], math.prod(self.sides)
        for place, side in enumerate(self.sides):
            rest //= side
            kept = self.keep if rest == 1 and self.keep else side
            found.append(Level(side, rest, 0 if place else 1, kept))
        return tuple(found)

    @property
    def size(self) -> int:
        return math.prod(self.sides)

    def keeping(self, share: float) -> 'Monarch':
        """Returns the transform that keeps a share of the frequencies, the lowest ones."""
        if share == 1:
            return self
        return self._replace(keep=int(self.sides[-1] * share))

    def forward(self, x: jax.Array) -> jax.Array:
        """Returns the spectrum of real sequences (B, t, D), t at most twice the size."""
        batch, _, channels = x.shape
        x = x[None]
        for level in self.levels:
            x = level.into(x, self.dtype)
        return x.reshape(2, batch, -1, channels)

    def backward(self, spectrum: jax.Array, count: int) -> jax.Array:
        """Returns the first `count` tokens of the sequence with this spectrum."""
        _, batch, _, channels = spectrum.shape
        x = spectrum.reshape(2, -1, 1, channels)
        for level in self.levels[:0:-1]:
            x = level.out(x, 2, level.side * level.rest, self.dtype)
        return self.levels[0].out(x, 1, count, self.dtype)[0]


def conjugate(x: jax.Array) -> jax.Array:
    """The complex conjugate of an array whose first axis is real and imaginary part."""
    return jnp.stack([x[0], -x[1]])


def times(one: jax.Array, two: jax.Array) -> jax.Array:
    """The complex product of arrays whose first axis is real and imaginary part."""
    real = one[0] * two[0] - one[1] * two[1]
    return jnp.stack([real, one[0] * two[1] + one[1] * two[0]])


def lowest(side: int, kept: int) -> np.ndarray:
    """Returns the `kept` frequencies of `side` that are nearest to zero, the negative ones last."""
    half = (kept + 1) // 2
    return np.concatenate([np.arange(half), np.arange(side - (kept - half), side)])


def size_for(tokens: int, taps: int, before: int) -> int:
    """Returns the least N of a transform in which no output is affected by wrapping around."""
    return -(-(tokens + max(taps - before - 1, before)) // 2)


def period_for(tokens: int, taps: int, before: int) -> int:
    """Returns `size_for` rounded up to a power of two, of which eighths of the frequencies can be kept."""
    return max(LEAST, 2 ** (size_for(tokens, taps, before) - 1).bit_length())


def wrapped(taps: jax.Array, before: int, size: int) -> jax.Array:
    """Returns taps (.., K, D), whose first one is `before` tokens ahead, as a kernel that begins at lag 0.

    Lag -j becomes lag 2N - j, with the opposite sign.
    """
    if not before:
        return taps
    ahead, taps = -taps[..., :before, :], taps[..., before:, :]
    gap = 2 * size - before - taps.shape[-2]
    taps = jnp.pad(taps, [(0, 0)] * (taps.ndim - 2) + [(0, gap), (0, 0)])
    return jnp.concatenate([taps, ahead], axis=-2)


def fft_size(least: int) -> int:
    """Returns the next size without prime factors above 5, for which FFTs are fast."""
    size = least
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def monarch_sides(least: int, order: int | None = None) -> tuple[int, ...]:
    """Returns the sides, powers of two, of a transform of at least size `least`.

    order: number of sides; by default the least with which matrices are no larger than a matrix unit.
    """
    bits = max(order or 1, (least - 1).bit_length())
    order = order or -(-bits // (SIDE.bit_length() - 1))
    return tuple(2 ** ((bits + order - 1 - place) // order) for place in range(order))


def roots(side: int, quarter: int, size: int, count: int) -> jax.Array:
    """Returns (2, side, count): exp(-2 pi i (f + quarter/4) s / size).

    A large table is stored as two factors.
    """
    row = (4 * np.arange(side) + quarter)[:, None]
    if side * count <= _TABLE:
        return jnp.asarray(_roots(4 * size, row * np.arange(count)[None]))
    coarse = jnp.asarray(_roots(4 * size, row * np.arange(0, count, SIDE)[None]))
    near = jnp.asarray(_roots(4 * size, row * np.arange(SIDE)[None]))
    return times(coarse[..., None], near[:, :, None]).reshape(2, side, -1)[:, :, :count]


def exact_sides(size: int) -> tuple[int, ...] | None:
    """Returns sides whose product is the size, or None if a prime factor is larger than a matrix unit."""
    primes, rest, prime = [], size, 2
    while rest > 1:
        while rest % prime:
            prime += 1
        primes.append(prime)
        rest //= prime
    if primes and primes[-1] > SIDE:
        return None
    sides = [1]
    for prime in reversed(primes):
        if sides[-1] * prime > SIDE:
            sides.append(1)
        sides[-1] *= prime
    return tuple(sides)


def _roots(size: int, power: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi / size * (power % size)
    return np.stack([np.cos(angle), -np.sin(angle)]).astype(np.float32)


def _dot(how: str, x: jax.Array, matrix: np.ndarray, dtype: DTypeLike) -> jax.Array:
    precision = lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT
    operands = x.astype(dtype), jnp.asarray(matrix, dtype)
    kind = jnp.float32
    return jnp.einsum(how, *operands, precision=precision, preferred_element_type=kind)
