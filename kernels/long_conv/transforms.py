"""The two ways to a spectrum that the long convolution has, behind one pair of functions.

- `FFT`: XLA's real FFT, the best on CPUs (PocketFFT) and on GPUs (cuFFT).
- `Monarch`: the FFT as products with small matrices, for TPUs, whose matrix units XLA's own FFT
  uses badly. Fu et al., FlashFFTConv, 2023, https://arxiv.org/abs/2311.05908, section 3.1; the
  decomposition is Bailey's, FFTs in External or Hierarchical Memory, 1990. The frequencies come
  out permuted, which a product of two spectra does not mind, so nothing is ever put in order. Rows
  of matrices that would meet the zeros behind a sequence are left out, as are those for results
  that nobody asked for. Two sequences of a batch are the real and the imaginary part of one.

Sequences are (B, T, D). A spectrum is whatever its transform says, with axes for batch and channels
that broadcast. No code was taken from others.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.typing import DTypeLike

_SIDE = 128  # of the matrix units of a TPU
_TABLE = 2**17  # numbers of the largest table of twiddles that is a constant of the program


class FFT(NamedTuple):
    """Size of the transform; spectra are complex (B, frequencies, D)."""

    size: int

    def forward(self, x: jax.Array, pairs: bool) -> jax.Array:
        """The spectrum of sequences no longer than the size; `pairs` means nothing here."""
        return _alone(_rfft, (self.size,), x)

    def backward(self, spectrum: jax.Array, count: int, pairs: bool) -> jax.Array:
        """The first `count` tokens."""
        return _alone(_irfft, (self.size, count), spectrum)

    def product(self, one: jax.Array, two: jax.Array) -> jax.Array:
        """Convolution."""
        return one * two

    def correlation(self, one: jax.Array, two: jax.Array) -> jax.Array:
        """Convolution of the first with the second reversed."""
        return one * jnp.conj(two)

    def over_batch(self, spectrum: jax.Array) -> jax.Array:
        """The sum over the batch, as a batch of one."""
        return jnp.sum(spectrum, axis=0, keepdims=True)


class Monarch(NamedTuple):
    """Sides of the matrices; their product is the size. dtype: of the operands of products.

    Spectra are float32 (2, B, frequencies, D), real and imaginary part. With `pairs` a batch of 2 B
    sequences is B complex ones; without it their imaginary part is zero.
    """

    sides: tuple[int, ...]
    dtype: DTypeLike

    def forward(self, x: jax.Array, pairs: bool) -> jax.Array:
        """The spectrum of sequences no longer than the size."""
        parts = jnp.moveaxis(x.reshape(-1, 2, *x.shape[1:]), 1, 0) if pairs else x[None]
        return self._forward(self.sides, parts)

    def backward(self, spectrum: jax.Array, count: int, pairs: bool) -> jax.Array:
        """The first `count` tokens."""
        found = self._backward(self.sides, spectrum, count, 2 if pairs else 1)
        return jnp.moveaxis(found, 0, 1).reshape(-1, *found.shape[2:])

    def product(self, one: jax.Array, two: jax.Array) -> jax.Array:
        """Convolution."""
        return _times(one, two)

    def correlation(self, one: jax.Array, two: jax.Array) -> jax.Array:
        """Convolution of the first with the second reversed; of pairs, the sum of both."""
        return _times(one, jnp.stack([two[0], -two[1]]))

    def over_batch(self, spectrum: jax.Array) -> jax.Array:
        """The sum over the batch, as a batch of one."""
        return jnp.sum(spectrum, axis=1, keepdims=True)

    def _forward(self, sides: tuple[int, ...], x: jax.Array) -> jax.Array:
        """(1 or 2, B, t, D) -> (2, B, n, D): one matrix over the slow index, the rest within."""
        side, rest = sides[0], math.prod(sides[1:])
        parts, batch, tokens, channels = x.shape
        rows = -(-tokens // rest)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, rows * rest - tokens), (0, 0)))
        x = x.reshape(parts, batch, rows, rest, channels)
        x = self._dot('cbtsd,ctef->ebfsd', x, _matrix(side)[:parts, :rows])
        if rest > 1:
            x = _times(x, _twiddles(side, rest)[:, None, :, :, None])
            x = self._forward(sides[1:], x.reshape(2, batch * side, rest, channels))
        return x.reshape(2, batch, side * rest, channels)

    def _backward(self, sides: tuple[int, ...], x: jax.Array, count: int, parts: int) -> jax.Array:
        """(2, B, n, D) -> (parts, B, count, D), undoing the steps from the last one."""
        side, rest = sides[0], math.prod(sides[1:])
        _, batch, _, channels = x.shape
        if rest > 1:
            x = self._backward(sides[1:], x.reshape(2, batch * side, rest, channels), rest, 2)
        x = x.reshape(2, batch, side, rest, channels)
        if rest > 1:
            back = _twiddles(side, rest) * jnp.asarray([1.0, -1.0])[:, None, None]
            x = _times(x, back[:, None, :, :, None])
        rows = -(-count // rest)
        matrix = _matrix(side)[:parts, :rows] / side
        x = self._dot('ebfsd,ctef->cbtsd', x, matrix)
        return x.reshape(parts, batch, rows * rest, channels)[:, :, :count]

    def _dot(self, how: str, x: jax.Array, matrix: np.ndarray) -> jax.Array:
        exact = self.dtype == jnp.float32
        precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT
        operands = x.astype(self.dtype), jnp.asarray(matrix, self.dtype)
        kind = jnp.float32
        return jnp.einsum(how, *operands, precision=precision, preferred_element_type=kind)


def _rfft(size: int, x: jax.Array) -> jax.Array:
    return jnp.fft.rfft(x, size, axis=1)


def _irfft(size: int, count: int, spectrum: jax.Array) -> jax.Array:
    return jnp.fft.irfft(spectrum, size, axis=1)[:, :count]


def _alone(transform: Callable[..., jax.Array], sizes: tuple[int, ...], x: jax.Array) -> jax.Array:
    """Runs a transform along the tokens of each device's sequences and channels.

    XLA's partitioner does not split FFTs: without this it gathers batch and channels.
    Under vmap the mapped axis joins the batch.
    """
    piece = custom_partitioning(partial(transform, *sizes))
    piece.def_partition(
        partition=partial(_partition, partial(transform, *sizes)),
        sharding_rule='b t d -> b f d',
        need_replication_factors=('t', 'f'),
    )

    @jax.custom_batching.custom_vmap
    def run(x: jax.Array) -> jax.Array:
        return piece(x)

    @run.def_vmap
    def _(size: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
        found = _alone(transform, sizes, x.reshape(-1, *x.shape[2:]))
        return found.reshape(size, -1, *found.shape[1:]), True

    return run(x)


def _partition(function: Callable, mesh: Any, shapes: Any, result: Any) -> tuple:
    given = jax.tree.map(lambda x: x.sharding, shapes)
    return mesh, function, result.sharding, given


def fft_size(least: int) -> int:
    """The next even size without prime factors above 5, which FFTs are fast for."""
    size = least + least % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def monarch_sides(least: int, order: int | None = None) -> tuple[int, ...]:
    """Sides, powers of two, of a transform of at least this size; by default of the least order
    whose matrices are no larger than a matrix unit."""
    bits = max(order or 1, (least - 1).bit_length())
    order = order or -(-bits // (_SIDE.bit_length() - 1))
    return tuple(2 ** ((bits + place) // order) for place in range(order))


def _matrix(side: int) -> np.ndarray:
    """(2, side, 2, side): part and token to part and frequency. Its transpose over both undoes it,
    but for a factor of `side`."""
    angle = 2 * np.pi / side * (np.outer(np.arange(side), np.arange(side)) % side)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)])


def _twiddles(side: int, rest: int) -> jax.Array:
    """(2, side, rest): exp(-2 pi i f s / (side rest)); of a large table only factors are stored."""
    if side * rest <= _TABLE:
        return jnp.asarray(_roots(side * rest, np.arange(rest)[None] * np.arange(side)[:, None]))
    fine = _SIDE
    row = np.arange(side)[:, None]
    coarse = _roots(side * rest, row * np.arange(0, rest, fine)[None])
    near = _roots(side * rest, row * np.arange(fine)[None])
    product = _times(jnp.asarray(coarse)[..., None], jnp.asarray(near)[:, :, None])
    return product.reshape(2, side, rest)


def _roots(size: int, power: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi / size * (power % size)
    return np.stack([np.cos(angle), -np.sin(angle)]).astype(np.float32)


def _times(one: jax.Array, two: jax.Array) -> jax.Array:
    """The complex product of arrays whose first axis is the two parts."""
    real = one[0] * two[0] - one[1] * two[1]
    return jnp.stack([real, one[0] * two[1] + one[1] * two[0]])
