"""Convolution on windows of the rows of an image (im2win.py) as a Pallas kernel for TPUs: `im2win_fused`.

No code was taken from others. The rows of the image that a block of rows of the output reads are loaded into VMEM,
where their windows are laid down side by side: pixel by pixel, with the I C channels of a window in the lanes. A column
of taps is then one matrix product of I C channels with the outputs, and the J products of a block are summed in
float32. So neither the windows nor im2col's array is in HBM; an image is read once, and the rows that two blocks share
twice.

With a stride s along the width, s neighbouring pixels are one pixel of s C channels, of which an output reads
ceil(J / s) in a row: a convolution without a stride there. XLA makes this copy of the image, and taps beyond the J are
zeros.

float32 is multiplied in full (`Precision.HIGHEST`), where XLA's convolution rounds to bfloat16 by default. Gradients
are those of `xla.py`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from longview.kernels import derivatives, dispatch, pallas, vmem
from longview.kernels.conv2d import xla
from longview.kernels.conv2d.im2win import kernel_windows
from longview.kernels.conv2d.plan import Pair, Plan
from longview.kernels.rows_tpu import Rows

_LANES, _SUBLANES = 128, 8
_PIXELS = 256  # of the output in one product, where rows are short
_SPARE = 4 * vmem.MIB  # of VMEM, for what a kernel computes with


class Call(NamedTuple):
    """Static arguments.

    plan: of the convolution; output: height and width of the output.
    taps, image, channels: rows and columns of the kernel, and those of the image and its channels, as the kernel sees
      them: without a stride along the width.
    outputs: channels of the output.
    memory: bytes of VMEM that the kernel may take.
    """

    plan: Plan
    output: Pair
    taps: Pair
    image: Pair
    channels: int
    outputs: int
    memory: int

    @property
    def columns(self) -> int:
        """The columns of an output, padded to whole registers."""
        return pallas.round_up(self.output[1], _SUBLANES)

    @property
    def at_once(self) -> int:
        """Rows of the output in one product."""
        return max(1, min(self.output[0], _PIXELS // self.columns))

    @property
    def windows(self) -> Pair:
        """Pixels and channels of a row of windows."""
        return self.columns - 1 + self.taps[1], self.taps[0] * self.channels

    @property
    def left(self) -> int:
        """Zeros before the image's rows."""
        return self.plan.padding[1][0] if self.plan.stride[1] == 1 else 0

    def rows(self, block: int) -> Rows:
        """What blocks of so many rows read."""
        return Rows(self.image[0], block, self.taps[0], self.plan.stride[0], self.plan.padding[0][0])

    def needed(self, block: int, width: int, itemsize: int) -> int:
        """Bytes of VMEM for blocks of so many rows and outputs; what is transferred is there twice."""
        lanes = lambda size: pallas.round_up(size, _LANES)
        pixels, depth = self.windows
        image = self.rows(block).read * pallas.round_up(self.image[1], 2 * _SUBLANES) * lanes(self.channels)
        kernel = self.taps[1] * pallas.round_up(depth, 2 * _SUBLANES) * lanes(width)
        output = block * pallas.round_up(self.columns, 2 * _SUBLANES) * lanes(width)
        windows = block * pallas.round_up(pixels, _SUBLANES) * lanes(depth)
        product = self.at_once * self.columns * (2 * lanes(depth) + 2 * lanes(width))
        return 2 * itemsize * (image + kernel + output) + 4 * (windows + product)

    def blocks(self, itemsize: int) -> Pair | None:
        """Returns rows and outputs of a block, the most outputs first, or None if the least do not fit."""
        whole = self.outputs
        widths = [whole, *(n for n in range(whole // _LANES * _LANES, 0, -_LANES) if whole % n == 0 and n < whole)]
        most = pallas.round_up(self.output[0], self.at_once)
        for width in widths:
            for block in range(most, 0, -self.at_once):
                if self.needed(block, width, itemsize) <= self.memory - _SPARE:
                    return block, width
        return None


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j c n']) -> Float[Array, 'b p q n']:
    """See `reference.convolve`."""
    return _convolve(_call_of(plan, x, kernel), x, kernel)


def missing(plan: Plan, x: jax.Array, kernel: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    if plan.groups(x, kernel) > 1:
        return f'the channels are in {plan.groups(x, kernel)} groups; wanted one'
    if any(pads[0] >= taps for pads, taps in zip(plan.padding, kernel.shape)):
        return f'the padding {plan.padding} is wider than the kernel; wanted less'
    lacking = dispatch.lacking((x, kernel), ('float32', 'bfloat16'))
    if lacking is None and _call_of(plan, x, kernel).blocks(x.dtype.itemsize) is None:
        return (
            f'rows of {x.shape[2]} pixels with {x.shape[3]} channels and a kernel of {kernel.shape} do not fit the '
            'vector memory; wanted smaller ones'
        )
    return lacking


def _call_of(plan: Plan, x: jax.Array, kernel: jax.Array) -> Call:
    output, (rows, columns), width, step = plan.sizes(x, kernel), kernel.shape[:2], x.shape[2], plan.stride[1]
    if step > 1:
        columns = -(-columns // step)
        width = output[1] - 1 + columns
    return Call(plan, output, (rows, columns), (x.shape[1], width), step * x.shape[3], kernel.shape[3], vmem.limit())


def _without_stride(call: Call, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the image and the kernel with neighbouring pixels as channels, if there is a stride along the width."""
    step, left = call.plan.stride[1], call.plan.padding[1][0]
    if step == 1:
        return x, kernel
    zero, none = jnp.zeros((), x.dtype), (0, 0, 0)
    x = lax.pad(x, zero, (none, none, (left, call.image[1] * step - left - x.shape[2], 0), none))
    kernel = jnp.pad(kernel, ((0, 0), (0, call.taps[1] * step - kernel.shape[1]), (0, 0), (0, 0)))
    return x.reshape(*x.shape[:2], *call.image[1:], -1), kernel.reshape(*call.taps, -1, call.outputs)


_convolve = derivatives.with_rule(
    lambda call, inputs, _: (_run(call, *inputs), inputs),
    lambda call, inputs, dy: xla.gradients(call.plan, *inputs, dy),
)


def _kernel(call: Call, rows: Rows, image: Any, weights: Any, output: Any, windows: Any) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        _lay_down(call, rows, image, windows)

    width, together = call.output[1], call.at_once

    def some(n: jax.Array, _: None) -> None:
        place = pl.multiple_of(n * together, together)
        total = jnp.zeros((together * call.columns, output.shape[3]), jnp.float32)
        for j in range(call.taps[1]):
            seen = windows[pl.ds(place, together), pl.ds(j, call.columns), :]
            total = total + _product(seen.reshape(together * call.columns, -1), weights[j])
        output[0, pl.ds(place, together)] = total.reshape(together, call.columns, -1)[:, :width].astype(output.dtype)

    lax.fori_loop(0, rows.block // together, some, None)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product with operands of the type of `b` and sums in float32."""
    precision = lax.Precision.HIGHEST if b.dtype == jnp.float32 else lax.Precision.DEFAULT
    return jnp.dot(a.astype(b.dtype), b, precision=precision, preferred_element_type=jnp.float32)


def _lay_down(call: Call, rows: Rows, image: Any, windows: Any) -> None:
    """Writes the windows of the rows of a block; pixels and rows out of the image are zeros."""
    windows[...] = jnp.zeros(windows.shape, windows.dtype)
    left, kept = call.left, min(call.image[1], call.windows[0] - call.left)

    def row(r: jax.Array, _: None) -> None:
        for i in range(call.taps[0]):
            line = rows.row(image, pl.program_id(1), r * call.plan.stride[0] + i)
            windows[r, pl.ds(left, kept), i * call.channels : (i + 1) * call.channels] = line[:kept]

    lax.fori_loop(0, rows.block, row, None)


def _run(call: Call, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Runs the kernel over the batch, blocks of rows and of outputs; under vmap one call follows the other."""
    x, kernel = _without_stride(call, x, kernel)
    block, width = call.blocks(x.dtype.itemsize)
    rows, blocks = call.rows(block), (-(-call.output[0] // block), call.outputs // width)
    y = pallas.output((x.shape[0], *call.output, call.outputs), x.dtype, x)

    @jax.custom_batching.sequential_vmap
    def run(x: jax.Array, weights: jax.Array) -> jax.Array:
        return pallas.call(
            partial(_kernel, call, rows),
            out_shape=y,
            grid=(x.shape[0], *blocks),
            in_specs=[rows.spec(x), pl.BlockSpec((*weights.shape[:2], width), lambda b, p, n: (0, 0, n))],
            out_specs=pl.BlockSpec((1, block, call.output[1], width), lambda b, p, n: (b, p, 0, n)),
            scratch_shapes=[pallas.vmem((block, *call.windows), jnp.float32)],
            compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary'), call.memory),
            cost_estimate=_cost(call, x, weights, rows, blocks),
            name='im2win',
        )(pallas.in_hbm(x), pallas.in_hbm(weights))

    return run(x, kernel_windows(kernel))


def _cost(call: Call, x: jax.Array, weights: jax.Array, rows: Rows, blocks: Pair) -> object:
    """The cost of a kernel that reads the rows of every block, and weights that do not fit once for each block."""
    batch, pixels = x.shape[0], call.output[0] * call.output[1]
    read = batch * blocks[0] * rows.read * x.shape[2] * x.shape[3]
    again = batch * blocks[0] if blocks[1] > 1 else 1
    return pallas.CostEstimate(
        flops=2 * batch * pixels * weights.size,
        transcendentals=0,
        bytes_accessed=x.dtype.itemsize * (read + again * weights.size + batch * pixels * call.outputs),
    )
