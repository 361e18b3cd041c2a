"""Mamba's mixer: sequences in parts, initial values, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.mixers import mamba
from tests.modelzoo.tiny import filled, jit


@pytest.mark.quick
def test_a_sequence_in_parts_is_the_whole_whatever_its_parts():
    module, x = mamba.Mamba(states=4), jax.random.normal(jax.random.key(1), (2, 9, 8))
    variables = filled(module, x)
    whole = jit(module.apply)(variables, x)
    extend = jit(functools.partial(module.apply, method='extend'))
    state, outputs = module.init_state(2, 8), []
    for part in (x[:, :1], x[:, 1:2], x[:, 2:]):
        y, state = extend(variables, part, state)
        outputs.append(y)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), whole, rtol=1e-5, atol=1e-6)


def test_steps_start_between_a_thousandth_and_a_tenth():
    found = jax.nn.softplus(mamba.steps(jax.random.key(0), (4000,)))
    assert 0.99e-3 < found.min() < 1.1e-3 and 0.09 < found.max() < 0.101
    np.testing.assert_allclose(jnp.median(found), 1e-2, rtol=0.1)


def test_bfloat16_keeps_rates_steps_and_states_in_float32():
    module, x = mamba.Mamba(states=4, dtype=jnp.bfloat16), jnp.ones((1, 3, 8), jnp.bfloat16)
    variables = filled(module, x)
    y, state = jit(functools.partial(module.apply, method='extend'))(variables, x, module.init_state(1, 8))
    assert (y.dtype, state.inputs.dtype, state.states.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    wide = jit(mamba.Mamba(states=4).apply)(variables, x.astype(jnp.float32))
    assert np.linalg.norm(y.astype(jnp.float32) - wide) < 0.02 * np.linalg.norm(wide)
