"""Depthwise convolution as a sum of shifted images, for CPUs and kernels that are not large.

All taps are fused into one loop over the output, which reads the image with channels last. There are two sums, since
with one each addition would wait for the one before. A band (1 x k or k x 1) reads its image without a padded copy:
outside of the image it reads the nearest pixel, with a weight of zero.

The gradient of the kernel is accumulated over blocks of rows, for each pixel of a row and each channel separately, and
summed over these at the end, since XLA's reductions are slow on a CPU. The rows of the next block are read one step
ahead: sliced where they are used, they would not be vectorized. Sums are float32, or float64 if an input is float64.
The functions are for one device; see alone.py.
"""

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels.depthwise_conv.plan import Pair, Plan, spread_out

_ROWS = 14  # most rows of a block
_FEW = 32  # with fewer channels a loop over them is too short


def convolve(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """See `reference.convolve`."""
    axis = _band(plan, kernel)
    terms = _band_terms(plan, axis, x, kernel) if axis else _terms(plan, x, kernel)
    y = sum(terms[::2]) + sum(terms[1::2])
    return y.astype(x.dtype).reshape(x.shape[0], *plan.sizes(x, kernel), x.shape[3])


def gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cotangents of images and kernel."""
    back = plan.adjoint(x, kernel, dy)
    dx = convolve(back, spread_out(dy, plan.stride), kernel[::-1, ::-1])
    return dx.astype(x.dtype), _kernel_gradient(plan, x, kernel, dy).astype(kernel.dtype)


def _wide(*arrays: jax.Array) -> jnp.dtype:
    return jnp.result_type(*arrays, jnp.float32)


def _terms(plan: Plan, x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    wide, (height, width) = _wide(x, kernel), plan.sizes(x, kernel)
    padded, taps = _pad(x, plan.padding), kernel.astype(wide)
    if _is_flat(plan, x.shape[3]):
        taps = jnp.tile(taps[:, :, 0], (1, 1, width))[..., None]
        plan, padded, width = plan.flat(x.shape[3]), _flattened(padded), width * x.shape[3]
    return [
        _pixels(padded, plan, (i, j), (height, width)).astype(wide) * taps[i, j][None, None]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]


def _is_flat(plan: Plan, channels: int) -> bool:
    """Whether a row of pixels with few channels is treated as one long vector."""
    return plan.stride[1] == 1 and channels < _FEW


def _flattened(x: jax.Array) -> jax.Array:
    """Returns images whose channels are flattened into their rows, with one channel left."""
    return x.reshape(*x.shape[:-2], -1, 1)


def _pad(x: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    """Pads with zeros; negative padding crops."""
    config = [(0, 0, 0), *((*pads, 0) for pads in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _pixels(padded: jax.Array, plan: Plan, tap: Pair, sizes: Pair) -> jax.Array:
    """Returns the pixel that a tap reads for each pixel of the output."""
    start = [place * step for place, step in zip(tap, plan.dilation)]
    stop = [n + (size - 1) * s + 1 for n, size, s in zip(start, sizes, plan.stride)]
    batch, _, _, channels = padded.shape
    return lax.slice(padded, (0, *start, 0), (batch, *stop, channels), (1, *plan.stride, 1))


def _band(plan: Plan, kernel: jax.Array) -> int:
    """Returns the axis of the images along which a band has its taps, or 0 for other kernels."""
    rows, columns = kernel.shape[:2]
    axis = 2 if rows == 1 else 1
    plain = plan.stride == (1, 1) and plan.padding[2 - axis] == (0, 0)
    plain = plain and not _is_flat(plan, kernel.shape[3])
    return axis if plain and 1 in (rows, columns) and max(rows, columns) > 1 else 0


def _band_terms(plan: Plan, axis: int, x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    wide, size = _wide(x, kernel), x.shape[axis]
    taps = kernel.reshape(-1, kernel.shape[3]).astype(wide)
    count = plan.sizes(x, kernel)[axis - 1]
    terms = []
    for place, tap in enumerate(taps):
        read = jnp.arange(count) + (place * plan.dilation[axis - 1] - plan.padding[axis - 1][0])
        inside = (read >= 0) & (read < size)
        weight = jnp.where(inside[:, None], tap[None], 0)
        pixels = jnp.take(x, jnp.clip(read, 0, size - 1), axis=axis, mode='clip').astype(wide)
        terms.append(pixels * jnp.expand_dims(weight, (0, 3 - axis)))
    return terms


def _kernel_gradient(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns the cotangent of the kernel in the accumulation type."""
    (batch, height, width, channels), (rows, columns) = dy.shape, kernel.shape[:2]
    wide, spans, (down, right) = _wide(x, dy), plan.spans(kernel), plan.stride
    blocks = -(-height // _ROWS)
    block = -(-height // blocks)
    deep, broad = down * (block - 1) + spans[0], right * (width - 1) + spans[1]
    needed = down * (blocks * block - 1) + spans[0], broad
    ends = [n - side - pads[0] for n, side, pads in zip(needed, x.shape[1:3], plan.padding)]
    padded = _pad(x, tuple((pads[0], end) for pads, end in zip(plan.padding, ends)))
    dy = jnp.pad(dy, ((0, 0), (0, blocks * block - height), (0, 0), (0, 0)))
    if _is_flat(plan, channels):
        plan, padded, dy = plan.flat(channels), _flattened(padded), _flattened(dy)

    def read(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        image, row = step // blocks, step % blocks * block
        starts = (image, row * down, 0, 0), (image, row, 0, 0)
        windows = (1, deep, *padded.shape[2:]), (1, block, *dy.shape[2:])
        found = (lax.dynamic_slice(a, s, n) for a, s, n in zip((padded, dy), starts, windows))
        pixels, cotangent = (a.astype(wide) for a in found)
        return pixels, cotangent[0]

    def add(carry: tuple, step: jax.Array) -> tuple[tuple, None]:
        sums, (pixels, cotangent) = carry
        product = lambda r, j, x: _column(plan, pixels, (r, j), x) * cotangent[r, None]
        sums = [x + sum(product(r, j, x) for r in range(block)) for j, x in enumerate(sums)]
        return (sums, read(step + 1)), None

    zeros = [jnp.zeros_like(dy, wide, (rows, *dy.shape[2:]))] * columns
    steps = jnp.arange(batch * blocks)
    (sums, _), _ = lax.scan(add, (zeros, read(jnp.zeros((), steps.dtype))), steps)
    return jnp.stack([x.reshape(rows, 1, width, channels).sum(2) for x in sums], axis=1)


def _column(plan: Plan, pixels: jax.Array, place: Pair, like: jax.Array) -> jax.Array:
    """Returns what a column of taps reads for a row of the output; `place` is (row, column)."""
    (down, right), (tall, far) = plan.stride, plan.dilation
    rows, width, channels = like.shape
    start = (0, place[0] * down, place[1] * far, 0)
    stop = (start[1] + (rows - 1) * tall + 1, start[2] + (width - 1) * right + 1)
    return lax.slice(pixels, start, (1, *stop, channels), (1, tall, right, 1))[0]
