"""Bounds of Lipschitz constants: what power iteration finds, and what no pair of images exceeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers import lipschitz
from longview.modelzoo.layers.lipschitz import (
    BasicResidual,
    BoundedConv,
    BoundedDense,
    LinearResidual,
    cholesky_orthogonal,
    min_max,
    spectral_norm,
)
from tests.modelzoo import tiny

POWER = functools.partial(spectral_norm, iterations=500)


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bound_of(layer, params, start):
    return layer.apply({'params': params}, start, POWER, method='bound')[0]


@pytest.mark.parametrize(
    'layer, shape, extra',
    [
        (LinearResidual(4), (6, 6, 3), (None,)),
        (BoundedConv(5, 3, 2, 1), (6, 6, 3), ()),
        (BoundedConv(5, 5, 3, 2), (5, 7, 2), ()),
        (BoundedDense(7), (9,), ()),
    ],
)
def test_power_iteration_finds_the_norm_of_the_unrolled_map(layer, shape, extra, monkeypatch):
    monkeypatch.setattr(lipschitz, 'min_max', lambda x: x)
    start = draw(1, *shape)
    units = jnp.eye(start.size).reshape(-1, *shape)
    variables = tiny.filled(layer, start, *extra)

    @tiny.jit
    def run():
        whole, zero = (layer.apply(variables, x, *extra) for x in (units, jnp.zeros_like(units)))
        return whole - zero, bound_of(layer, variables['params'], start)

    matrix, norm = jax.device_get(run())
    wanted = np.linalg.svd(matrix.reshape(len(units), -1), compute_uv=False)[0]
    np.testing.assert_allclose(norm, wanted, rtol=1e-4)


def test_a_block_that_is_one_linear_map_has_the_smaller_bound():
    start, kernel, zeros = draw(1, 6, 6, 4), draw(3, 3, 4, 4), jnp.zeros(4)
    conv = {'kernel': kernel, 'bias': zeros}
    basic = lambda scale: {'conv1': conv, 'conv2': conv, 'branch_scale': jnp.full(1, scale)}

    @tiny.jit
    def run():
        return (
            bound_of(LinearResidual(1), {**conv, 'scale': jnp.ones(4)}, start),
            bound_of(BoundedConv(4, 3, padding=1), conv, start),
            [bound_of(BasicResidual(1), basic(scale), {'conv1': start, 'conv2': start}) for scale in (0.0, -0.5)],
        )

    linear, alone, (still, half) = jax.device_get(run())
    assert linear < 0.99 * (1 + alone)
    np.testing.assert_allclose([still, half], [1, 1 + 0.5 * alone**2], rtol=1e-4)


def test_min_max_sorts_pairs_of_channels():
    x = np.asarray(draw(5, 6))
    pairs = np.sort(x.reshape(5, 2, 3), axis=1)
    np.testing.assert_array_equal(min_max(jnp.asarray(x)), pairs[:, ::-1].reshape(5, 6))
    with pytest.raises(ValueError, match='takes pairs of channels, and there are 5: use an even width'):
        min_max(jnp.asarray(x[:, :5]))


@pytest.mark.parametrize('shape', [(3, 4, 9), (1, 9, 4)])
def test_rows_become_orthogonal_and_no_longer_than_1(shape):
    values = np.linalg.svd(tiny.jit(cholesky_orthogonal)(draw(*shape)), compute_uv=False)[:, :4]
    assert 0.9 < values.min() and values.max() < 1


@pytest.mark.parametrize(
    'fields',
    [{}, *(pytest.param(other, marks=pytest.mark.heavy) for other in ({'block': BasicResidual}, {'orthogonal': True}))],
)
def test_neither_two_images_nor_any_direction_exceed_the_bound(fields):
    net = modelzoo.backbone('liresnet_test', **fields)
    images, noise = draw(24, 10, 13, 3), draw(24, 10, 13, 3, seed=1)
    variables = tiny.filled(net, images)
    shapes = net.iterates(images.shape[1:])
    starts = jax.tree.map(lambda shape: draw(*shape), shapes, is_leaf=lambda node: isinstance(node, tuple))
    nearby = images + noise * jnp.geomspace(1e-2, 1, 24)[:, None, None, None]

    @tiny.jit
    def run():
        behind = lambda x: net.apply(variables, x)['pooled']
        bound, after = net.apply(variables, starts, iterations=500, method='lipschitz')
        return bound, after, behind(images) - behind(nearby), jax.jacrev(behind)(images[:1])

    bound, after, apart, steepness = jax.device_get(run())
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, starts)
    ratios = np.linalg.norm(apart, axis=1) / np.linalg.norm(np.reshape(images - nearby, (24, -1)), axis=1)
    local = np.linalg.svd(steepness.reshape(16, -1), compute_uv=False)[0]
    assert 0 < ratios.max() < local <= bound < 100 * local
