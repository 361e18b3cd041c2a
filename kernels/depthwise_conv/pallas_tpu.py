"""Depthwise convolution as Pallas kernels for TPUs, forward and backward.

No code was taken from others. An image with all its channels, or 128 of them, is loaded into VMEM once and copied into
a zero-padded buffer in float32. For each row of the output a loop goes over the rows of taps, whose columns are
unrolled. So each array is moved once, and nothing is padded in HBM. The cotangent of the image is computed by the same
kernel; that of the taps is accumulated over the batch in the output.

Taps are rectangles: one for a convolution; for InceptionNeXt's mixer a square, a row and a column, each of which is
zero on the channels of the others, and a one at the center of the square for the channels that pass unchanged.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from longview.kernels import dispatch, pallas, vmem
from longview.kernels.depthwise_conv.plan import Pair, Plan

_LANES, _SUBLANES = 128, 8
_COLUMNS = 8  # columns of taps whose sums are carried at a time
_SPARE = 4 * vmem.MIB  # of VMEM, for what a kernel computes with


class Rectangle(NamedTuple):
    """A rectangle of taps: its sides, and the pixel of the padded image that its first tap reads for output 0."""

    sides: Pair
    corner: Pair


class Call(NamedTuple):
    """Static arguments.

    image, output: their sides; before: the position of an image in its padded buffer; memory: bytes of VMEM that a
      kernel may take.
    """

    image: Pair
    output: Pair
    before: Pair
    dilation: Pair
    rectangles: tuple[Rectangle, ...]
    memory: int

    @property
    def columns(self) -> int:
        """The columns of an output, padded to whole registers."""
        return -(-self.output[1] // _SUBLANES) * _SUBLANES

    @property
    def padded(self) -> Pair:
        """The rows and columns of the padded buffer for an image."""
        ends = [
            [
                start + (n - 1) * far + size
                for start, n, far, size in zip(rect.corner, rect.sides, self.dilation, (self.output[0], self.columns))
            ]
            for rect in self.rectangles
        ]
        least = [first + side for first, side in zip(self.before, self.image)]
        rows, columns = map(max, zip(*ends, least))
        return rows, columns


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j 1 c']) -> Float[Array, 'b p q c']:
    """See `reference.convolve`."""
    return _convolve(_call_of(plan, x, kernel), x, (kernel[:, :, 0],))


def inception(x: jax.Array, bias: jax.Array | None, *kernels: jax.Array) -> jax.Array:
    """See `kernels.depthwise_conv.inception_conv`."""
    part, channels = kernels[0].shape[3], x.shape[3]
    middle = [max(kernel.shape[axis] // 2 for kernel in kernels) for axis in (0, 1)]
    weights, rectangles = [], []
    for place, kernel in enumerate(kernels):
        rows, columns = kernel.shape[:2]
        first = channels - (3 - place) * part
        weights.append(jnp.pad(kernel[:, :, 0], ((0, 0), (0, 0), (first, channels - first - part))))
        corner = middle[0] - rows // 2, middle[1] - columns // 2
        rectangles.append(Rectangle((rows, columns), corner))
    passing = (jnp.arange(channels) < channels - 3 * part).astype(weights[0].dtype)
    rows, columns = kernels[0].shape[:2]
    weights[0] = weights[0].at[rows // 2, columns // 2].add(passing)
    sides = x.shape[1:3]
    call = Call(sides, sides, tuple(middle), (1, 1), tuple(rectangles), vmem.limit())
    y = _convolve(call, x, tuple(weights))
    if bias is None:
        return y
    whole = jnp.pad(bias.ravel(), (channels - 3 * part, 0))
    return y + whole.astype(y.dtype)[None, None, None]


def missing(plan: Plan, x: jax.Array, kernel: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    if plan.stride != (1, 1):
        return f'the stride is {plan.stride}; wanted 1'
    if any(pads[0] >= span for pads, span in zip(plan.padding, plan.spans(kernel))):
        return f'the padding {plan.padding} is wider than the kernel; wanted less'
    return _lacking(_call_of(plan, x, kernel), x, (x, kernel))


def inception_missing(x: jax.Array, bias: jax.Array | None, *kernels: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    sides = x.shape[1:3]
    longest = tuple(max(kernel.shape[axis] for kernel in kernels) for axis in (0, 1))
    middle, rectangle = (longest[0] // 2, longest[1] // 2), Rectangle(longest, (0, 0))
    call = Call(sides, sides, middle, (1, 1), (rectangle,), vmem.limit())
    return _lacking(call, x, (x, *kernels))


def _lacking(call: Call, x: jax.Array, arrays: tuple) -> str | None:
    lacking = dispatch.lacking(arrays, ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    if not (_width(call, x) and _width(_adjoint(call), x)):
        return (
            f'an image of {x.shape[1]} x {x.shape[2]} with {x.shape[3]} channels does not fit the '
            f'vector memory; wanted a smaller one, or channels in multiples of {_LANES}'
        )
    return None


def _call_of(plan: Plan, x: jax.Array, kernel: jax.Array) -> Call:
    before = (plan.padding[0][0], plan.padding[1][0])
    rectangle = Rectangle(kernel.shape[:2], (0, 0))
    return Call(x.shape[1:3], plan.sizes(x, kernel), before, plan.dilation, (rectangle,), vmem.limit())


def _width(call: Call, x: jax.Array) -> int:
    """Returns the channels of a block: 128, or all of them if 128 does not divide them; 0 if they do not fit."""
    channels, itemsize = x.shape[3], x.dtype.itemsize
    width = _LANES if channels % _LANES == 0 else channels
    rows, columns = call.padded
    pixels = rows * pallas.round_up(columns, _SUBLANES) + call.output[0] * call.columns
    # Blocks are in VMEM twice, while one of them is being transferred.
    blocks = 2 * sum(tall * pallas.round_up(wide, 16) for tall, wide in (call.image, call.output))
    taps = 2 * sum(rect.sides[0] * (rect.sides[1] + 8) for rect in call.rectangles)
    needed = pallas.round_up(width, _LANES) * (4 * (pixels + taps) + itemsize * blocks)
    return width if needed <= call.memory - _SPARE else 0


def _adjoint(call: Call) -> Call:
    """Returns the convolution with reversed taps that computes the cotangent of the images."""
    span = [max(r.corner[a] + (r.sides[a] - 1) * call.dilation[a] for r in call.rectangles) for a in (0, 1)]
    turned = tuple(
        Rectangle(r.sides, tuple(span[a] - r.corner[a] - (r.sides[a] - 1) * call.dilation[a] for a in (0, 1)))
        for r in call.rectangles
    )
    before = tuple(span[a] - call.before[a] for a in (0, 1))
    return Call(call.output, call.image, before, call.dilation, turned, call.memory)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(call: Call, x: jax.Array, weights: tuple[jax.Array, ...]) -> jax.Array:
    """Convolves images with the taps (I, J, C) of each rectangle."""
    shape = pallas.output((x.shape[0], *call.output, x.shape[3]), x.dtype, x)
    return _run(_outputs_kernel, call, (x,), weights, (shape,))[0]


def _convolve_forward(call: Call, x: jax.Array, weights: tuple) -> tuple[jax.Array, tuple]:
    return _convolve(call, x, weights), (x, weights)


def _convolve_backward(call: Call, kept: tuple, dy: jax.Array) -> tuple:
    x, weights = kept
    dx = _convolve(_adjoint(call), dy, tuple(w[::-1, ::-1] for w in weights))
    shapes = tuple(pallas.output(w.shape, jnp.float32, w) for w in weights)
    found = _run(_taps_kernel, call, (x, dy), (), shapes)
    return dx.astype(x.dtype), tuple(f.astype(w.dtype) for f, w in zip(found, weights))


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _copy_padded(call: Call, image: Any, memory: Any, corner: Pair) -> None:
    """Copies an image into a zeroed buffer, one row at a time."""
    memory[...] = jnp.zeros(memory.shape, memory.dtype)

    def copy(row: jax.Array, _: None) -> None:
        line = image[0, row].astype(jnp.float32)
        memory[corner[0] + row, pl.ds(corner[1], image.shape[2]), :] = line

    lax.fori_loop(0, image.shape[1], copy, None)


def _outputs_kernel(call: Call, ins: tuple, weights: tuple, outs: tuple, memory: dict) -> None:
    image = memory['image']
    _copy_padded(call, ins[0], image, call.before)
    (tall, far), (height, width) = call.dilation, call.output

    def row(r: jax.Array, _: None) -> None:
        total = jnp.zeros((call.columns, image.shape[2]), jnp.float32)
        for rect, taps in zip(call.rectangles, weights):
            top, left = rect.corner

            def add(i: jax.Array, total: jax.Array) -> jax.Array:
                line = taps[i].astype(jnp.float32)
                for j in range(rect.sides[1]):
                    read = image[r + top + i * tall, pl.ds(left + j * far, call.columns), :]
                    total = total + read * line[j][None]
                return total

            total = lax.fori_loop(0, rect.sides[0], add, total)
        outs[0][0, r] = total[:width].astype(outs[0].dtype)

    lax.fori_loop(0, height, row, None)


def _taps_kernel(call: Call, ins: tuple, weights: tuple, outs: tuple, memory: dict) -> None:
    image, cotangent = memory['image'], memory['cotangent']
    _copy_padded(call, ins[0], image, call.before)
    _copy_padded(call, ins[1], cotangent, (0, 0))
    (tall, far), height = call.dilation, call.output[0]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for out in outs:
            out[...] = jnp.zeros(out.shape, out.dtype)

    for rect, out in zip(call.rectangles, outs):
        (rows, columns), (top, left) = rect.sides, rect.corner
        for first in range(0, columns, _COLUMNS):
            some = range(first, min(columns, first + _COLUMNS))

            def tap_row(i: jax.Array, _: None) -> None:
                def add(r: jax.Array, sums: tuple) -> tuple:
                    line, place = cotangent[r], r + top + i * tall
                    reads = (image[place, pl.ds(left + j * far, call.columns), :] for j in some)
                    return tuple(total + read * line for total, read in zip(sums, reads))

                zero = jnp.zeros(cotangent.shape[1:], jnp.float32)
                sums = lax.fori_loop(0, height, add, (zero,) * len(some))
                for j, total in zip(some, sums):
                    out[i, j : j + 1] += jnp.sum(total, axis=0, keepdims=True)

            lax.fori_loop(0, rows, tap_row, None)


def _run(kernel: Callable, call: Call, images: tuple, weights: tuple, outs: tuple) -> tuple[jax.Array, ...]:
    """Runs a kernel over blocks of channels and the batch; the batch runs in order.

    Under vmap the calls run one after the other.
    """
    channels, batch = images[0].shape[3], images[0].shape[0]
    width = _width(call, images[0])
    spec = partial(_spec, width)
    memory = {'image': pallas.vmem((*call.padded, width), jnp.float32)}
    if kernel is _taps_kernel:
        memory['cotangent'] = pallas.vmem((call.output[0], call.columns, width), jnp.float32)

    @jax.custom_batching.sequential_vmap
    def run(images: tuple, weights: tuple) -> tuple[jax.Array, ...]:
        return pallas.call(
            partial(kernel, call),
            out_shape=[outs],
            grid=(channels // width, batch),
            in_specs=[jax.tree.map(spec, images), jax.tree.map(spec, weights)],
            out_specs=[jax.tree.map(spec, outs)],
            scratch_shapes=[memory],
            compiler_params=pallas.tpu_params(('parallel', 'arbitrary'), call.memory),
            cost_estimate=_cost(call, images, (*images, *weights, *outs)),
            name=f'depthwise_conv{kernel.__name__.removesuffix("_kernel")}',
        )(*jax.tree.map(pallas.in_hbm, (images, weights)))[0]

    return run(images, weights)


def _spec(width: int, x: Any) -> pl.BlockSpec:
    if x.ndim == 4:
        return pl.BlockSpec((1, *x.shape[1:3], width), lambda c, b: (b, 0, 0, c))
    return pl.BlockSpec((*x.shape[:2], width), lambda c, b: (0, 0, c))


def _cost(call: Call, images: tuple, arrays: tuple) -> object:
    """The cost of a kernel that reads and writes every array once."""
    taps = sum(rect.sides[0] * rect.sides[1] for rect in call.rectangles)
    pixels = call.output[0] * call.output[1] * images[0].shape[0] * images[0].shape[3]
    return pallas.CostEstimate(
        flops=2 * taps * pixels,
        transcendentals=0,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    )
