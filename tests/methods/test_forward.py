"""How a method runs a module: the random streams, old and new."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.methods import forward
from longview.methods.language import LanguageModel
from longview.methods.supervised import Supervised
from longview.methods.task import Variables
from longview.modelzoo import heads
from longview.modelzoo.features import Backbone, SequenceBackbone
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.dropout import Dropout
from tests.methods.small import RNG, SEEN, trained
from tests.modelzoo import tiny

# What a module and its child drew from the stream `drop_path`, in turn, under the key 3 of commit 74d4283.
RECORDED = [[1118596564, 1882671556], [2172273249, 175751573], [348249713, 141113529], [3754833579, 3265069421]]


class Draw(nn.Module):
    stream: str

    @nn.compact
    def __call__(self):
        return jax.random.key_data(self.make_rng(self.stream))


class Draws(nn.Module):
    """Draws from one stream and, in between, from another one."""

    @nn.compact
    def __call__(self, x, *, train=False):
        child = Draw('drop_path', name='child')
        own = lambda stream: jax.random.key_data(self.make_rng(stream))
        return {
            'drop_path': [own('drop_path'), child(), own('drop_path'), child()],
            'other': [own('dropout'), own('anything'), own('dropout')],
        }


@pytest.mark.parametrize('rows', [(4, 5), (0, 1)])
def test_stochastic_depth_has_the_keys_that_it_always_had(rows):
    drawn, _ = forward.learn(Draws(), {}, {}, jnp.zeros(2), rng=jax.random.key(3), row=jnp.array(rows))
    assert [key.tolist() for key in drawn['drop_path']] == RECORDED


def test_other_streams_differ_from_each_other_and_between_microbatches():
    draw = lambda row: forward.learn(Draws(), {}, {}, jnp.zeros(2), rng=jax.random.key(3), row=jnp.array(row))[0]
    keys = [tuple(key.tolist()) for row in ((0, 2), (1, 3)) for key in draw(row)['other']]
    assert len({*keys, *map(tuple, RECORDED)}) == 10
    chex.assert_trees_all_equal(draw((1, 3)), draw((1, 5)))


class Net(Backbone):
    """One hidden layer, dropped by flax's layer or by ours."""

    dropping: type[nn.Module]
    layers = (('hidden',),)

    @nn.compact
    def __call__(self, x, *, train=False):
        x = jnp.tanh(Dense(8, name='hidden')(x.reshape(len(x), -1)))
        by_row = self.dropping is Dropout
        return {'pooled': Dropout(0.5)(x, train=train) if by_row else self.dropping(0.5, deterministic=not train)(x)}


def test_dropout_works_under_a_method_and_ours_changes_no_number_in_microbatches():
    ours, flaxs = (Supervised(Net(dropping), heads.Linear(10)) for dropping in (Dropout, nn.Dropout))
    after = lambda task, n: jax.device_get(trained(task, 2, accumulate=n)[-1].variables.params)
    whole, parts = after(ours, 1), after(ours, 4)
    chex.assert_trees_all_close(whole, parts, rtol=1e-4, atol=1e-6)
    # Flax's draws otherwise in microbatches, and neither drops where it is scored.
    flax_whole, flax_parts = after(flaxs, 1), after(flaxs, 4)
    assert np.abs(flax_whole['head']['kernel'] - flax_parts['head']['kernel']).max() > 1e-4
    v = Variables(whole, {}, {})
    chex.assert_trees_all_equal(*tiny.jit(lambda v: [task.score(v, SEEN) for task in (ours, flaxs)])(v))


class Words(SequenceBackbone):
    """A table of words, dropped by flax's layer."""

    vocabulary, layers = 5, ()

    @nn.compact
    def __call__(self, x, *, train=False):
        table = self.param('table', nn.initializers.normal(1.0), (5, 8))
        return {'tokens': nn.Dropout(0.5, deterministic=not train)(table[x])}

    def init_state(self, batch):
        raise NotImplementedError

    def step(self, state, x):
        raise NotImplementedError


def test_dropout_works_in_a_language_model():
    task = LanguageModel(Words(), heads.LanguageHead(5))
    batch = {'words': jnp.zeros((2, 4), jnp.int32), 'label': jnp.ones((2, 4), jnp.int32), 'row': jnp.arange(2)}
    v = tiny.jit(task.init)(RNG, batch)
    loss = tiny.jit(lambda v, seed: task.loss(v, batch, jax.random.key(seed), jnp.int32(0))[0])
    losses = [float(loss(v, seed)) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
