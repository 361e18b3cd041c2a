"""Chains of layers of random features as one bundle, and layers fitted to what a trained network does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.prune.bundle import bundled, fitted, run
from longview.modelzoo.layers.snnk import ReluSnnk
from tests.modelzoo.tiny import jit

NORMAL = np.random.default_rng(0).normal


def _matrix(*shape):
    return jnp.asarray(NORMAL(size=shape), jnp.float32)


def test_a_bundle_of_two_layers_and_a_head_is_what_they_compute():
    x, layers = _matrix(5, 12), [ReluSnnk(20, 6, -0.5), ReluSnnk(16, 7, -0.5)]
    params = [{'projection': _matrix(6, 12), 'kernel': _matrix(6, 20)}]
    params += [{'projection': _matrix(7, 20), 'kernel': _matrix(7, 16)}]
    head = {'kernel': _matrix(16, 3), 'bias': _matrix(3)}

    @jit
    def both(params, head):
        y = x
        for layer, own in zip(layers, params):
            y = layer.apply({'params': own}, y)
        whole = bundled(params, head)
        return y @ head['kernel'] + head['bias'][None], run(whole, x, -0.5), whole, y, run(bundled(params), x, -0.5)

    wanted, found, whole, hidden, without_head = jax.device_get(both(params, head))
    np.testing.assert_allclose(found, wanted, atol=1e-5 * abs(wanted).max())
    np.testing.assert_allclose(without_head, hidden, atol=1e-5 * abs(hidden).max())
    assert [projection.shape for projection in whole.projections] == [(6, 12), (7, 6)]
    assert whole.kernel.shape == (7, 3)


def test_layers_are_fitted_to_recorded_activations():
    x, first, second = _matrix(400, 6), _matrix(6, 8) / 6, _matrix(8, 4) / 6
    own = {'projection': _matrix(8, 6), 'kernel': _matrix(8, 5)}

    @jit
    def fit():
        hidden = jnp.tanh(x @ first)
        targets = [hidden, jnp.tanh(hidden @ second)]
        errors = []
        for m in (8, 64):
            layers = fitted([_ROWS[0][:m], _ROWS[1][:m]], x, targets)
            errors.append(jnp.mean((run(bundled(layers), x) - targets[1]) ** 2) / jnp.var(targets[1]))
        again = fitted([own['projection']], x, [ReluSnnk(5, 8).apply({'params': own}, x)])
        return errors, again[0]['kernel']

    (few, many), again = jax.device_get(fit())
    assert many < 0.3 * few and many < 0.1
    np.testing.assert_allclose(again, own['kernel'], atol=2e-3)  # what is such a layer already is found again


_ROWS = (_matrix(64, 6), _matrix(64, 8))


def test_layers_that_do_not_fit_are_refused():
    layer = {'projection': jnp.ones((4, 6)), 'kernel': jnp.ones((4, 5))}
    with pytest.raises(ValueError, match='layer 1 takes 6 inputs and the layer before it has 5 outputs'):
        bundled([layer, layer])
    with pytest.raises(ValueError, match='the head takes 6 inputs and the layer before it has 5 outputs'):
        bundled([layer], {'kernel': jnp.ones((6, 2))})
    with pytest.raises(ValueError, match='bundled has 0 layers'):
        bundled([])
    with pytest.raises(ValueError, match='fitted has 1 projections and 0 targets'):
        fitted([jnp.ones((4, 6))], jnp.ones((3, 6)), [])
