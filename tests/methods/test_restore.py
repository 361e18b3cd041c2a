"""Restoration by regression: the terms of its loss, sizes that are compared, its figures, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods.generate.disturbed import AddNoise
from longview.methods.restore.regress import TERMS, Regress, shrunk
from longview.methods.task import chain, init_state, make_step
from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from tests.modelzoo import tiny

RNG, STEP = jax.random.key(0), jnp.int32(0)
IMAGES = np.random.default_rng(0).random((8, 8, 8, 1)).astype(np.float32)
BATCH = {'image': IMAGES, 'epoch': np.zeros(8, np.int32), 'index': np.arange(8, dtype=np.int32)}
BATCH = jax.tree.map(jnp.asarray, BATCH)


class Same(ft.Restorer):
    """An image of half the size, and one times a number, plus a convolution that begins at 0."""

    def setup(self):
        zeros = jax.nn.initializers.zeros
        self.conv = Conv(1, 3, 1, 1, kernel_init=zeros, bias_init=zeros)

    def __call__(self, x, *, train=False):
        return x[:, ::2, ::2], x + self.conv(x)


TASK = Regress(Same(), {'charbonnier': 1.0, 'spectral': 0.1}, AddNoise(0.2))
TASK_OF_PAIRS = Regress(Same(), {'absolute': 2.0, 'squared': 1.0})


def test_terms_are_what_they_say():
    d = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    found = {name: np.asarray(term(jnp.asarray(d))).mean() for name, term in TERMS.items()}
    spectrum = np.fft.fft2(d.astype(np.float64), axes=(1, 2))
    wanted = {
        'absolute': np.abs(d).mean(),
        'squared': (d**2).mean(),
        'charbonnier': np.sqrt(d.astype(np.float64) ** 2 + 1e-6).mean(),
        'spectral': (np.abs(spectrum.real) + np.abs(spectrum.imag)).mean(),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_each_image_is_compared_in_its_own_size_and_pairs_need_no_degradation():
    task = TASK_OF_PAIRS
    batch = BATCH | {'target': BATCH['image'][::-1], 'row': jnp.arange(8), 'mask': jnp.arange(8) < 5}

    @tiny.jit
    def run(batch):
        v = task.init(RNG, batch)
        return task.loss(v, batch, RNG, STEP)[0], task.measure(v, batch, None, RNG), task.predict(v, batch)

    loss, sums, predicted = jax.device_get(run(batch))
    x, y = IMAGES, IMAGES[::-1]
    differences = [x[:, ::2, ::2] - np.asarray(shrunk(jnp.asarray(y), (4, 4))), x - y]
    each = sum((2 * np.abs(d) + d**2).mean((1, 2, 3)) for d in differences)
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)
    figures = task.figures(sums, {})
    psnr = -10 * np.log10(((x - y) ** 2).mean((1, 2, 3)))[:5].mean()
    np.testing.assert_allclose(figures['loss'], each[:5].mean(), rtol=1e-5)
    np.testing.assert_allclose([figures['psnr'], figures['psnr_degraded']], psnr, rtol=1e-5)
    np.testing.assert_array_equal(predicted['pixels'], x)


def test_noise_is_drawn_anew_in_each_step_and_alike_in_microbatches():
    tx = optax.sgd(0.1)

    @tiny.jit
    def run():
        first = init_state(TASK, tx, RNG, BATCH, chain(()))
        step = lambda state, parts: make_step(TASK, tx, transform=chain(()), accumulate=parts)(state, BATCH, RNG)[0]
        second = step(first, 1)
        losses = [
            TASK.loss(first.variables, BATCH | {'row': jnp.arange(8)}, jax.random.key(n), STEP)[0] for n in (1, 2)
        ]
        return step(second, 1).variables, step(second, 4).variables, losses

    whole, parts, losses = jax.device_get(run())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)
    assert losses[0] != losses[1] and any(leaf.any() for leaf in jax.tree.leaves(whole.params))


def test_pictures_are_enlarged():
    shown = TASK.pictures(TASK.init(RNG, BATCH), BATCH)
    assert {name: x.shape for name, x in shown.items()} == dict.fromkeys(
        ('degraded', 'restored', 'target'), (8, 128, 128, 1)
    )


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"terms has \['sqared'\]: give weights of absolute, squared, charbonnier"):
        Regress(Same(), {'sqared': 1.0})
    with pytest.raises(ValueError, match='terms has nothing'):
        Regress(Same(), {})
    with pytest.raises(TypeError, match=r'Regress needs a Restorer \(images as they were from degraded ones\)'):
        Regress(Conv(1, 3), {'absolute': 1.0})
    with pytest.raises(ValueError, match="has no 'target', only .*give a transform that degrades images"):
        TASK_OF_PAIRS.loss(TASK_OF_PAIRS.init(RNG, BATCH), BATCH | {'row': jnp.arange(8)}, RNG, STEP)
