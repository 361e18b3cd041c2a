"""Weight conditioning and weight normalization: rows of length 1, and what follows from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.conditioning import Conditioned, condition_number, conditioned
from longview.trees import by_path
from tests.methods.small import NET, RNG, SEEN, begun, supervised
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal


def test_rows_have_length_one_and_their_scale_does_not_matter():
    weight = NORMAL(size=(3, 3, 4, 6)).astype(np.float32)
    weight[..., 5] = 0
    scale = np.float32([0.1, 3, 7, 20, 1e3, 1])[None, None, None]

    @tiny.jit
    def run(weight, scaled, cotangent):
        once, pull = jax.vjp(conditioned, weight)
        return once, conditioned(scaled), conditioned(once), pull(cotangent)[0]

    once, of_scaled, twice, gradient = jax.device_get(run(weight, scale * weight, NORMAL(size=weight.shape)))
    np.testing.assert_allclose(np.linalg.norm(once.reshape(-1, 6), axis=0), [1, 1, 1, 1, 1, 0], rtol=1e-5)
    np.testing.assert_allclose(of_scaled, once, atol=1e-6)
    np.testing.assert_allclose(twice, once, atol=1e-6)
    assert np.abs(np.sum(gradient * weight, axis=(0, 1, 2))).max() < 1e-4 and np.isfinite(gradient).all()
    assert np.abs(gradient[..., :5]).max() > 0.1


def test_badly_scaled_rows_get_back_the_condition_of_the_matrix():
    plain = NORMAL(size=(64, 64)).astype(np.float32)
    scaled = plain * 10 ** np.random.default_rng(1).uniform(-2, 2, (1, 64)).astype(np.float32)
    whole, bad, mended, singular = jax.device_get(
        tiny.jit(lambda p, s: [condition_number(w) for w in (p, s, conditioned(s), jnp.ones((4, 3)))])(plain, scaled)
    )
    assert whole == pytest.approx(np.linalg.cond(plain), rel=1e-3)
    assert bad > 10 * whole and mended < 2 * whole
    assert 1e6 < singular < 1e7  # of rank 1


def test_a_network_sees_conditioned_kernels_and_weight_normalization_begins_with_its_own():
    plain = supervised(NET)
    task, normed = (Conditioned(plain, gain=gain, measured=True) for gain in (False, True))

    @tiny.jit
    def run():
        first, of_gain = task.init(RNG, SEEN), normed.init(RNG, SEEN)
        return (
            plain.init(RNG, SEEN).params,
            task.view(first).params,
            normed.view(of_gain).params,
            of_gain.params,
            task.report(first),
            normed.report(of_gain),
        )

    own, shown, same, parts, report, of_parts = jax.device_get(run())
    own, shown, same, parts = map(by_path, (own, shown, same, parts))
    kernel = 'backbone/stem/kernel'
    np.testing.assert_allclose(np.linalg.norm(shown[kernel].reshape(-1, 8), axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(parts[f'{kernel}/gain'], np.linalg.norm(own[kernel].reshape(-1, 8), axis=0), rtol=1e-5)
    for path, weight in own.items():
        np.testing.assert_allclose(same[path], weight, atol=1e-6)
        if path != kernel:
            np.testing.assert_array_equal(shown[path], weight)
    matrix = own[kernel].reshape(-1, 8)
    np.testing.assert_allclose(report['raw_condition'], np.linalg.cond(matrix), rtol=1e-3)
    np.testing.assert_allclose(report['condition'], np.linalg.cond(shown[kernel].reshape(-1, 8)), rtol=1e-3)
    for name, number in report.items():
        np.testing.assert_allclose(of_parts[name], number, rtol=1e-5)


def test_what_has_no_rows_is_refused():
    with pytest.raises(ValueError, match=r'backbone/norm/bias has shape \(8,\), which has no rows'):
        jax.eval_shape(Conditioned(supervised(NET), 'backbone/.*').init, RNG, SEEN)


def test_what_is_trained_is_deployed():
    task = Conditioned(supervised(NET))
    v = begun(task)
    network = task.deployed(v)['network']
    stem = network.variables['params']['backbone']['stem']['kernel']
    np.testing.assert_allclose(np.linalg.norm(np.asarray(stem).reshape(-1, 8), axis=0), 1, rtol=1e-5)
