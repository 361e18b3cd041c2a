"""The long convolution by XLA's FFT, forward and backward: for CPUs (PocketFFT) and GPUs (cuFFT).

One complex transform of half the period, see transforms.py. On a CPU channels are processed in groups that stay in the
cache, and the first level of a long transform is computed here, where its twiddle factors cost nothing extra, since the
library's transforms are a third slower from 4,096 numbers on. Loops keep the transposition apart from the arithmetic.
No code was taken from others.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.typing import DTypeLike

from longview.kernels import derivatives
from longview.kernels.long_conv.transforms import Level

# Measured on a CPU: complex numbers in a group, size of the largest fast transform, candidates for the first level.
_GROUP, _REST, _SIDES = 2**16, 2048, (1, 2, 3, 4, 5, 6, 8)


class FFT(NamedTuple):
    """A transform: its size, how many of the lowest frequencies to keep, whether to group channels (see above).

    Sequences are (.., rows, t) and spectra (.., rows, side, rest), with permuted frequencies. The twiddle factors are
    an argument of the methods, since a function under custom partitioning may hold no constants.
    """

    size: int
    keep: int | None
    grouped: bool

    @property
    def level(self) -> Level:
        """The first level of the transform, which is computed here; the library transforms the rest."""
        fits = (n for n in _SIDES if self.size % n == 0 and self.size // n <= _REST)
        side = next(fits, 1) if self.grouped else 1
        return Level(side, self.size // side, 1, side)

    def forward(self, x: jax.Array, twiddles: jax.Array) -> jax.Array:
        """Returns the spectrum of real sequences of length t, at most twice the size."""
        side, rest, *_ = level = self.level
        matrix = level.matrix(-(-x.shape[-1] // rest))
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, len(matrix) * rest - x.shape[-1])])
        parts = [x[..., rest * n : rest * (n + 1)] for n in range(len(matrix))]
        lines = []
        for f in range(side):
            a, b = (sum(float(m) * x for m, x in zip(matrix[:, n, f], parts)) for n in range(2))
            c, d = twiddles[:, f].reshape(2, *[1] * (x.ndim - 1), -1)
            lines.append(lax.complex(a * c - b * d, a * d + b * c))
        return self._lowest(jnp.fft.fft(jnp.stack(lines, axis=-2)))

    def backward(self, spectrum: jax.Array, count: int, twiddles: jax.Array) -> jax.Array:
        """Returns the first `count` tokens of the sequence with this spectrum."""
        side, rest, *_ = level = self.level
        z = jnp.fft.ifft(spectrum)
        lines = []
        for f in range(side):
            a, b = z[..., f, :].real, z[..., f, :].imag
            c, d = twiddles[:, f].reshape(2, *[1] * (a.ndim - 1), -1)
            lines.append((a * c + b * d, b * c - a * d))
        matrix = level.matrix(-(-count // rest)) / side
        parts = [sum(float(c) * a + float(d) * b for c, d, (a, b) in zip(*row, lines)) for row in matrix]
        return jnp.concatenate(parts, axis=-1)[..., :count]

    def twiddles(self, dtype: DTypeLike) -> jax.Array:
        """Returns the twiddle factors, (2, side, rest), real and imaginary part."""
        side, rest, *_ = self.level
        angle = np.pi / (2 * self.size) * np.outer(4 * np.arange(side) + 1, np.arange(rest))
        return jnp.asarray(np.stack([np.cos(angle), -np.sin(angle)]), dtype)

    def rows(self, batch: int, channels: int) -> int:
        """Returns the number of channels in a group, a divisor of all channels."""
        batch = 1 if jax.export.is_symbolic_dim(batch) else batch  # one is certain
        most = max(1, _GROUP // (batch * self.size)) if self.grouped else channels
        return max(n for n in range(1, min(most, channels) + 1) if channels % n == 0)

    def _lowest(self, spectrum: jax.Array) -> jax.Array:
        if self.keep is None:
            return spectrum
        slow, fast = (lax.broadcasted_iota(jnp.int32, spectrum.shape, spectrum.ndim - n) for n in (2, 1))
        place, half = slow + spectrum.shape[-2] * fast, self.keep // 2
        return jnp.where((place < half) | (place >= self.size - half), spectrum, 0)


def convolve(fft: FFT, x: jax.Array, taps: jax.Array) -> jax.Array:
    """Convolves x (B, T, D) with taps (K, D) or (B, K, D); both have the accumulation type."""
    twiddles = fft.twiddles(x.dtype)
    return _alone(partial(_convolve, fft), 'b t d, {0}, c s n -> b t d', x, taps, twiddles)


def cotangents(fft: FFT, x: jax.Array, taps: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cotangents of the sequence and of the taps."""
    rule = 'b t d, {0}, b t d, c s n -> b t d, {0}'
    return _alone(partial(_cotangents, fft), rule, x, taps, dy, fft.twiddles(x.dtype))


def _convolve(fft: FFT, axes: tuple[str, ...], x: jax.Array, taps: jax.Array, twiddles: jax.Array) -> jax.Array:
    tokens = x.shape[1]

    def group(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array]:
        z = fft.forward(x, twiddles) * fft.forward(kernel, twiddles)
        return (fft.backward(z, tokens, twiddles),)

    kernels = taps if taps.ndim == 3 else taps[None]
    return _groups(fft, group, (x, kernels), (x,))[0]


def _cotangents(
    fft: FFT,
    axes: tuple[str, ...],
    x: jax.Array,
    taps: jax.Array,
    dy: jax.Array,
    twiddles: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    tokens, count = x.shape[1], taps.shape[-2]

    def group(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel, dy = (fft.forward(part, twiddles) for part in arrays)
        dx = fft.backward(dy * jnp.conj(kernel), tokens, twiddles)
        with_x = dy * jnp.conj(x)
        with_x = jnp.sum(with_x, axis=0, keepdims=True) if taps.ndim == 2 else with_x
        return dx, fft.backward(with_x, count, twiddles)

    kernels = taps if taps.ndim == 3 else taps[None]
    dx, dtaps = _groups(fft, group, (x, kernels, dy), (x, kernels))
    dtaps = dtaps if taps.ndim == 3 else dtaps[0]
    return dx, lax.psum(dtaps, axes) if axes else dtaps


def _groups(
    fft: FFT, function: Callable[..., tuple], arrays: tuple[jax.Array, ...], like: tuple
) -> tuple[jax.Array, ...]:
    """Runs a function of (B, rows, T) on groups of the channels of (B, T, D); results have the shapes of `like`."""
    batch, _, channels = arrays[0].shape
    rows = fft.rows(batch, channels)
    turn = lambda x: jnp.swapaxes(x, 1, 2)
    arrays = tuple(map(turn, arrays))
    if rows == channels:
        return tuple(map(turn, function(*arrays)))

    def step(n: jax.Array, found: tuple) -> tuple:
        here = lambda x: lax.dynamic_slice_in_dim(x, n * rows, rows, axis=1)
        new = function(*map(here, arrays))
        put = lambda x, part: lax.dynamic_update_slice_in_dim(x, part, n * rows, axis=1)
        return tuple(map(put, found, new))

    empty = tuple(jnp.zeros_like(turn(x)) for x in like)
    return tuple(map(turn, lax.fori_loop(0, channels // rows, step, empty)))


def _alone(function: Callable[..., Any], rule: str, *arrays: jax.Array) -> Any:
    """Runs a function on each device's shard of sequences and channels.

    The function gets the mesh axes over which it has to sum its second result, the cotangent of shared taps. XLA's
    partitioner does not split FFTs: without this it gathers batch and channels. Under vmap the calls run one after the
    other. JAX cannot differentiate what is partitioned in this way (`derivatives.own_product` does).
    """
    if derivatives.plain():
        return function((), *arrays)
    shared = arrays[1].ndim == 2
    taps = 'k d' if shared else 'b k d'

    def partition(mesh: Any, shapes: Any, result: Any) -> tuple:
        given = jax.tree.map(lambda x: x.sharding, shapes)
        spec = given[0].spec
        axes = spec[0] if shared and len(spec) else None
        axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
        there = jax.tree.map(lambda x: x.sharding, result)
        return mesh, partial(function, axes), there, given

    shard = custom_partitioning(partial(function, ()))
    factors = ('t', 'k', 'c', 's', 'n')
    shard.def_partition(partition=partition, sharding_rule=rule.format(taps), need_replication_factors=factors)

    return jax.custom_batching.sequential_vmap(shard)(*arrays)
