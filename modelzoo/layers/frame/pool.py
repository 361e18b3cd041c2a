"""Pooling over windows of an image, by PyTorch's rules, and global pooling in float32."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# From this many output pixels on, the gradient of max-pooling is computed tap by tap on a CPU. JAX's own gradient reads
# the whole image several times there: 214 ms against 19 for 8x112x112x64, 3x3 at stride 2, one core. For smaller images
# the shorter program is kept.
_PIXELS = 400


def max_pool(x: Float[Array, 'b h w c'], size: int, stride: int, padding: int) -> Float[Array, 'b h2 w2 c']:
    """Returns the maximum of each window; padding never wins, and the first of several maxima gets the gradient."""
    window = _Window(size, stride, padding)
    rows, columns = ((side + 2 * padding - size) // stride + 1 for side in x.shape[1:3])
    return (_large_max if rows * columns >= _PIXELS and size >= stride else _max)(window, x)


class _Window(NamedTuple):
    size: int
    stride: int
    padding: int

    def taps(self, phase: int) -> list[tuple[int, int]]:
        """Returns the taps that read pixels at offset `phase` in a stride, each with the offset of its window."""
        reach = phase + self.padding
        return [(tap, (reach - tap) // self.stride) for tap in range(self.size) if (reach - tap) % self.stride == 0]


def _max(window: _Window, x: Array) -> Array:
    size, stride, padding = window
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), sides)


_large_max = jax.custom_vjp(_max, nondiff_argnums=(0,))


def _forward(window: _Window, x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = _large_max(window, x)
    return y, (x, y)


def _backward(window: _Window, kept: tuple[Array, Array], dy: Array) -> tuple[Array]:
    jax_s = lambda x, y, dy: jax.vjp(functools.partial(_max, window), x)[1](dy)[0]
    ours = functools.partial(_by_phases, window)
    return (lax.platform_dependent(*kept, dy, cpu=ours, default=jax_s),)


_large_max.defvjp(_forward, _backward)


def _by_phases(window: _Window, x: Array, y: Array, dy: Array) -> Array:
    """Returns the gradient of the image, computed for each offset of a pixel in its stride and put together."""
    (_, height, width, _), stride = x.shape, window.stride
    first = _first_taps(window, x, y)
    counts = [-(-side // stride) for side in (height, width)]

    def pixels(row: int, column: int) -> Array:
        parts = [
            _moved(jnp.where(first == i * window.size + j, dy, 0), (down, right), counts)
            for i, down in window.taps(row)
            for j, right in window.taps(column)
        ]
        return sum(parts[1:], parts[0])

    rows = [jnp.stack([pixels(i, j) for j in range(stride)], axis=3) for i in range(stride)]
    dx = jnp.stack(rows, axis=2)
    return dx.reshape(x.shape[0], counts[0] * stride, counts[1] * stride, -1)[:, :height, :width]


def _first_taps(window: _Window, x: Array, y: Array) -> Array:
    """Returns which tap of each window holds its maximum."""
    size, stride, padding = window
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    # Materialized once: fused into the loops that read it, the padding would be checked at every pixel.
    padded = lax.optimization_barrier(jnp.pad(x, sides, constant_values=-jnp.inf))
    first = jnp.zeros_like(y, jnp.int32)
    for tap in reversed(range(size * size)):
        start = (0, tap // size, tap % size, 0)
        stop = [n + (count - 1) * stride + 1 for n, count in zip(start[1:3], y.shape[1:3])]
        read = lax.slice(padded, start, (x.shape[0], *stop, x.shape[3]), (1, stride, stride, 1))
        first = jnp.where(read == y, tap, first)
    return lax.optimization_barrier(first)


def _moved(x: Array, ahead: tuple[int, int], counts: list[int]) -> Array:
    """Returns `counts` rows and columns of `x` from the offset `ahead` on, with zeros outside."""
    sides = [(-n, count - side + n, 0) for n, count, side in zip(ahead, counts, x.shape[1:3])]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def avg_pool(x: Float[Array, 'b h w c'], size: int, stride: int, padding: int) -> Float[Array, 'b h2 w2 c']:
    """Returns the mean of each window; padded zeros count (torch's ``count_include_pad=True``)."""
    return _sum(x, size, stride, ((0, 0), (padding, padding), (padding, padding), (0, 0))) / size**2


def halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """Returns 2x2 means at stride 2; where a side is odd, windows at the end average the pixels that exist.

    Torch's ``AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)``.
    """
    pixels = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return _sum(x, 2, 2, 'SAME') / _sum(pixels, 2, 2, 'SAME')


def adaptive_mean(x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b p q c']:
    """Returns a map of `size` rows and columns, each the mean of its part of `x`, by `parts`."""
    rows, columns = (jnp.asarray(parts(side, count), x.dtype) for side, count in zip(x.shape[1:3], size))
    return jnp.einsum('ph,bhwd,qw->bpqd', rows, x, columns)


def parts(side: int, count: int) -> Float[np.ndarray, 'p h']:
    """Returns the matrix of torch's adaptive average pooling, `side` to `count` pixels; its windows may overlap."""
    part, point = np.indices((count, side))
    within = (point >= part * side // count) & (point < -(-(part + 1) * side // count))
    return within / within.sum(1, keepdims=True)


def global_mean(x: Float[Array, 'b h w c']) -> Float[Array, 'b c']:
    """Returns the mean over the pixels, in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def _sum(x: Array, size: int, stride: int, padding: str | tuple) -> Array:
    return lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1, stride, stride, 1), padding)
