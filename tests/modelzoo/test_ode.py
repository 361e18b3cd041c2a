"""Differential equations: the order of the 3/8 rule, both gradients, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers import ode
from tests.modelzoo.tiny import jit

Y = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def field(rate, t, y):
    return rate * y * jnp.cos(t)  # y(t) = y(0) exp(rate sin t)


def test_errors_of_kutta_s_rule_fall_with_the_fourth_power_of_the_steps():
    run = jit(lambda: [ode.solved(field, 3.0, Y, solver='rk4', steps=steps)[0] for steps in (4, 8, 16)])
    errors = [np.abs(y - Y * np.exp(3 * np.sin(1))).max() for y in jax.device_get(run())]
    assert 10 < errors[0] / errors[1] < 40 and 10 < errors[1] / errors[2] < 40


@pytest.mark.parametrize('adjoint', ode.ADJOINTS)
def test_gradients_are_those_of_the_closed_form(adjoint):
    how = {'solver': 'tsit5', 'rtol': 1e-6, 'atol': 1e-6, 'adjoint': adjoint}
    run = jit(jax.value_and_grad(lambda rate, y: ode.solved(field, rate, y, **how)[0].sum(), argnums=(0, 1)))
    value, (of_rate, of_start) = jax.device_get(run(2.0, Y))
    growth = np.exp(2 * np.sin(1))
    np.testing.assert_allclose(value, growth * Y.sum(), rtol=1e-4)
    np.testing.assert_allclose(of_rate, np.sin(1) * growth * Y.sum(), rtol=1e-4)
    np.testing.assert_allclose(of_start, np.full(Y.shape, growth), rtol=1e-4)


def test_steps_that_do_not_suffice_are_seen():
    y, _ = jax.device_get(jit(lambda: ode.solved(field, 9.0, Y, rtol=1e-6, atol=1e-6, most=2))())
    assert np.isnan(y).all()


def test_what_cannot_be_is_refused():
    new = lambda **fields: ode.ODEBlock(functools.partial(ode.TimeMlp, 4), **fields).init(jax.random.key(0), Y)
    with pytest.raises(ValueError, match="solver='rk5' and adjoint='checkpoints': use one of rk4, euler"):
        new(solver='rk5')
    with pytest.raises(ValueError, match="adjoint='direct': use one of rk4.*checkpoints, backsolve"):
        new(adjoint='direct')
    with pytest.raises(ValueError, match='rk4 does not know its error, which free steps need: set steps'):
        new(solver='rk4')
    with pytest.raises(ValueError, match='steps=10 and most=8: use from 1 to most steps'):
        new(solver='rk4', steps=10, most=8)
