"""Random colours: saturation is that of hue, saturation and value; what is drawn, in which order, and by what key."""

import colorsys
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.color import ColorDistortion, saturated
from tests.modelzoo import tiny

KEY = jax.random.key(3)
SIZE = 256


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def batch_of(image: np.ndarray) -> dict[str, jax.Array]:
    rows = np.arange(len(image), dtype=np.int32)
    return {'image': jnp.asarray(image), 'epoch': jnp.zeros_like(rows), 'index': jnp.asarray(rows)}


@pytest.mark.parametrize('factor', [0.0, 0.5, 1.0, 1.5])
def test_saturation_is_that_of_hue_saturation_and_value(factor):
    image = np.concatenate([pixels(60), [[0, 0, 0], [7, 7, 7], [255, 0, 0], [255, 255, 255]]]).astype(np.float32)
    found = jax.device_get(tiny.jit(saturated)(image, factor))
    for before, after in zip(image / 255, found / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
        wanted = colorsys.hsv_to_rgb(hue, min(1, saturation * factor), value)
        np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_what_darkening_took_below_zero_becomes_gray_or_fully_saturated():
    dark = jnp.asarray([[-20.0, -3.0, -5.0], [40.0, 10.0, -10.0]])
    found = jax.device_get(tiny.jit(saturated)(dark, 1.5))
    np.testing.assert_allclose(found[0], -3)
    np.testing.assert_allclose(found[1], [40, 16, 0], atol=1e-4)  # distances of 30 and 50 shrink to 24 and 40


def test_amounts_and_their_order_are_drawn_for_each_example():
    """Of a pixel in the middle of the range, three channels say how much was drawn and what came first."""
    image = np.broadcast_to(np.uint8([140, 130, 120]), (SIZE, 2, 1, 3))
    found = jax.device_get(tiny.jit(ColorDistortion())(batch_of(image), KEY))['image']
    assert found.dtype == np.float32 and np.ptp(found, axis=1).max() == 0
    shift = found[:, 0, 0, 0] - 140
    factor = (found[:, 0, 0, 0] - found[:, 0, 0, 2]) / 20
    assert -32 <= shift.min() < -28 and 28 < shift.max() <= 32 and abs(shift.mean()) < 4
    assert 0.5 <= factor.min() < 0.55 and 1.45 < factor.max() <= 1.5001 and abs(factor.mean() - 1) < 0.06


def test_brightness_is_first_in_a_quarter():
    """A dark and saturated pixel tells the orders apart in most examples."""
    batch = batch_of(np.broadcast_to(np.uint8([20, 10, 0]), (SIZE, 1, 1, 3)))
    run = tiny.jit(lambda batch: [ColorDistortion(brightness_first=share)(batch, KEY) for share in (0.0, 0.25, 1.0)])
    never, quarter, always = (made['image'][:, 0, 0] for made in jax.device_get(run(batch)))
    apart = np.abs(never - always).max(axis=-1) > 0.01
    first = (quarter[apart] == always[apart]).all(axis=-1)
    assert apart.sum() > SIZE // 3 and 0.15 < first.mean() < 0.35
    np.testing.assert_array_equal(quarter[apart][~first], never[apart][~first])


def test_an_example_is_distorted_alike_at_any_place_and_otherwise_in_another_epoch():
    run, batch = tiny.jit(ColorDistortion()), batch_of(pixels(6, 4, 4))
    image = jax.device_get(run(batch, KEY)['image'])
    turned = jax.device_get(run({name: value[::-1] for name, value in batch.items()}, KEY)['image'])
    np.testing.assert_array_equal(turned, image[::-1])
    later = jax.device_get(run(batch | {'epoch': batch['epoch'] + 1}, KEY)['image'])
    assert (np.abs(later - image).max(axis=(1, 2, 3)) > 1).all()


def test_gray_images_are_refused():
    words = 'ColorDistortion got images of 1 channels and wants red, green and blue'
    with pytest.raises(ValueError, match=re.escape(words)):
        ColorDistortion()(batch_of(np.zeros((1, 2, 2, 1), np.uint8)), KEY)
