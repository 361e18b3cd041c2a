"""GELU and its derivatives, whose first one is written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.frame.mlp import gelu
from tests.modelzoo.tiny import jit

_X = np.concatenate([np.linspace(-6, 6, 241), [-100, 100]])
_CDF = np.array([0.5 * math.erfc(-x * math.sqrt(0.5)) for x in _X])
_DENSITY = np.exp(-0.5 * _X * _X) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize('derive', [jax.grad, jax.jacfwd], ids=['reverse', 'forward'])
def test_its_derivatives(derive):
    run = jit(lambda x: tuple(jax.vmap(f)(x) for f in (gelu, derive(gelu), derive(derive(gelu)))))
    y, slope, bend = jax.device_get(run(jnp.asarray(_X, jnp.float32)))
    np.testing.assert_allclose(y, _X * _CDF, atol=1e-6)
    np.testing.assert_allclose(slope, _CDF + _X * _DENSITY, atol=1e-6)
    np.testing.assert_allclose(bend, (2 - _X * _X) * _DENSITY, atol=1e-6)


def test_in_bfloat16_it_is_that_of_float32_rounded():
    x = jnp.asarray(_X, jnp.bfloat16)
    run = jit(lambda x: jax.value_and_grad(lambda x: gelu(x).astype(jnp.float32).sum())(x)[1])
    slope = jax.device_get(run(x))
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slope, jax.device_get(run(x.astype(jnp.float32))).astype(jnp.bfloat16))


def test_one_array_is_kept_for_its_gradient():
    kept = jax.eval_shape(lambda x: jax.vjp(gelu, x)[1], jax.ShapeDtypeStruct((4, 5), jnp.float32))
    assert [array.shape for array in jax.tree.leaves(kept)] == [(4, 5)]
