"""Convolution of images as the direct sum over taps: the definition against which the fast forms are tested.

In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.long_conv2d.transforms import Grid


def convolve(
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'i j c'] | Float[Array, 'b i j c'],
    grid: Grid,
    circular: bool,
) -> Float[Array, 'b h w c']:
    """`sum_ij kernel[i, j] x[h + oh - i, w + ow - j]` for an origin (oh, ow)."""
    wide = jnp.result_type(float)
    batch, height, width, channels = x.shape
    kernel = kernel if kernel.ndim == 4 else kernel[None]
    rows, columns = kernel.shape[1:3]
    taps = jnp.moveaxis(kernel.reshape(-1, rows * columns, channels), 1, 0).astype(wide)
    at = jnp.arange(rows * columns)
    up, left = at // columns - grid.origin[0], at % columns - grid.origin[1]
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None]

    def add(total: jax.Array, tap: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        weight, up, left = tap
        read = jnp.roll(x.astype(wide), (up, left), axis=(1, 2))
        inside = (row >= up) & (row - up < height) & (column >= left) & (column - left < width)
        read = read if circular else jnp.where(inside[None, :, :, None], read, 0)
        return total + weight[:, None, None] * read, None

    return lax.scan(add, jnp.zeros(x.shape, wide), (taps, up, left))[0]


def filtered(x: Float[Array, 'b h w c'], spectrum: Float[Array, 'q 2 k c'], grid: Grid) -> Float[Array, 'b h w c']:
    """The circular convolution with the kernel that has this spectrum."""
    wide = jnp.result_type(float)
    rows, columns = grid.rows_back(), grid.columns_back()
    kernel = jnp.einsum('qrkc,rksh->qshc', spectrum.astype(wide), jnp.asarray(rows, wide))
    kernel = jnp.einsum('qshc,qsw->hwc', kernel, jnp.asarray(columns, wide))
    return convolve(x, kernel, grid, True)
