"""Weighted convolutions: densities by their definition, and what they are a case of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview import modelzoo
from longview.methods.optim.warm_restarts import warm_restarts
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.weighted import DENSITIES, WeightedConv, density
from tests.modelzoo.tiny import jit


def test_a_density_is_the_product_along_the_axes():
    square, cube = jax.device_get(jit(lambda d: (density(d, 2), density(d, 3)))(jnp.array([0.5, 0.8])))
    line = np.array([0.5, 0.8, 1, 0.8, 0.5])
    np.testing.assert_allclose(square, np.outer(line, line), rtol=1e-6)
    np.testing.assert_allclose(cube, np.einsum('i,j,k->ijk', line, line, line), rtol=1e-6)
    assert all(len(found) == side // 2 for side, found in DENSITIES.items())


def test_it_is_a_plain_convolution_of_the_kernel_times_the_density_and_learns_the_density():
    plain = Conv(6, 5, 2, 2, groups=2, use_bias=False)
    weighted = WeightedConv(6, 5, 2, 2, groups=2, learned=True)
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 4)).astype(np.float32)

    @jit
    def run(x):
        params = weighted.init(jax.random.key(0), x)['params']
        folded = {'kernel': params['kernel'] * density(params['density'], 2)[..., None, None]}
        loss = lambda params: weighted.apply({'params': params}, x).sum()
        ones = params | {'density': jnp.ones(2)}
        return (
            params,
            (weighted.apply({'params': params}, x), plain.apply({'params': folded}, x)),
            (weighted.apply({'params': ones}, x), plain.apply({'params': {'kernel': params['kernel']}}, x)),
            jax.grad(loss)(params),
            jax.grad(lambda params: plain.apply({'params': params}, x).sum())(folded)['kernel'],
        )

    params, *pairs, gradients, of_plain = jax.device_get(run(x))
    assert params['density'].tolist() == pytest.approx(DENSITIES[5])
    for ours, wanted in pairs:
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    line = np.array([*DENSITIES[5], 1, *DENSITIES[5][::-1]])
    np.testing.assert_allclose(gradients['kernel'], of_plain * np.outer(line, line)[..., None, None], rtol=1e-4)
    # The rim's coefficient is in the first and the last row, and in the first and the last column.
    of_product = (of_plain * params['kernel']).sum((2, 3))
    of_line = (of_product * line).sum(1) + (of_product.T * line).sum(1)
    np.testing.assert_allclose(gradients['density'], (of_line + of_line[::-1])[:2], rtol=1e-3)


def test_lines_and_volumes_have_densities_too():
    layer = WeightedConv(3, 3, padding=1, density=(0.5,))
    of_impulse = jit(lambda x: layer.init_with_output(jax.random.key(0), x))
    for axes in (1, 3):
        x = np.zeros((1, *(5,) * axes, 2), np.float32)
        x[(0, *(2,) * axes, 0)] = 1
        y, variables = jax.device_get(of_impulse(x))
        kernel = variables['params']['kernel'][..., 0, :]
        ours = y[0][(slice(1, 4),) * axes]
        corner, middle = (0,) * axes, (1,) * axes
        np.testing.assert_allclose(ours[middle], kernel[middle], rtol=1e-5)
        np.testing.assert_allclose(ours[corner], 0.5**axes * kernel[(2,) * axes], rtol=1e-5)


@pytest.mark.parametrize('learned', [False, True])
def test_networks_take_it_by_a_field(learned):
    conv = functools.partial(WeightedConv, learned=learned)
    names = lambda name: [
        path[-1].key
        for path, _ in jax.tree_util.tree_leaves_with_path(
            jax.eval_shape(
                modelzoo.create_model(name, 3, conv=conv).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
            )['params']
        )
    ]
    assert ('density' in names('resnet_test')) == learned
    assert ('density' in names('convnext_test')) == learned


def test_rates_restart_along_longer_cosines():
    rate = jit(warm_restarts(70, 1.0, peak=2.0, period=10.0, factor=2.0, end=1.0))
    found = jax.device_get([rate(step) for step in (0, 5, 9, 10, 20, 30, 69)])
    assert found[0] == found[3] == found[5] == 2.0
    np.testing.assert_allclose(found[1], 1.5)
    np.testing.assert_allclose(found[4], 1.5)
    assert found[2] < 1.05 and found[6] < 1.01
    with pytest.raises(ValueError, match='give a period of at least a step'):
        warm_restarts(10, 1.0, peak=1.0, period=0.1)


@pytest.mark.parametrize(
    'layer, message',
    [
        (WeightedConv(4, 4), 'side 4 has no middle: make the side odd'),
        (WeightedConv(4, 9), 'no published density for kernels of side 9'),
        (
            WeightedConv(4, 5, density=(0.5,)),
            'has 2 coefficients from the rim to beside the middle, and the density has 1',
        ),
        (WeightedConv(4, 3, groups=3), 'do not divide into 3 groups'),
    ],
)
def test_mistakes_are_refused_in_a_sentence(layer: nn.Module, message: str):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
