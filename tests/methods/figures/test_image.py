"""PSNR and SSIM of colours against scikit-image; of luma, tests/goldens has a published implementation's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.figures import image


def pair():
    rng = np.random.default_rng(0)
    true = rng.random((2, 24, 20, 3)).astype(np.float32)
    noise = rng.normal(size=true.shape).astype(np.float32) * np.float32(0.1)
    return (true * np.float32(0.8) + np.float32(0.1) + noise).astype(np.float32), true


@functools.partial(jax.jit, static_argnames='border')
def figures(restored, true, border):
    return {name: getattr(image, name)(restored, true, border=border) for name in ('psnr', 'ssim')}


# peak_signal_noise_ratio(data_range=1) and structural_similarity(gaussian_weights=True, sigma=1.5, data_range=1,
# use_sample_covariance=False, channel_axis=-1) of scikit-image 0.26.0 for `pair`, by the border cut off.
SCIKIT_IMAGE = {
    0: {'psnr': [18.639950413949315, 18.773969815614336], 'ssim': [0.9057023608074254, 0.8989684310734049]},
    3: {'psnr': [18.692336150551494, 18.583785989323612], 'ssim': [0.916465260659234, 0.8847131693641016]},
}


@pytest.mark.parametrize('border', SCIKIT_IMAGE)
def test_figures_are_scikit_images(border):
    found = jax.device_get(figures(*pair(), border))
    for name, wanted in SCIKIT_IMAGE[border].items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5)


def test_an_image_does_not_count_for_another_one():
    restored, true = pair()
    alone = jax.device_get(figures(restored, true, 0))
    restored[1] = np.nan
    found = jax.device_get(figures(restored, true, 0))
    for name, values in found.items():
        assert values[0] == alone[name][0] and np.isnan(values[1])


def test_flat_and_bright_images_keep_their_digits():
    """A hair's noise on white: float32 without the mean taken off first loses the variance, about 1e-7."""
    rng = np.random.default_rng(1)
    true = (0.99 + 1e-3 * rng.normal(size=(1, 24, 20, 1))).astype(np.float32)
    restored = (true + 1e-3 * rng.normal(size=true.shape)).astype(np.float32)
    exact = float(_ssim_in_float64(restored[0, ..., 0], true[0, ..., 0]))
    np.testing.assert_allclose(figures(restored, true, 0)['ssim'], [exact], atol=1e-6)
    same = jax.device_get(figures(true, true, 0))
    assert same['psnr'] == np.inf
    np.testing.assert_allclose(same['ssim'], 1, rtol=1e-6)


def _ssim_in_float64(x, y):
    weights = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    mean = lambda z: np.sum(np.lib.stride_tricks.sliding_window_view(z, (11, 11)) * weights, axis=(2, 3))
    x, y = x.astype(np.float64), y.astype(np.float64)
    light = (2 * mean(x) * mean(y) + 1e-4) / (mean(x) ** 2 + mean(y) ** 2 + 1e-4)
    covariance = mean(x * y) - mean(x) * mean(y)
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    return np.mean(light * (2 * covariance + 9e-4) / (variances + 9e-4))


def test_luma_goes_from_16_to_235():
    found = jax.jit(image.luma)(np.repeat(np.float32([0, 1]), 3).reshape(2, 1, 1, 3))
    np.testing.assert_allclose(jax.device_get(found).ravel() * 255, [16, 235], rtol=1e-6)


def test_eight_bits_are_kept():
    kept = jax.jit(image.quantize)(np.float32([-0.1, 0.1, 1.2]).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(jax.device_get(kept).ravel(), [0, 26 / 255, 1], rtol=1e-6)


def test_windows_do_not_fit_into_a_smaller_image():
    small = jnp.zeros((1, 12, 30, 3))
    with pytest.raises(ValueError, match='ssim of 10 x 28 pixels: its windows are 11 x 11'):
        image.ssim(small, small, border=1)
