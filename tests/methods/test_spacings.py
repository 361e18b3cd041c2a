"""Positions of convolutions with learnable spacings: where they may be, and how they repel each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.methods.spacings import Spacings, nearness
from longview.methods.supervised import Supervised
from longview.modelzoo.features import Backbone
from longview.modelzoo.heads import Linear
from longview.modelzoo.layers.convolutions.dcls import Dcls
from longview.modelzoo.layers.frame.dense import Dense
from tests.modelzoo.tiny import jit


class Spaced(Backbone):
    """One convolution."""

    layers = (('conv',),)

    @nn.compact
    def __call__(self, x, *, train=False):
        return {'pooled': jnp.tanh(Dcls(4, 3, padding=1, count=3, name='conv')(x)).mean((1, 2))}


class Plain(Backbone):
    """No positions."""

    layers = (('dense',),)

    @nn.compact
    def __call__(self, x, *, train=False):
        return {'pooled': Dense(4, name='dense')(x.mean((1, 2)))}


def test_nearness_is_that_of_pairs_closer_than_a_pixel():
    positions = np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 3.0]], np.float32)[:, None, None]  # distances 0.5, 3.04, 3
    ours, gradient = jax.device_get(jit(jax.value_and_grad(nearness))(positions))
    np.testing.assert_allclose(ours, 0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0, 0], [1 / 3, -1 / 3, 0], rtol=1e-6)
    same, gradient = jax.device_get(jit(jax.value_and_grad(nearness))(np.zeros_like(positions)))
    assert same == 1 and not gradient.any()
    assert nearness(jnp.zeros((2, 1, 1, 1))) == 0


def test_positions_stay_inside_and_the_repulsion_begins_when_it_should():
    task = Spacings(Supervised(Spaced(), Linear(4)), bound=1.0, begins=1)
    batch = {
        'image': jax.random.normal(jax.random.key(1), (4, 6, 6, 2)),
        'label': jnp.arange(4, dtype=jnp.int32),
        'row': jnp.arange(4),
    }

    @jit
    def run(steps):
        v = task.init(jax.random.key(0), batch)
        losses = jax.lax.map(lambda step: task.loss(v, batch, jax.random.key(0), step), steps)
        far = v._replace(params=jax.tree.map(lambda leaf: 4 * leaf, v.params))
        return losses, far.params, task.after(far, None, jnp.int32(0)).params

    (losses, (_, metrics)), far, inside = jax.device_get(run(jnp.arange(2)))
    assert metrics['repulsion'][0] > 0.05
    np.testing.assert_allclose(losses[1] - losses[0], metrics['repulsion'][0] ** 2, rtol=1e-4)
    conv = far['backbone']['conv']
    assert abs(conv['positions']).max() > 1
    conv['positions'] = conv['positions'].clip(-1, 1)
    jax.tree.map(np.testing.assert_array_equal, inside, far)


def test_mistakes_are_refused():
    batch = {'image': jnp.zeros((2, 4, 4, 1)), 'label': jnp.zeros(2, jnp.int32), 'row': jnp.arange(2)}
    task = Spacings(Supervised(Plain(), Linear(3)), bound=1.0)
    with pytest.raises(ValueError, match="Spacings: '.*positions' matches no parameter; the first is"):
        jax.eval_shape(task.init, jax.random.key(0), batch)
    with pytest.raises(ValueError, match='bound is 0: give half the side of the kernels'):
        Spacings(task.inner, bound=0)
    with pytest.raises(ValueError, match='neither can be negative'):
        Spacings(task.inner, bound=1.0, begins=-1)
