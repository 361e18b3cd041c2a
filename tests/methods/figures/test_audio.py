"""Separated speech; tests/goldens has a published implementation's loss, permutation and gradient."""

import jax
import numpy as np

from longview.methods.figures import audio

RNG = np.random.default_rng(0)
SOURCE = RNG.normal(size=(2, 50, 3)).astype(np.float32)
NOISE = RNG.normal(size=SOURCE.shape).astype(np.float32)


@jax.jit
def separated(estimate, source, valid):
    mixture = source.sum(axis=-1)
    permutation = audio.best_permutation(audio.si_snr(estimate, source, valid))[1]
    gradient = jax.grad(lambda x: audio.separation_loss(x, source, valid).sum())(estimate)
    return audio.separation(estimate, source, mixture, valid), permutation, gradient


def in_decibel(estimate, source):
    """The ratio of the powers, for noise of mean 0 that is orthogonal to the source."""
    return 10 * np.log10(np.sum(source**2, axis=1) / np.sum(estimate**2, axis=1))


def test_the_ratio_is_that_of_the_powers_for_any_scale_mean_and_order():
    source = SOURCE - SOURCE.mean(axis=1, keepdims=True)
    noise = NOISE - NOISE.mean(axis=1, keepdims=True)
    noise -= source * (noise * source).sum(1, keepdims=True) / (source**2).sum(1, keepdims=True)
    order = [2, 0, 1]
    estimate = 7 * (source + 0.1 * noise)[:, :, order] + 3
    found, permutation, _ = jax.device_get(separated(estimate, SOURCE, np.ones((2, 50), bool)))
    np.testing.assert_array_equal(permutation, [order] * 2)
    np.testing.assert_allclose(found['si_snr'], in_decibel(0.1 * noise, source).mean(axis=1), rtol=1e-4)


def test_the_mixture_is_no_improvement():
    mixture = np.repeat(SOURCE.sum(axis=-1, keepdims=True), 3, axis=-1)
    found = jax.device_get(separated(mixture, SOURCE, np.ones((2, 50), bool))[0])
    np.testing.assert_allclose(found['si_snr_improvement'], 0, atol=1e-4)


def test_what_is_not_valid_has_neither_a_part_nor_a_gradient():
    estimate = SOURCE + NOISE
    valid = np.arange(50)[None] < np.asarray([[50], [30]])
    whole = jax.device_get(separated(estimate, SOURCE, np.ones((2, 50), bool))[0])
    cut = (x[1:, :30] for x in (estimate, SOURCE, SOURCE.sum(axis=-1)))
    short = jax.device_get(jax.jit(audio.separation)(*cut))
    filled = lambda x: np.where(valid[..., None], x, np.float32(1e3))
    found, _, gradient = jax.device_get(separated(filled(estimate), filled(SOURCE), valid))
    for name, values in found.items():
        np.testing.assert_allclose(values, [whole[name][0], short[name][0]], rtol=1e-4, atol=1e-4)
    assert np.isfinite(gradient).all() and not gradient[1, 30:].any() and gradient[1, :30].all()
