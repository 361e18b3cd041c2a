"""Parameter-free layers: pools in the place of convolutions, mixtures of both, and maxima in the place of attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.convolutions import spatial
from longview.modelzoo.layers.convolutions.mixed import Mixed
from longview.modelzoo.vision.resnet import Bottleneck
from longview.trees import by_path
from tests.modelzoo.tiny import filled, jit

OPS = (spatial.Convolved, spatial.Depthwise, spatial.MaxPool, spatial.MeanPool, spatial.Unchanged)


def noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def test_pools_of_a_constant_and_the_sizes_of_all():
    x = jnp.full((1, 5, 4, 2), -3.0)
    for stride, size in ((1, (5, 4)), (2, (3, 2))):
        for op in (*OPS, spatial.Hybrid):
            features = jax.eval_shape(op(2, stride).init_with_output, jax.random.key(0), x)[0]
            assert features.shape == (1, *size, 2)
        np.testing.assert_array_equal(spatial.MaxPool(2, stride).apply({}, x), np.full((1, *size, 2), -3.0))
    mean = jax.device_get(spatial.MeanPool(2).apply({}, x))
    np.testing.assert_allclose(mean[0, :2, :2, 0], [[-3 * 4 / 9, -3 * 6 / 9], [-3 * 6 / 9, -3]], rtol=1e-6)


def sizes(**fields) -> dict[str, int]:
    backbone = modelzoo.backbone('resnet50', depths=(1, 2), widths=(32, 64), **fields)
    params = jax.eval_shape(backbone.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))['params']
    return {path: leaf.size for path, leaf in by_path(params).items()}


def test_what_is_without_parameters_takes_the_3x3_kernels_and_their_norms_away():
    plain = sizes()
    without = sizes(block=functools.partial(Bottleneck, spatial=spatial.MaxPool))
    assert {path: plain[path] for path in without} == without
    gone = sum(plain[path] for path in plain.keys() - without.keys())
    assert gone == sum(9 * width**2 + 2 * width for width in (8, 16, 16))


def test_each_block_may_have_an_operation_of_its_own():
    blocks = [functools.partial(Bottleneck, spatial=op) for op in (spatial.MaxPool, spatial.Depthwise, None)]
    found = sizes(block=blocks)
    assert 'stage0/block00/spatial/conv/kernel' not in found
    assert found['stage1/block00/spatial/conv/kernel'] == 9 * 16
    assert found['stage1/block01/conv2/conv/kernel'] == 9 * 16**2
    with pytest.raises(ValueError, match='there are 2 factories for 3 blocks: give one for all, or one for each'):
        sizes(block=blocks[:2])


def test_a_mixture_of_one_weight_is_that_operation_and_its_norm():
    mixed, x = Mixed(4, 2, ops=OPS), noise(2, 5, 6, 4)
    variables = filled(mixed, x)

    def with_weight(index):
        alpha = 1e4 * jax.nn.one_hot(index, len(OPS))
        return mixed.apply({**variables, 'params': {**variables['params'], 'alpha': alpha}}, x)

    found = jax.device_get(jit(jax.vmap(with_weight))(jnp.arange(len(OPS))))
    stats = jax.device_get(variables['batch_stats'])
    for index, op in enumerate(OPS):
        alone = op(4, 2, act=lambda x: x)
        kernels = {'conv': variables['params'][f'op{index}']['conv']} if index < 2 else {}
        norm = {'scale': jnp.ones(4), 'bias': jnp.zeros(4)} if index < 2 else None
        plain = {'mean': jnp.zeros(4), 'var': jnp.full(4, 1 - 1e-5)}
        own = {'params': {**kernels, 'norm': norm}, 'batch_stats': {'norm': plain}} if norm else {}
        y = jax.device_get(jit(alone.apply)(own, x))
        mean, var = (stats[f'norm{index}'][part] for part in ('mean', 'var'))
        np.testing.assert_allclose(found[index], (y - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-4)
    equal = jax.device_get(jit(mixed.apply)({**variables, 'params': {**variables['params'], 'alpha': jnp.zeros(5)}}, x))
    np.testing.assert_allclose(equal, found.mean(axis=0), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='Mixed.ops is empty: give the operations to choose from'):
        jax.eval_shape(Mixed(4).init, jax.random.key(0), x)


def test_a_random_mixture_draws_one_operation_a_step_and_averages_in_evaluation():
    x = noise(2, 5, 6, 4)
    mixed, plain = (Mixed(4, ops=OPS[2:], random=random) for random in (True, False))
    variables = filled(mixed, x)
    train = lambda net, v, rng: net.apply(v, x, train=True, mutable=['batch_stats'], rngs={'drop_path': rng})[0]
    alone = lambda index: {**variables, 'params': {'alpha': 1e4 * jax.nn.one_hot(index, 3)}}
    keys = jax.random.split(jax.random.key(0), 16)

    def run():
        drawn = jax.vmap(lambda key: train(mixed, variables, key))(keys)
        each = jax.vmap(lambda index: train(plain, alone(index), keys[0]))(jnp.arange(3))
        return drawn, each, mixed.apply(variables, x), plain.apply(variables, x)

    drawn, each, evaluated, average = jax.device_get(jit(run)())
    near = np.abs(drawn[:, None] - each[None]).max(axis=(2, 3, 4, 5)) < 1e-5
    np.testing.assert_array_equal(near.sum(axis=1), 1)
    assert near.any(axis=0).all(), 'each is drawn in 16 steps'
    np.testing.assert_allclose(evaluated, average, atol=1e-6)


def test_every_second_block_takes_maxima_on_a_map_of_any_sides():
    backbone = modelzoo.backbone('vit_max_test', depth=3)
    features, variables = jax.eval_shape(backbone.init_with_output, jax.random.key(0), jnp.ones((2, 8, 12, 3)))
    assert features['map'].shape == (2, 2, 3, 16) and features['tokens'].shape == (2, 6, 16)
    widths = [variables['params'][f'block{i:02d}']['mixer']['out']['kernel'].shape[0] for i in range(3)]
    assert widths == [16, 48, 16] and 'cls_token' not in variables['params']
