"""EvoNorm against its equations, and inside residual networks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from longview.modelzoo.layers.norms.evonorm import Affine, EvoNormB0, EvoNormS0, unchanged
from longview.modelzoo.vision.resnetv2 import resnetv2
from longview.modelzoo.zoo import backbone
from tests.modelzoo.tiny import jit

PARAMS = {
    'scale': np.array([1, 2, -0.5, 0.1], np.float32),
    'bias': np.array([0, 1, 2, 3], np.float32),
    'v': np.array([1, -1, 0.5, 2], np.float32),
}
RUNNING = np.array([1, 0.5, 2, 0.1], np.float32)
VARIABLES = jax.tree.map(jnp.asarray, {'params': PARAMS, 'batch_stats': {'var': RUNNING}})


def images(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 2, 5, 4)).astype(np.float32) * 2 + 1


def b0(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The equation, image by image and channel by channel."""
    y = np.empty_like(x, np.float64)
    for image, channel in np.ndindex(x.shape[0], x.shape[3]):
        one = x[image, :, :, channel].astype(np.float64)
        left, right = np.sqrt(variance[channel] + 1e-5), PARAMS['v'][channel] * one + np.sqrt(one.var() + 1e-5)
        y[image, :, :, channel] = one / np.maximum(left, right)
    return y * PARAMS['scale'] + PARAMS['bias']


def test_b0_divides_by_the_batch_in_training_and_by_the_running_average_after():
    x = images()
    found, updates = EvoNormB0().apply(VARIABLES, jnp.asarray(x), train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(found, b0(x, x.var((0, 1, 2))), atol=1e-5)
    wanted = 0.9 * RUNNING + 0.1 * x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(updates['batch_stats']['var'], wanted, rtol=1e-5)
    np.testing.assert_allclose(EvoNormB0().apply(VARIABLES, jnp.asarray(x)), b0(x, RUNNING), atol=1e-5)
    with pytest.raises(ValueError, match='EvoNorm-B0 got 1 image of 1x1 pixel to train on'):
        EvoNormB0().apply(VARIABLES, jnp.ones((1, 1, 1, 4)), train=True, mutable=['batch_stats'])


def test_b0_of_a_sharded_batch_has_the_variance_of_all_of_it():
    x = jnp.asarray(images(8))
    run = lambda x: EvoNormB0().apply(VARIABLES, x, train=True, mutable=['batch_stats'])
    sharding = NamedSharding(Mesh(jax.devices(), ('data',)), PartitionSpec('data'))
    chex.assert_trees_all_close(jit(run)(jax.device_put(x, sharding)), run(x), atol=1e-5)


def test_s0_is_a_gated_image_over_its_groups_deviation():
    x, groups = images(), 2
    wanted = np.empty_like(x, np.float64)
    for image, group in np.ndindex(len(x), groups):
        part = np.s_[image, :, :, 2 * group : 2 * group + 2]
        gate = 1 / (1 + np.exp(-PARAMS['v'][part[-1]] * x[part].astype(np.float64)))
        wanted[part] = x[part] * gate / np.sqrt(x[part].astype(np.float64).var() + 1e-5)
    wanted = wanted * PARAMS['scale'] + PARAMS['bias']
    found = EvoNormS0(groups).apply({'params': VARIABLES['params']}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match='4 channels do not divide into 3 groups'):
        EvoNormS0(3).apply({'params': VARIABLES['params']}, jnp.asarray(x))


NETWORKS = {
    'b0': functools.partial(backbone, 'resnet50', norm=EvoNormB0, act=unchanged, end_norm=Affine),
    's0': functools.partial(resnetv2, norm=functools.partial(EvoNormS0, 4), act=unchanged),
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_residual_networks_take_it_for_norm_and_activation(kind):
    network = NETWORKS[kind](depths=(2,), widths=(16,), stem_width=8, stem_stride=1)
    x = jnp.asarray(images()[..., :1])

    @jit
    def run():
        variables = dict(network.init(jax.random.key(0), x))
        # Branches start at 0, where only the last scale has a gradient.
        params = jax.tree.map(lambda leaf: leaf + 0.1, variables.pop('params'))

        def loss(params):
            features, _ = network.apply({'params': params, **variables}, x, train=True, mutable=list(variables))
            return jnp.sum(jnp.cos(jnp.arange(16.0))[None] * features['pooled'])

        return jax.grad(loss)(params)

    gradients = traverse_util.flatten_dict(jax.device_get(run()), sep='/')
    assert all(np.isfinite(leaf).all() and abs(leaf).max() > 0 for leaf in gradients.values())
    slopes = sum(path.endswith('norm/v') or '/norm' in path and path.endswith('/v') for path in gradients)
    assert slopes == {'b0': 5, 's0': 7}[kind]
    ends = [path for path in gradients if path.endswith(('conv3/norm/scale', 'shortcut/norm/scale'))]
    assert len(ends) == {'b0': 3, 's0': 0}[kind] and not any(f'{path[:-5]}v' in gradients for path in ends)


def test_group_normalization_and_another_norm_cannot_both_stand_there():
    with pytest.raises(ValueError, match='groups is 4 and a norm is given'):
        resnetv2(groups=4, norm=EvoNormS0)
