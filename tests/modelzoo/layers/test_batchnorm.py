"""Batch normalization against its formula, torch's running averages, and what a mesh does to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from longview.modelzoo.layers.norms.batchnorm import BatchNorm

PARAMS = {'scale': np.array([1, 2, -0.5], np.float32), 'bias': np.array([0, 1, 2], np.float32)}
STATS = {'mean': np.array([0.1, -0.2, 0.3], np.float32), 'var': np.array([1, 0.5, 2], np.float32)}
VARIABLES = jax.tree.map(jnp.asarray, {'params': PARAMS, 'batch_stats': STATS})


def images(batch: int = 4) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(batch, 2, 5, 3)) * 2 + 1).astype(np.float32)


def train(x, norm: BatchNorm = BatchNorm()) -> tuple:
    return norm.apply(VARIABLES, x, train=True, mutable=['batch_stats'])


@pytest.mark.quick
def test_training_uses_the_batch_and_averages_the_unbiased_variance():
    x = images()
    y, updates = train(jnp.asarray(x))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * PARAMS['scale'] + PARAMS['bias'], atol=1e-5)
    stats = updates['batch_stats']
    np.testing.assert_allclose(stats['mean'], 0.9 * STATS['mean'] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats['var'], 0.9 * STATS['var'] + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


def test_evaluation_uses_the_running_averages_and_changes_nothing():
    x = images()
    y, updates = BatchNorm().apply(VARIABLES, jnp.asarray(x), mutable=['batch_stats'])
    wanted = (x - STATS['mean']) / np.sqrt(STATS['var'] + 1e-5) * PARAMS['scale'] + PARAMS['bias']
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    np.testing.assert_array_equal(updates['batch_stats']['var'], STATS['var'])


def test_statistics_start_at_the_standard_normal_and_stay_float32():
    x = jnp.asarray(images(), jnp.bfloat16)
    y, variables = BatchNorm(dtype=jnp.bfloat16).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(variables['batch_stats']['mean'], np.zeros(3))
    np.testing.assert_array_equal(variables['batch_stats']['var'], np.ones(3))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_far_from_zero_nothing_cancels():
    x = 1000 + images()
    y, _ = train(jnp.asarray(x))
    x = x.astype(np.float64)
    wanted = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * PARAMS['scale'] + PARAMS['bias']
    np.testing.assert_allclose(y, wanted, atol=2e-3)


def test_a_sharded_batch_has_the_statistics_of_all_of_it():
    x = jnp.asarray(images(16))
    sharding = NamedSharding(Mesh(jax.devices(), ('data',)), PartitionSpec('data'))
    compiled = jax.jit(train).lower(jax.device_put(x, sharding)).compile()
    assert 'all-reduce' in compiled.as_text() and 'all-gather' not in compiled.as_text()
    (ours, stats), (wanted, wanted_stats) = compiled(jax.device_put(x, sharding)), train(x)
    assert ours.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    np.testing.assert_allclose(stats['batch_stats']['var'], wanted_stats['batch_stats']['var'], rtol=1e-5)


def test_one_value_a_channel_cannot_be_trained_on():
    with pytest.raises(ValueError, match='got 1 image of 1x1 pixel to train on: use a larger batch or image'):
        train(jnp.zeros((1, 1, 1, 3)))
