"""Depthwise convolution as a product of spectra, for CPUs and large kernels.

Images are processed one after the other, so that intermediate arrays fit into the cache. The transform has only as many
points as are needed for no kept pixel to be affected by wrapping around: a kernel of 13 on 14 pixels takes 20, not 26.
Taps that never meet the image are cropped first. The transform is real along the width, then complex along the height,
with channels first in between. Sums are float32, or float64 if an input is float64. The functions are for one device,
since XLA gathers the inputs of an FFT; see alone.py.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels.depthwise_conv.plan import Pair, Plan, spread_out


class Axis(NamedTuple):
    """The sizes along one axis.

    first: the first tap that meets the image; taps: number of taps from it on; before: zeros before the image; count:
      size of the output before striding; side: size of the image; size: size of the transform.
    """

    first: int
    taps: int
    before: int
    count: int
    side: int
    size: int


def convolve(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """See `reference.convolve`."""
    axes, kernel = _axes(plan, x, kernel)
    weights = jnp.conj(_spectrum(axes, kernel, (0, 0)))

    def one(image: jax.Array) -> jax.Array:
        found = _spectrum(axes, image, tuple(axis.before for axis in axes)) * weights
        return _back(axes, found, (0, 0), tuple(axis.count for axis in axes))

    found = lax.map(one, x)[:, :: plan.stride[0], :: plan.stride[1]]
    return found.astype(x.dtype)


def gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cotangents of images and kernel."""
    axes, taps = _axes(plan, x, kernel)
    weights = _spectrum(axes, taps, (0, 0))
    before = tuple(axis.before for axis in axes)

    def one(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        image, cotangent = pair
        found = _spectrum(axes, cotangent, (0, 0))
        total += jnp.conj(found) * _spectrum(axes, image, before)
        return total, _back(axes, found * weights, before, tuple(axis.side for axis in axes))

    total, dx = lax.scan(one, jnp.zeros_like(weights), (x, spread_out(dy, plan.stride)))
    dkernel = _back(axes, total, (0, 0), tuple(axis.taps for axis in axes))
    cut = [(a.first, span - a.first - a.taps) for a, span in zip(axes, plan.spans(kernel))]
    dkernel = jnp.pad(dkernel, (*cut, (0, 0)))[:: plan.dilation[0], :: plan.dilation[1], None]
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


def _axes(plan: Plan, x: jax.Array, kernel: jax.Array) -> tuple[tuple[Axis, ...], jax.Array]:
    """Returns the axes, and the taps (I, J, C) of the undilated kernel that meet the image."""
    wide = spread_out(kernel, plan.dilation, (0, 1))[:, :, 0]
    axes = tuple(map(_axis, x.shape[1:3], wide.shape[:2], plan.padding))
    for place, axis in enumerate(axes):
        wide = lax.slice_in_dim(wide, axis.first, axis.first + axis.taps, axis=place)
    return axes, wide


def _axis(side: int, taps: int, padding: Pair) -> Axis:
    before, after = padding
    count = side + before + after - taps + 1
    first = max(0, before - count + 1)
    last = min(taps, side + before)
    before, taps = before - first, last - first
    # Wrapping around must affect neither an output nor the gradient of a tap.
    size = max(side + before, count, count + taps - 1 - before)
    return Axis(first, taps, before, count, side, _fast(size))


def _fast(size: int) -> int:
    """Returns the next size without prime factors above 5, for which transforms are fast."""
    rest = size
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return size if rest == 1 else _fast(size + 1)


def _spectrum(axes: tuple[Axis, ...], x: jax.Array, before: Pair) -> jax.Array:
    """Returns (C, frequencies of the width, frequencies of the height) for (H, W, C) after `before` zeros."""
    x = jnp.moveaxis(x, 2, 0).astype(jnp.promote_types(x.dtype, jnp.float32))
    x = jnp.fft.rfft(_filled(x, before[1], axes[1].size))
    return jnp.fft.fft(_filled(jnp.swapaxes(x, 1, 2), before[0], axes[0].size))


def _filled(x: jax.Array, before: int, size: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (before, size - before - x.shape[2])))


def _back(axes: tuple[Axis, ...], spectrum: jax.Array, start: Pair, count: Pair) -> jax.Array:
    """Undoes `_spectrum`, and returns `count` pixels from `start` on."""
    cut = partial(lax.slice_in_dim, axis=2)
    x = cut(jnp.fft.ifft(spectrum), start[0], start[0] + count[0])
    x = jnp.fft.irfft(jnp.swapaxes(x, 1, 2), axes[1].size)
    return jnp.moveaxis(cut(x, start[1], start[1] + count[1]), 0, 2)
