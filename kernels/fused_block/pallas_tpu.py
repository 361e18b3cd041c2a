"""All layers of a block as one Pallas kernel for TPUs.

No code was taken from others. A grid step loads a block of rows of the image, with those that the taps reach, into VMEM
and computes the same rows of the output: all weights are there, and so are u and h, the latter 512 channels at a time.
So an image is read once, but for the rows that blocks share, and the output is written once.

The convolution is a matrix product for each tap and 128 channels, whose matrix has the groups along its diagonal: it
multiplies 128 / D times as often as is needed, which the matrix unit does sooner than the vector unit what is needed.
float32 is multiplied in full (`Precision.HIGHEST`). Gradients are those of `xla.py`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from longview.kernels import derivatives, dispatch, pallas, vmem
from longview.kernels.fused_block import xla
from longview.kernels.fused_block.arrays import Block
from longview.kernels.rows_tpu import Rows

_LANES, _SUBLANES = 128, 8
_PIXELS = 256  # of the output in one product, where rows are short
_HIDDEN = 512  # expanded channels at a time
_SPARE = 4 * vmem.MIB  # of VMEM, for what a kernel computes with


class Call(NamedTuple):
    """Static arguments.

    image: height and width; channels, expanded: of the maps; taps: rows and columns of the kernel.
    together: channels of a product of the convolution.
    memory: bytes of VMEM that the kernel may take.
    """

    image: tuple[int, int]
    channels: int
    expanded: int
    taps: tuple[int, int]
    together: int
    memory: int

    @property
    def columns(self) -> int:
        """The columns of an image, padded to whole registers."""
        return pallas.round_up(self.image[1], _SUBLANES)

    @property
    def at_once(self) -> int:
        """Rows in one product."""
        return max(1, min(self.image[0], _PIXELS // self.columns))

    def rows(self, block: int) -> Rows:
        """What blocks of so many rows read."""
        return Rows(self.image[0], block, self.taps[0], before=self.taps[0] // 2)

    def padded(self, block: int) -> tuple[int, int, int]:
        """The shape of a block of rows and columns with zeros around the image."""
        return block + self.taps[0] - 1, self.columns + self.taps[1] - 1, self.channels

    def block(self, itemsize: int) -> int | None:
        """Returns the rows of a block, or None if the least do not fit; what is transferred is in VMEM twice."""
        lanes = lambda size: pallas.round_up(size, _LANES)
        channels, expanded, wide = lanes(self.channels), lanes(self.expanded), pallas.round_up(self.columns, 16)
        taps = self.taps[0] * self.taps[1] * self.channels * lanes(self.together)
        weights = 2 * itemsize * (taps + 2 * channels * expanded) + 8 * _SUBLANES * (2 * channels + expanded)
        product = 4 * self.at_once * self.columns * (4 * channels + 2 * min(lanes(_HIDDEN), expanded))
        for block in range(pallas.round_up(self.image[0], self.at_once), 0, -self.at_once):
            tall, across, _ = self.padded(block)
            maps = 2 * itemsize * (self.rows(block).read + block) * wide * channels
            maps += 4 * tall * pallas.round_up(across, _SUBLANES) * channels
            if weights + product + maps <= self.memory - _SPARE:
                return block
        return None


def run(x: Float[Array, 'b h w c'], *weights: jax.Array) -> Float[Array, 'b h w c']:
    """See `reference.run`."""
    return _block(_call_of(x, Block(*weights)), x, *weights)


def missing(x: jax.Array, *weights: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((x, weights), ('float32', 'bfloat16'))
    if lacking is None and _call_of(x, Block(*weights)).block(x.dtype.itemsize) is None:
        return (
            f'a block of {x.shape[3]} channels, {weights[2].shape[1]} expanded ones and rows of {x.shape[2]} pixels '
            'does not fit the vector memory; wanted a smaller one'
        )
    return lacking


def _call_of(x: jax.Array, block: Block) -> Call:
    channels, depth = x.shape[3], block.kernel.shape[2]
    together = _LANES if channels % _LANES == 0 and _LANES % depth == 0 else channels
    return Call(x.shape[1:3], channels, block.up.shape[1], block.kernel.shape[:2], together, vmem.limit())


_block = derivatives.with_rule(
    lambda call, inputs, _: (_run(call, inputs[0], Block(*inputs[1:])), inputs),
    lambda call, inputs, dy: jax.vjp(xla.run, *inputs)[1](dy),
)


def _diagonal(call: Call, kernel: jax.Array) -> Float[Array, 't g m n']:
    """Returns a matrix for each tap and for the channels that are multiplied together, with groups on its diagonal."""
    rows, columns, depth, _ = kernel.shape
    size = call.together
    parts = kernel.reshape(rows * columns, depth, -1, size).swapaxes(1, 2)
    place = jnp.arange(size) // depth
    return jnp.where((place[:, None] == place[None])[None, None], jnp.tile(parts, (1, 1, size // depth, 1)), 0)


def _kernel(call: Call, rows: Rows, image: Any, block: Block, output: Any, padded: Any) -> None:
    (top, left), together = (side // 2 for side in call.taps), call.at_once
    padded[...] = jnp.zeros(padded.shape, padded.dtype)

    def copy(r: jax.Array, _: None) -> None:
        padded[r, pl.ds(left, call.image[1]), :] = rows.row(image, pl.program_id(1), r)

    lax.fori_loop(0, padded.shape[0], copy, None)

    def some(n: jax.Array, _: None) -> None:
        place = pl.multiple_of(n * together, together)

        def seen(i: int, j: int, first: int, count: int) -> jax.Array:
            pixels = padded[pl.ds(place + i, together), pl.ds(j, call.columns), first : first + count]
            return pixels.reshape(together * call.columns, count)

        u = jnp.concatenate([_convolved(call, block, seen, n) for n in range(block.kernel.shape[1])], axis=1)
        y = seen(top, left, 0, call.channels) + _fed_forward(call, block, u + block.kernel_bias[...])
        y = y.reshape(together, call.columns, -1)[:, : call.image[1]]
        output[0, pl.ds(place, together)] = y.astype(output.dtype)

    lax.fori_loop(0, rows.block // together, some, None)


def _convolved(call: Call, block: Block, seen: Any, part: int) -> jax.Array:
    """Returns u without its bias, for as many channels as are multiplied together."""
    size, columns = call.together, call.taps[1]
    return sum(
        _product(seen(i, j, part * size, size), block.kernel[i * columns + j, part])
        for i in range(call.taps[0])
        for j in range(columns)
    )


def _fed_forward(call: Call, block: Block, u: jax.Array) -> jax.Array:
    """Returns the branch from u on, a part of h at a time."""
    y = block.down_bias[...]
    for first in range(0, call.expanded, _HIDDEN):
        part = slice(first, min(first + _HIDDEN, call.expanded))
        h = _product(u, block.up[:, part]) + block.up_bias[:, part]
        y = y + _product(jax.nn.silu(h), block.down[part])
    return y


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product with operands of the type of `b` and sums in float32."""
    precision = lax.Precision.HIGHEST if b.dtype == jnp.float32 else lax.Precision.DEFAULT
    return jnp.dot(a.astype(b.dtype), b, precision=precision, preferred_element_type=jnp.float32)


def _run(call: Call, x: jax.Array, block: Block) -> jax.Array:
    """Runs the kernel over the batch and blocks of rows; under vmap one call follows the other."""
    rows = call.rows(call.block(x.dtype.itemsize))
    y, blocks = pallas.output_like(x), -(-call.image[0] // rows.block)
    vector = lambda bias: bias.astype(jnp.float32)[None]
    block = Block(
        _diagonal(call, block.kernel),
        vector(block.kernel_bias),
        block.up,
        vector(block.up_bias),
        block.down,
        vector(block.down_bias),
    )

    @jax.custom_batching.sequential_vmap
    def run(x: jax.Array, block: Block) -> jax.Array:
        whole = lambda array: pl.BlockSpec(array.shape, lambda b, p: (0,) * array.ndim)
        return pallas.call(
            partial(_kernel, call, rows),
            out_shape=y,
            grid=(x.shape[0], blocks),
            in_specs=[rows.spec(x), jax.tree.map(whole, block)],
            out_specs=pl.BlockSpec((1, rows.block, *x.shape[2:]), lambda b, p: (b, p, 0, 0)),
            scratch_shapes=[pallas.vmem(call.padded(rows.block), jnp.float32)],
            compiler_params=pallas.tpu_params(('parallel', 'parallel'), call.memory),
            cost_estimate=_cost(call, x, block, rows, blocks),
            name='fused_block',
        )(pallas.in_hbm(x), jax.tree.map(pallas.in_hbm, block))

    return run(x, block)


def _cost(call: Call, x: jax.Array, block: Block, rows: Rows, blocks: int) -> object:
    """The cost of a kernel that reads the rows of every block and all weights, and writes the output."""
    pixels, channels = x.shape[0] * call.image[0] * call.image[1], call.channels
    taps = call.taps[0] * call.taps[1] * call.together
    read = x.shape[0] * blocks * rows.read * x.shape[2] * channels
    return pallas.CostEstimate(
        flops=2 * pixels * channels * (taps + 2 * call.expanded),
        transcendentals=pixels * call.expanded,
        bytes_accessed=x.dtype.itemsize * (read + x.size) + sum(w.size * w.dtype.itemsize for w in block),
    )
