"""The Fourier transform of real images as products of small matrices, and a learned filter between it and its inverse.

Rao et al., 2021, "Global Filter Networks for Image Classification", https://arxiv.org/abs/2107.00645.

Not `jnp.fft`: XLA gathers a batch that is sharded to transform it, and on a TPU compiles transforms for minutes. At the
sizes of feature maps (14x14) the products cost less than a 7x7 depthwise convolution of as many channels.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from modelzoo.layers import init


class GlobalFilter(nn.Module):
    """``irfft2(rfft2(x) * kernel)``, orthonormal transforms, one complex number a frequency and channel.

    The kernel is stored as (columns, 2, rows, channels), of which 2 are the real and the imaginary part.

    Attributes:
        image: height and width of the map that the kernel is for. For another one it is resized linearly, its corners
            on corners.
    """

    image: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Filters each channel, in float32."""
        height, width = self.image
        kernel = self.param('kernel', init.trunc_normal(0.02), (width // 2 + 1, 2, height, x.shape[-1]))
        kernel = resize(kernel, (x.shape[2] // 2 + 1, x.shape[1]))
        return inverse(product(transform(x.astype(jnp.float32)), kernel), x.shape[2])


def transform(x: Float[Array, 'b h w c']) -> Float[Array, 'b q 2 k c']:
    """Returns the orthonormal ``rfft2`` as real and imaginary parts, columns first."""
    columns = np.fft.rfft(np.eye(x.shape[2]), norm='ortho')
    x = _einsum('bhwc,wqr->bqrhc', x, np.stack([columns.real, columns.imag], -1))
    return _einsum('bqrhc,hkrs->bqskc', x, _complex(np.fft.fft(np.eye(x.shape[3]), norm='ortho')))


def inverse(spectrum: Float[Array, 'b q 2 k c'], width: int) -> Float[Array, 'b h w c']:
    """Returns the orthonormal ``irfft2`` of what `transform` makes of `width` columns."""
    rows = np.fft.ifft(np.eye(spectrum.shape[3]), norm='ortho')
    x = _einsum('bqskc,khsr->bqrhc', spectrum, _complex(rows))
    units = np.eye(spectrum.shape[1])
    columns = np.stack([np.fft.irfft(units * unit, width, norm='ortho') for unit in (1, 1j)], 1)
    return _einsum('bqrhc,qrw->bhwc', x, columns)


def product(x: Float[Array, 'b q 2 k c'], kernel: Float[Array, 'q 2 k c']) -> Float[Array, 'b q 2 k c']:
    """Returns the product of complex numbers."""
    (a, b), (c, d) = (x[:, :, 0], x[:, :, 1]), (kernel[None, :, 0], kernel[None, :, 1])
    return jnp.stack([a * c - b * d, a * d + b * c], axis=2)


def resize(kernel: Float[Array, 'q 2 k c'], size: tuple[int, int]) -> Float[Array, 'q2 2 k2 c']:
    """Returns a kernel of other columns and rows: torch's bilinear interpolation with ``align_corners=True``."""
    if size == (kernel.shape[0], kernel.shape[2]):
        return kernel
    columns, rows = (aligned_matrix(*sides) for sides in zip((kernel.shape[0], kernel.shape[2]), size))
    return _einsum('qrhc,hk->qrkc', _einsum('qrkc,qp->prkc', kernel, columns.T), rows.T)


def aligned_matrix(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the weights of `source` points in each of `target` points, both ends on ends."""
    position = np.linspace(0, source - 1, target)
    return np.maximum(0, 1 - abs(position[:, None] - np.arange(source)[None]))


def _complex(matrix: np.ndarray) -> np.ndarray:
    """Returns (h, k) complex as (h, k, 2, 2): what it does to real and imaginary parts."""
    real, imaginary = matrix.real, matrix.imag
    return np.stack([np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)], -2)


def _einsum(form: str, x: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum(form, x, jnp.asarray(matrix, jnp.float32), precision=lax.Precision.HIGHEST)
