"""The convolution of images as Pallas kernels for TPUs that fuse transform, product and inverse transform.

No code was taken from others. The spectrum of an image stays in VMEM. For each block of channels and each image the
grid goes over chunks of column frequencies, and loads the corresponding part of the kernel's spectrum meanwhile. All
rows are transformed along their columns before the first chunk, and transformed back after the last one.

The op is linear: the cotangent of an image is computed by the same kernel with transposed matrices and the conjugated
spectrum; the cotangent of the spectrum is a product of two spectra.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from longview.kernels import dispatch, pallas
from longview.kernels.long_conv2d import xla
from longview.kernels.long_conv2d.transforms import Grid

_LANES = 128
_CHUNK = 8  # column frequencies
_MEMORY = 13 * 2**20  # bytes for the images and spectra of a step, of the 16 MiB of a v4


class Plan(NamedTuple):
    """Static arguments; dtype: type of the operands of products."""

    grid: Grid
    dtype: DTypeLike

    @property
    def columns(self) -> int:
        """The number of columns, padded to whole registers of both types."""
        return pallas.round_up(self.grid.size[1], 16)

    @property
    def half(self) -> int:
        return pallas.round_up(self.grid.half, _CHUNK)

    def matrices(self) -> dict[str, np.ndarray]:
        """Returns the transforms along columns and rows and their inverses, by name, with zeros for padding."""
        grid = self.grid
        (height, width), (rows, _) = grid.size, grid.period
        more, wider = self.half - grid.half, self.columns - width
        there = np.pad(grid.columns(), ((0, wider), (0, more), (0, 0)))
        back = np.pad(grid.columns_back(), ((0, more), (0, 0), (0, wider)))
        return {
            'columns': there.transpose(2, 1, 0).reshape(2 * self.half, self.columns),
            'columns_back': back.transpose(2, 1, 0).reshape(self.columns, 2 * self.half),
            'rows': grid.rows().reshape(2 * height, 2 * rows).T,
            'rows_back': grid.rows_back().reshape(2 * rows, 2 * height).T,
        }


def filtered(x: jax.Array, spectrum: jax.Array, *, grid: Grid) -> jax.Array:
    """See `xla.filtered`."""
    return _padded(grid, x.dtype == spectrum.dtype == jnp.bfloat16, x, spectrum[None])


def convolve(x: jax.Array, kernel: jax.Array, *, grid: Grid) -> jax.Array:
    """See `xla.convolve`."""
    narrow = x.dtype == kernel.dtype == jnp.bfloat16
    return _padded(grid, narrow, x, xla.of_kernel(grid, kernel))


def missing(grid: Grid, u: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((u, *others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    plan = Plan(grid, jnp.float32)
    images, spectra = 4 * grid.size[0] * plan.columns, 2 * grid.size[0] * 2 * plan.half
    if 4 * _LANES * (images + spectra) > _MEMORY:
        return f'images of {grid.size} with periods {grid.period} do not fit into the vector memory'
    return None


def _padded(grid: Grid, narrow: bool, x: jax.Array, spectrum: jax.Array) -> jax.Array:
    """Pads channels, columns and frequencies; the layout of a spectrum is (.., 2, k, q, C) here."""
    plan = Plan(grid, jnp.bfloat16 if narrow else jnp.float32)
    _, height, width, channels = x.shape
    lanes = pallas.round_up(channels, _LANES) - channels
    x = jnp.pad(x, ((0, 0), (0, 0), (0, plan.columns - width), (0, lanes)))
    spectrum = spectrum.astype(jnp.float32).transpose(0, 2, 3, 1, 4)
    more = plan.half - grid.half
    spectrum = jnp.pad(spectrum, ((0, 0), (0, 0), (0, 0), (0, more), (0, lanes)))
    return _filtered(plan, x, spectrum)[:, :, :width, :channels]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _filtered(plan: Plan, x: jax.Array, spectrum: jax.Array) -> jax.Array:
    return _call(plan, _product, plan.matrices(), {'x': x, 'spectrum': spectrum})


def _filtered_forward(plan: Plan, *inputs: jax.Array) -> tuple[jax.Array, tuple]:
    return _filtered(plan, *inputs), inputs


def _filtered_backward(plan: Plan, inputs: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, spectrum = inputs
    there = plan.matrices()
    names = {'columns': 'columns_back', 'columns_back': 'columns'}
    names |= {'rows': 'rows_back', 'rows_back': 'rows'}
    back = {name: there[other].T for name, other in names.items()}
    conjugated = spectrum * jnp.asarray([1.0, -1.0], spectrum.dtype).reshape(1, 2, 1, 1, 1)
    dx = _call(plan, _product, back, {'x': dy, 'spectrum': conjugated})
    both = {'columns': there['columns'], 'rows': there['rows']}
    both |= {'columns_dy': back['columns'], 'rows_dy': back['rows']}
    dspectrum = _call(plan, _correlation, both, {'x': x, 'dy': dy})
    if len(spectrum) == 1:
        dspectrum = jnp.sum(dspectrum, axis=0, keepdims=True)
    return dx.astype(x.dtype), dspectrum


_filtered.defvjp(_filtered_forward, _filtered_backward)


def _call(plan: Plan, kernel: Callable, matrices: dict, ins: dict) -> jax.Array:
    """Runs a kernel. Under vmap the calls run one after the other."""

    @jax.custom_batching.sequential_vmap
    def alone(ins: dict) -> jax.Array:
        return _run(plan, kernel, matrices, ins)

    return alone(ins)


def _run(plan: Plan, kernel: Callable, matrices: dict, ins: dict) -> jax.Array:
    batch, height, columns, channels = ins['x'].shape
    constants = {name: jnp.asarray(x, plan.dtype) for name, x in matrices.items()}
    memory = pallas.vmem((height, 2 * plan.half, _LANES), jnp.float32)
    if kernel is _product:
        shape, dtype = ins['x'].shape, ins['x'].dtype
    else:
        shape, dtype = (batch, 2, plan.grid.period[0], plan.half, channels), jnp.float32
    out = pallas.output(shape, dtype, ins['x'])
    whole = {name: pl.BlockSpec(x.shape, lambda d, b, n: (0, 0)) for name, x in constants.items()}
    return pallas.call(
        partial(kernel, plan),
        out_shape=out,
        grid=(channels // _LANES, batch, plan.half // _CHUNK),
        in_specs=[{name: _spec(x.shape) for name, x in ins.items()} | whole],
        out_specs=_spec(shape),
        scratch_shapes=[memory] * (1 if kernel is _product else 2),
        compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary')),
        cost_estimate=_cost(plan, ins, constants, out),
        name=f'long_conv2d{kernel.__name__}',
    )(jax.tree.map(pallas.in_hbm, ins) | constants)


def _spec(shape: tuple[int, ...]) -> pl.BlockSpec:
    """The block of an array: an image, or a chunk of a spectrum, which images may share."""
    if len(shape) == 4:
        return pl.BlockSpec((1, *shape[1:3], _LANES), lambda d, b, n: (b, 0, 0, d))
    count = shape[0]
    block = (1, 2, shape[2], _CHUNK, _LANES)
    return pl.BlockSpec(block, lambda d, b, n: (b % count, 0, 0, n, d))


def _product(plan: Plan, ins: dict, out: Any, memory: Any) -> None:
    chunk = pl.program_id(2)
    pl.when(chunk == 0)(partial(_along_columns, plan, ins['columns'], ins['x'], memory))
    a, b = _along_rows(plan, ins['rows'], memory, chunk)
    c, d = ins['spectrum'][0]
    z = jnp.concatenate([a * c - b * d, a * d + b * c])
    z = pallas.dot_constant(ins['rows_back'], z.reshape(z.shape[0], -1), plan.dtype)
    for part, place in zip(z.reshape(2, memory.shape[0], _CHUNK, _LANES), _halves(plan, chunk)):
        memory[:, place, :] = part

    @pl.when(chunk == plan.half // _CHUNK - 1)
    def _() -> None:
        def row(h: Any, _: None) -> None:
            out[0, h] = pallas.dot_constant(ins['columns_back'], memory[h], plan.dtype).astype(out.dtype)

        lax.fori_loop(0, memory.shape[0], row, None)


def _correlation(plan: Plan, ins: dict, out: Any, of_x: Any, of_dy: Any) -> None:
    chunk = pl.program_id(2)
    for name, x, memory in (('columns', 'x', of_x), ('columns_dy', 'dy', of_dy)):
        pl.when(chunk == 0)(partial(_along_columns, plan, ins[name], ins[x], memory))
    a, b = _along_rows(plan, ins['rows'], of_x, chunk)
    c, d = _along_rows(plan, ins['rows_dy'], of_dy, chunk)
    out[0, 0] = a * c + b * d
    out[0, 1] = a * d - b * c


def _along_columns(plan: Plan, matrix: Any, x: Any, memory: Any) -> None:
    def row(h: Any, _: None) -> None:
        memory[h] = pallas.dot_constant(matrix, x[0, h], plan.dtype)

    lax.fori_loop(0, memory.shape[0], row, None)


def _along_rows(plan: Plan, matrix: Any, memory: Any, chunk: Any) -> jax.Array:
    """Returns (2, k, chunk, lanes), real and imaginary part."""
    z = jnp.concatenate([memory[:, place, :] for place in _halves(plan, chunk)])
    z = pallas.dot_constant(matrix, z.reshape(z.shape[0], _CHUNK * _LANES), plan.dtype)
    return z.reshape(2, -1, _CHUNK, _LANES)


def _halves(plan: Plan, chunk: Any) -> tuple[Any, Any]:
    """Returns the slices of the memory with the real and the imaginary parts of a chunk."""
    start = pl.multiple_of(chunk * _CHUNK, _CHUNK)
    return tuple(pl.ds(n * plan.half + start, _CHUNK) for n in range(2))


def _cost(plan: Plan, ins: dict, constants: dict, out: Any) -> object:
    """The cost of the matrix products and of the transfer of blocks."""
    batch, height, columns, channels = ins['x'].shape
    along = 2 * height * 2 * plan.half * columns + 2 * plan.half * 4 * height * plan.grid.period[0]
    bytes_of = lambda x: x.size * x.dtype.itemsize
    moved = sum(map(bytes_of, (*ins.values(), *constants.values()))) + bytes_of(out)
    if 'spectrum' in ins:
        moved += bytes_of(ins['spectrum']) * (batch // ins['spectrum'].shape[0] - 1)
    flops = 2 * along * batch * channels
    return pallas.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved)
