"""Trained rank pruning against numpy, and layers that run as two."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.counting import multiply_adds
from longview.methods.prune import decompose
from longview.methods.prune.trained_rank import TrainedRank, rank_for
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame.dense import Dense
from longview.trees import by_path
from tests.methods.small import NET, RNG, SEEN, supervised, trained
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal


def low_rank(matrix, rank):
    """Returns the nearest matrix of a rank, and U V^T of what it keeps."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank], u[:, :rank] @ vt[:rank]


@pytest.mark.parametrize('energy, rank', [(0.5, 1), (0.63, 1), (0.65, 2), (0.99, 3), (0.001, 1)])
def test_the_rank_is_the_smallest_that_keeps_the_energy(energy, rank):
    # Squared: 16, 8, 1 of 25.
    assert int(rank_for(jnp.asarray(np.sqrt(np.float32([16.0, 8.0, 1.0]))), energy)) == rank


def test_training_is_the_equation():
    task = TrainedRank(supervised(NET), every=2, energy=0.7, nuclear_weight=0.3)
    plain = by_path(jax.device_get(trained(task.inner, 2)[-1].variables.params))
    *_, cut, last = (state.variables for state in trained(task, 3))
    grads = tiny.jit(jax.grad(lambda p: task.inner.loss(task.view(cut)._replace(params=p), SEEN, RNG, jnp.int32(2))[0]))
    grads = by_path(jax.device_get(grads(cut.params)))
    cut, last = jax.device_get((cut, last))
    after = by_path(last.params)
    for path, kernel in by_path(cut.params).items():
        expected = np.asarray(plain[path])
        pull = np.zeros_like(expected)
        if path in cut.state['rank']:
            matrix = expected.reshape(-1, expected.shape[-1])
            power = np.linalg.svd(matrix, compute_uv=False) ** 2
            rank = int(np.argmax(np.cumsum(power) / power.sum() >= 0.7)) + 1
            assert rank == int(cut.state['rank'][path]) < min(matrix.shape)
            expected, pull = (x.reshape(expected.shape) for x in low_rank(matrix, rank))
        np.testing.assert_allclose(kernel, expected, atol=1e-5)
        np.testing.assert_allclose(after[path], kernel - 0.05 * (grads[path] + 0.3 * pull), atol=1e-5)
    assert not any(pull.any() for pull in last.state['pull'].values())


def test_what_is_scored_and_run_as_two_layers_is_of_the_last_ranks():
    task = TrainedRank(supervised(NET), every=2, energy=0.5)
    v = trained(task, 3)[-1].variables
    shown, factors = by_path(task.deploy(v).params), task.factors(v)
    for path, rank in v.state['rank'].items():
        assert np.linalg.matrix_rank(np.reshape(shown[path], (-1, shown[path].shape[-1])), tol=1e-5) == int(rank)
    assert set(factors) == set(v.state['rank'])
    sizes = [(factors[path], by_path(v.params)[path].size) for path in factors]
    kept = sum(first.size + second.size for (first, second), _ in sizes) / sum(size for _, size in sizes)
    np.testing.assert_allclose(task.report(v)['kept'], kept, rtol=1e-6)
    stem = {'stem/kernel': factors['backbone/stem/kernel']}
    found = tiny.jit(lambda x: decompose.run(NET, v.params['backbone'], v.state['inner'], x, stem, 'channel'))
    wanted = tiny.jit(task.predict)(v, SEEN)
    np.testing.assert_allclose(found(SEEN['image'])['pooled'], wanted['pooled'], atol=1e-5)
    with pytest.raises(ValueError, match='Pyramid runs no layer with the kernel head/kernel'):
        decompose.run(
            NET, v.params['backbone'], v.state['inner'], SEEN['image'], {'head/kernel': stem['stem/kernel']}, 'channel'
        )


class Layers(nn.Module):
    """A convolution with a stride, a matrix, and a convolution that does not decompose."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return DepthwiseConv(3, name='depthwise')(Dense(5, name='dense')(Conv(6, 3, 2, 1, name='conv')(x)))


@pytest.mark.parametrize(
    'scheme, convolved', [('channel', 4 * 4 * (9 * 4 * 2 + 2 * 6)), ('spatial', 4 * 8 * 3 * 4 * 2 + 4 * 4 * 3 * 2 * 6)]
)
def test_two_layers_are_one_of_low_rank(scheme, convolved):
    x = jnp.asarray(NORMAL(size=(1, 8, 8, 4)), jnp.float32)
    module = Layers()
    params = jax.tree.map(
        lambda p: jnp.asarray(NORMAL(size=p.shape) / 5, jnp.float32), jax.eval_shape(module.init, RNG, x)['params']
    )
    kernel = params['conv']['kernel']
    axes = {'channel': (0, 1, 2, 3), 'spatial': (2, 0, 3, 1)}[scheme]
    moved = np.transpose(kernel, axes)
    low, _ = low_rank(moved.reshape(-1, 6 if scheme == 'channel' else 18), 2)
    low = np.transpose(low.reshape(moved.shape), np.argsort(axes))
    dense, _ = low_rank(np.asarray(params['dense']['kernel']), 3)
    expected = jax.tree.map(lambda p: p, params)
    expected['conv']['kernel'], expected['dense']['kernel'] = jnp.asarray(low), jnp.asarray(dense)
    factors = {
        'conv/kernel': decompose.factors_of(kernel, 2, scheme),
        'dense/kernel': decompose.factors_of(params['dense']['kernel'], 3, 'channel'),
    }
    run = lambda x: decompose.run(module, params, {}, x, factors, scheme)
    found, wanted = tiny.jit(lambda x: (run(x), module.apply({'params': expected}, x)))(x)
    chex.assert_trees_all_close(found, wanted, atol=1e-4)
    matrix, depthwise = 16 * (6 * 3 + 3 * 5), 16 * 5 * 9
    assert multiply_adds(run, x) == convolved + matrix + depthwise
    with pytest.raises(NotImplementedError, match='belongs to a DepthwiseConv'):
        decompose.run(module, params, {}, x, {'depthwise/kernel': factors['conv/kernel']}, scheme)
