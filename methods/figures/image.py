"""Restored images against the true ones: PSNR and SSIM, one number an image, so that their means leave padding out.

Images are floats in 0 ... 1, channels last. Restoration papers differ in what they compare, which is said by composing:

    psnr(restored, true, border=scale)                              # RGB
    psnr(luma(quantize(restored)), luma(true), border=scale)        # Y, of what an 8-bit file keeps

Published figures are means over images of each one's figure, as `Task.score` takes them. References: of PSNR and
`quantize` https://github.com/sanghyun-son/EDSR-PyTorch (MIT), src/utility.py; of SSIM
https://github.com/XPixelGroup/BasicSR (Apache-2.0), basicsr/metrics/psnr_ssim.py.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# ITU-R BT.601 as MATLAB's rgb2ycbcr has it, in 255ths.
_LUMA, _BLACK = np.asarray([65.481, 128.553, 24.966], np.float32) / 255, np.float32(16 / 255)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def quantize(image: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Returns what is left of an image in a file of 8 bits a channel."""
    return jnp.round(jnp.clip(image, 0, 1) * 255) / 255


def luma(image: Float[Array, 'b h w 3']) -> Float[Array, 'b h w 1']:
    """Returns Y of ITU-R BT.601 for RGB, from 16 / 255 for black to 235 / 255 for white, as restoration papers do."""
    # Summed by hand: a matrix product would be of bfloat16 on some devices.
    return jnp.sum(image * _LUMA[None, None, None], axis=-1, keepdims=True) + _BLACK


def psnr(restored: Float[Array, 'b h w c'], true: Float[Array, 'b h w c'], *, border: int = 0) -> Float[Array, ' b']:
    """Returns the peak signal-to-noise ratio in dB, for a peak of 1; infinity where two images are equal.

    Args:
        restored, true: images in 0 ... 1.
        border: how many pixels are cut off at each side.
    """
    error = _cut(restored, border) - _cut(true, border)
    return -10 * jnp.log10(jnp.mean(error**2, axis=(1, 2, 3)))


def ssim(restored: Float[Array, 'b h w c'], true: Float[Array, 'b h w c'], *, border: int = 0) -> Float[Array, ' b']:
    """Returns the structural similarity, up to 1, as the mean over channels and over the windows inside of the image.

    Wang et al., 2004, https://doi.org/10.1109/TIP.2003.819861: windows of 11 x 11 with Gaussian weights of sigma 1.5,
    constants 0.01^2 and 0.03^2.

    Args:
        restored, true: images in 0 ... 1, with at least 11 x 11 pixels inside of the border.
        border: how many pixels are cut off at each side.

    Raises:
        ValueError: the images are smaller.
    """
    x, y = _cut(restored, border), _cut(true, border)
    if min(x.shape[1:3]) < _WINDOW:
        raise ValueError(
            f'ssim of {x.shape[1]} x {x.shape[2]} pixels: its windows are {_WINDOW} x {_WINDOW}; use larger images, or '
            'a smaller border.'
        )
    # Variances are differences of squares: around the image's mean these are smallest, and float32 keeps their digits.
    middle = jnp.mean(y, axis=(1, 2), keepdims=True)
    x, y = x - middle, y - middle
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + middle, mean_y + middle
    light = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return jnp.mean(light * structure, axis=(1, 2, 3))


def _cut(image: Array, border: int) -> Array:
    return image[:, border : image.shape[1] - border, border : image.shape[2] - border].astype(jnp.float32)


def _blurred(x: Array) -> Array:
    """Returns the means of all windows, as shifted sums: a convolution would be of bfloat16 on some devices."""
    place = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(place**2) / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    high, wide = (size - _WINDOW + 1 for size in x.shape[1:3])
    x = sum(weight * x[:, i : i + high] for i, weight in enumerate(weights))
    return sum(weight * x[:, :, i : i + wide] for i, weight in enumerate(weights))
