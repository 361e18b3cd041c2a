"""The gradient of max-pooling on large images, compared with jax's own, which small images have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.frame import pool


@pytest.mark.parametrize('size, stride, padding, side', [(3, 2, 1, 41), (2, 2, 0, 40), (3, 2, 0, 42), (3, 1, 1, 20)])
def test_the_gradient_goes_to_the_first_of_the_largest(monkeypatch, size, stride, padding, side):
    random = np.random.default_rng(side)
    x = jnp.asarray(random.integers(-2, 3, (2, side, side + 1, 3)), jnp.float32)  # equal ones in most windows
    loss = lambda x, weights: jnp.sum(weights * pool.max_pool(x, size, stride, padding) ** 2)
    weights = jnp.asarray(random.normal(size=pool.max_pool(x, size, stride, padding).shape), jnp.float32)
    slope = lambda: np.asarray(jax.jit(jax.vmap(jax.grad(loss)))(x[:, None], weights[:, None]))
    lowered = lambda: jax.jit(jax.grad(loss)).lower(x, weights).as_text()
    assert 'select_and_scatter' not in lowered()
    found = slope()
    monkeypatch.setattr(pool, '_PIXELS', 10**9)
    assert 'select_and_scatter' in lowered()
    np.testing.assert_allclose(found, slope(), rtol=1e-6, atol=1e-6)


def test_off_cpus_the_gradient_is_jax_s():
    gradient = jax.jit(jax.grad(lambda x: pool.max_pool(x, 3, 2, 1).sum()))
    lowered = gradient.trace(jnp.ones((1, 40, 40, 2))).lower
    assert 'select_and_scatter' in lowered(lowering_platforms=('tpu',)).as_text()
    assert 'select_and_scatter' not in lowered(lowering_platforms=('cpu',)).as_text()
