"""Convolution of images in the frequency domain, in plain XLA: products with matrices on every platform.

Only the inputs are kept for the gradients; spectra are recomputed. Second derivatives are supported.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.long_conv2d.transforms import Grid

Spectrum = Float[Array, 'b q 2 k c']


def filtered(x: Float[Array, 'b h w c'], spectrum: Float[Array, 'q 2 k c'], grid: Grid) -> Float[Array, 'b h w c']:
    """Multiplies the spectra of all images by one spectrum."""
    return _filtered(grid, x, spectrum[None])


def convolve(
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'i j c'] | Float[Array, 'b i j c'],
    grid: Grid,
) -> Float[Array, 'b h w c']:
    """See `reference.convolve`; whether the convolution is circular depends on the periods of the grid."""
    return _convolve(grid, x, kernel)


@partial(jax.checkpoint, static_argnums=0)
def _filtered(grid: Grid, x: jax.Array, spectrum: jax.Array) -> jax.Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    z = _dot('bqrhc,rhsk->bqskc', _dot('bhwc,wqr->bqrhc', x, grid.columns()), grid.rows())
    z = times(z, spectrum.astype(x.dtype))
    z = _dot('bqskc,skrh->bqrhc', z, grid.rows_back())
    return _dot('bqrhc,qrw->bhwc', z, grid.columns_back())


@partial(jax.checkpoint, static_argnums=0)
def _convolve(grid: Grid, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _filtered(grid, x, of_kernel(grid, kernel))


def of_kernel(grid: Grid, kernel: jax.Array) -> Spectrum:
    """Returns the spectrum of a kernel; the batch axis has size 1 if all images share the kernel."""
    kernel = kernel if kernel.ndim == 4 else kernel[None]
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    _, rows, columns, _ = kernel.shape
    z = _dot('bhwc,wqr->bqrhc', kernel, grid.columns(columns, grid.origin[1]))
    return _dot('bqrhc,rhsk->bqskc', z, grid.rows(rows, grid.origin[0]))


def times(x: jax.Array, spectrum: jax.Array) -> jax.Array:
    """The complex product of arrays whose third axis is real and imaginary part."""
    (a, b), (c, d) = ((z[:, :, 0], z[:, :, 1]) for z in (x, spectrum))
    return jnp.stack([a * c - b * d, a * d + b * c], axis=2)


def _dot(form: str, x: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.einsum(form, x, jnp.asarray(matrix, x.dtype), precision=lax.Precision.HIGHEST)
