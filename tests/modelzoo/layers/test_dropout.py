"""Dropout: which values are dropped, and that this does not depend on how a network is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from longview.modelzoo.layers.frame import drop, trunk
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.dropout import Dropout, dropout, dropout_keys
from tests.modelzoo.tiny import jit

KEY = {'drop_path': jax.random.key(3)}
ROWS = np.random.default_rng(0).permutation(8)


def dropped(rows=None, module=None, shape=(8, 40, 50)):
    variables = {} if rows is None else {'example': {'row': jnp.asarray(rows)}}
    x = jnp.ones((len(rows), *shape[1:]) if rows is not None else shape)
    return (module or Dropout(0.3)).apply(variables, x, train=True, rngs=KEY)


def test_a_share_is_dropped_and_the_rest_makes_up_for_it():
    y = np.asarray(dropped())
    np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-6)
    np.testing.assert_allclose((y == 0).mean(axis=(1, 2)), 0.3, atol=0.04)
    assert (y[0] != y[1]).mean() > 0.3
    half = jnp.ones((2, 3), jnp.bfloat16)
    assert dropout(half, jax.random.split(jax.random.key(0), 2), 0.5).dtype == jnp.bfloat16


def test_nothing_is_drawn_without_need():
    x = jnp.ones((2, 3))
    for module, train in ((Dropout(0.3), False), (Dropout(0.0), True)):
        assert module.apply({}, x, train=train) is x  # and no rng is asked for
    assert dropout_keys(nn.Module(), 0.0, 2, 4, train=True) is dropout_keys(nn.Module(), 0.3, 2, 4, train=False) is None


@pytest.mark.parametrize('rate', [1.0, -0.1])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=f'the rate of dropout is {rate}: it must be at least 0 and below 1'):
        dropped(module=Dropout(rate))


def test_what_is_dropped_belongs_to_rows_however_the_batch_is_split():
    whole = np.asarray(dropped(ROWS))
    parts = [dropped(part) for part in ROWS.reshape(4, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(dropped()[ROWS], whole)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(jnp.asarray(ROWS), NamedSharding(mesh, P('data')))
    run = lambda rows: Dropout(0.3).apply({'example': {'row': rows}}, jnp.ones((8, 40, 50)), train=True, rngs=KEY)
    np.testing.assert_array_equal(jit(run, out_shardings=NamedSharding(mesh, P('data')))(rows), whole)


class Block(nn.Module):
    """A block with two dropouts, whose keys come with the mask of stochastic depth."""

    @nn.compact
    def __call__(self, s, given, *, train=False):
        mask, keys = given
        first, second = (None, None) if keys is None else keys
        y = dropout(Dense(6, name='up')(dropout(s, first, 0.4)), second, 0.4)
        return s + drop.drop_path(y, None if mask is None else mask[0])


class Trunk(nn.Module):
    """Three blocks, recomputed or scanned, followed by a `Dropout` that draws its own keys."""

    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        masks = drop.path_masks(self, 0.5, 3, len(x), branches=1, train=train)
        keys = dropout_keys(self, 0.4, 3, len(x), places=2, train=train)
        blocks = [Block(name=name) for name in trunk.names(3)]
        x = trunk.run(self, blocks, x, (masks, keys), train=train, remat=self.remat, scan=self.scan)
        return Dropout(0.4, name='tail')(x, train=train)


def test_remat_and_scan_change_nothing():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 6)), jnp.float32)
    params = Trunk().init(jax.random.key(0), x)['params']

    @jit
    def run(params):
        def loss(params, **options):
            variables = {'params': params, 'example': {'row': jnp.asarray(ROWS)}}
            y = Trunk(**options).apply(variables, x, train=True, rngs=KEY)
            return jnp.sum(y * y), y

        ways = ({}, {'remat': True}, {'scan': True}, {'remat': True, 'scan': True})
        return [jax.grad(loss, has_aux=True)(params, **way) for way in ways]

    (plain, y), *others = jax.device_get(run(params))
    assert 0 < (y == 0).mean() < 1
    for grads, found in others:
        np.testing.assert_allclose(found, y, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, plain)


def test_a_layer_that_cannot_know_the_rows_says_so():
    class Recomputed(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.remat(lambda module, x: module(x, train=train))(Dropout(0.3, name='drop'), x)

    with pytest.raises(NotImplementedError, match='Dropout stands in a block that runs under nn.remat'):
        dropped(module=Recomputed())


def test_the_places_of_a_block_and_the_blocks_drop_others():
    class Keys(nn.Module):
        def __call__(self):
            return jax.random.key_data(dropout_keys(self, 0.4, 3, 5, places=2, train=True))

    keys = np.asarray(Keys().apply({}, rngs=KEY))
    assert keys.shape[:3] == (3, 2, 5) and len(np.unique(keys.reshape(30, -1), axis=0)) == 30
