"""RMSProp against TensorFlow's formula, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods.optim.rmsprop import rmsprop
from tests.modelzoo import tiny

PARAMS = {'kernel': jnp.full((2, 2), 2.0), 'bias': jnp.ones(2)}
GRADS = [
    jax.tree.map(lambda p, s=seed: jnp.float32(3 * np.cos(s + np.arange(p.size)).reshape(p.shape)), PARAMS)
    for seed in range(4)
]
RATES = np.array([0.1, 0.1, 0.05, 0.05])


def build(**options):
    schedule = lambda steps, per_epoch: optax.piecewise_constant_schedule(0.1, {2: 0.5})
    return rmsprop(20, 10, lambda path: (0, 2), schedule=schedule, **options).transform


def after(tx):
    @tiny.jit
    def run():
        params, state = PARAMS, tx.init(PARAMS)
        for gradient in GRADS:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return jax.device_get(run())


def test_steps_are_tensorflow_s():
    ours = after(build(weight_decay=0.01))
    for name, decay in (('kernel', 0.01), ('bias', 0.0)):
        value, square, momentum = np.asarray(PARAMS[name], np.float64), 1.0, 0.0
        for rate, gradient in zip(RATES, GRADS, strict=True):
            g = np.asarray(gradient[name]) + decay * value
            square = 0.9 * square + 0.1 * g**2
            momentum = 0.9 * momentum + rate * g / np.sqrt(square + 1.0)
            value = value - momentum
        np.testing.assert_allclose(ours[name], value, rtol=1e-5)


def test_rules_choose_by_path():
    frozen = after(build(rate_rules=(('bias', 0.0),), layer_decay=0.5))
    np.testing.assert_array_equal(frozen['bias'], PARAMS['bias'])
    assert abs(frozen['kernel'] - PARAMS['kernel']).min() > 1e-3
    with pytest.raises(ValueError, match="decay_rules: 'nothing' matches no parameter"):
        build(decay_rules=(('nothing', 1.0),)).init(PARAMS)
