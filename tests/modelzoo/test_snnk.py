"""Layers of random features: what they estimate, how far they vary, where adapters start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.snnk import AdaptedMlp, ReluSnnk, UrfDense, normal_rows, urf_kernel
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo.tiny import jit

_TRUE = {'cos': np.cos, 'sin': np.sin, 'exp': np.exp}
DRAWS = 4000


# Two unit vectors, 120 degrees apart: of longer sums the exponential has too heavy a tail for 4,000 draws.
X, W = np.float32([[1, 0, 0, 0, 0, 0, 0, 0]]), np.float32([[-0.5, 0.75**0.5, 0, 0, 0, 0, 0, 0]])
# (function, spread)
_KINDS = (('cos', 0.0), ('sin', 0.05), ('exp', 0.0))


def test_estimates_are_unbiased_and_those_of_orthogonal_rows_vary_less():
    def estimate(rows, name, spread):
        kernel = urf_kernel(jnp.asarray(W.T), jnp.full(1, 0.3), rows, name, spread)
        variables = {'params': {'projection': rows, 'kernel': kernel}}
        return UrfDense(1, 64, name, spread).apply(variables, jnp.asarray(X))[0, 0]

    def once(key, orthogonal):
        rows = normal_rows(key, 64, 8, orthogonal=orthogonal)
        return {name: estimate(rows, name, spread) for name, spread in _KINDS}

    @jit
    def run(keys):
        return [jax.vmap(functools.partial(once, orthogonal=kind))(keys) for kind in (False, True)]

    plain, orthogonal = jax.device_get(run(jax.random.split(jax.random.key(0), DRAWS)))
    for found in (plain, orthogonal):
        for name, values in found.items():
            error = abs(values.mean() - _TRUE[name](-0.5 + 0.3))
            assert error < 3 * values.std() / np.sqrt(DRAWS), name
    # 0.82 over 400,000 draws; for the cosine of such short vectors it is the same within 0.1 %.
    assert orthogonal['exp'].var() < 0.9 * plain['exp'].var()


def test_rows_are_orthogonal_in_blocks_and_as_long_as_normal_ones():
    rows, again = jax.device_get(jit(lambda key: [normal_rows(key, m, 8) for m in (20, 4096)])(jax.random.key(1)))
    gram = rows @ rows.T
    for start in (0, 8, 16):
        block = gram[start : start + 8, start : start + 8]
        np.testing.assert_allclose(block, np.diag(np.diag(block)), atol=1e-4)
    assert abs(gram[0, 8:]).max() > 0.1  # blocks are independent
    np.testing.assert_allclose(again.T @ again / 4096, np.eye(8), atol=0.1)


def test_a_vit_takes_the_layer_with_a_kernel_of_m_rows_and_projections_do_not_learn():
    mlp = functools.partial(ReluSnnk, random_features=4, floor=-5.0, normalize=True)
    model = ViT(8, 1, 2, patch=4, image_size=8, mlp=mlp)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))['params']['block00']['mlp']
    assert {name: leaf.shape for name, leaf in shapes.items()} == {'kernel': (4, 8), 'projection': (4, 8)}
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8)), jnp.float32).at[1].set(0)

    @jit
    def run(key):
        layer = mlp()
        loss = lambda v, x: jnp.sum(layer.apply(v, x) * jnp.arange(8.0)[None])
        variables = layer.init(key, x)
        scaled = layer.apply(variables, 3 * x) - layer.apply(variables, x)
        return jax.grad(loss, argnums=(0, 1))(variables, x), scaled

    (learned, gradient), scaled = jax.device_get(run(jax.random.key(0)))
    assert abs(learned['params']['kernel']).max() > 0 and not learned['params']['projection'].any()
    assert np.isfinite(gradient).all() and abs(scaled).max() < 1e-4  # of normalised inputs


def test_an_adapter_is_the_identity_at_first_and_its_scale_learns():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5, 8)), jnp.float32)
    adapted, plain = AdaptedMlp(2.0), Mlp(2.0)

    @jit
    def run(key):
        params = adapted.init(key, x)['params']
        own = {name: params[name] for name in ('up', 'down')}
        loss = lambda params: jnp.sum(adapted.apply({'params': params}, x) ** 2)
        answers = adapted.apply({'params': params}, x), plain.apply({'params': own}, x)
        return answers, jax.grad(loss)(params)['adapter_scale'], params['adapter_snnk']

    (ours, theirs), gradient, adapter = jax.device_get(run(jax.random.key(0)))
    np.testing.assert_array_equal(ours, theirs)
    assert abs(gradient).min() > 0 and adapter['kernel'].shape == (8, 8)


def test_mistakes_are_refused():
    init = lambda layer: jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8)))
    with pytest.raises(ValueError, match=r"UrfDense\.activation is 'relu': use one of exp, cos, sin"):
        init(UrfDense(4, activation='relu'))
    with pytest.raises(ValueError, match=r'ReluSnnk\.random_features is 0: a layer needs at least 1'):
        init(ReluSnnk(4, random_features=0))
