"""A learned filter between the Fourier transform of an image and its inverse.

Rao et al., 2021, "Global Filter Networks for Image Classification", https://arxiv.org/abs/2107.00645.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.long_conv2d import global_filter
from longview.modelzoo.layers import init


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
        return global_filter(x.astype(jnp.float32), kernel)


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


def _einsum(form: str, x: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum(form, x, jnp.asarray(matrix, jnp.float32), precision=lax.Precision.HIGHEST)
