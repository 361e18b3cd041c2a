"""Frozen parts of a network."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from longview.methods.ema import Ema
from longview.methods.freeze import Freeze
from longview.methods.objective import variables_of
from longview.methods.peft.low_rank import LowRank
from longview.methods.start import Start
from longview.methods.task import Given, init_state, make_step
from longview.modelzoo import features as ft
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.runtime.checkpoint import Best, Checkpoints
from longview.trees import by_path
from tests.methods.small import NET, RNG, SEEN, batch_of, begun, supervised, trained, transform
from tests.modelzoo import tiny


class Two(ft.Backbone):
    """Two layers of batch normalization, each after a matrix."""

    layers = (('low', 'norm_low'), ('top', 'norm_top'))

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1)
        for name in ('low', 'top'):
            x = nn.Dense(4, name=name)(x)
            x = BatchNorm(name=f'norm_{name}')(x[:, None, None], train=train)[:, 0, 0]
        return {'pooled': x}


def moved(before, after):
    """Returns the paths at which two trees differ."""
    before, after = by_path(jax.device_get(before)), by_path(jax.device_get(after))
    return {path for path, leaf in before.items() if not np.array_equal(leaf, after[path])}


@pytest.mark.parametrize('accumulate', [1, 4])
def test_what_matches_stays_and_so_do_its_statistics(accumulate):
    task = Freeze(supervised(Two()), 'backbone/(low|norm_low)/.*')
    first, last = trained(task, 2, accumulate)[::2]
    v = [task.view(state.variables) for state in (first, last)]
    changed = moved(v[0].params, v[1].params)
    assert changed == {path for path in by_path(v[0].params) if 'low' not in path}
    assert moved(v[0].state, v[1].state) == {'batch_stats/norm_top/mean', 'batch_stats/norm_top/var'}
    assert not any('low' in path for path in by_path(first.opt_state))


def test_a_held_layer_normalizes_as_in_evaluation():
    inner, pattern = supervised(Two()), 'backbone/.*'
    task = Freeze(inner, pattern)

    @tiny.jit
    def run():
        v = task.init(RNG, SEEN)
        state = jax.tree.map(lambda leaf: leaf + 0.5, v.state)
        v = v._replace(state=state)
        loss, _ = task.loss(v, SEEN, RNG, jnp.int32(0))
        return loss, jnp.mean(task.score(v, SEEN)['loss'])

    trains, evaluates = jax.device_get(run())
    np.testing.assert_allclose(trains, evaluates, rtol=1e-6)


def test_gradients_of_what_trains_are_those_without_freezing():
    """A frozen head changes nothing for the backbone below it."""
    plain, frozen = supervised(Two()), Freeze(supervised(Two()), 'head/.*')

    @tiny.jit
    def gradients():
        v, w = plain.init(RNG, SEEN), frozen.init(RNG, SEEN)
        of = lambda task, v: jax.grad(lambda params: task.loss(v._replace(params=params), SEEN, RNG, jnp.int32(0))[0])(
            v.params
        )
        return of(plain, v), of(frozen, w)

    ours, theirs = jax.device_get(gradients())
    chex.assert_trees_all_equal(theirs['backbone'], ours['backbone'])
    assert set(by_path(theirs)) == {path for path in by_path(ours) if path.startswith('backbone')}


def test_it_nests_with_averages_and_decay_reaches_only_what_trains():
    task = Ema(Freeze(supervised(NET), 'backbone/.*'), 0.5)
    tx = optax.adamw(0.1, weight_decay=0.5)

    @tiny.jit
    def run():
        state = init_state(task, tx, RNG, batch_of(), transform)
        step = make_step(task, tx, transform=transform)
        return task.deployed(state.variables)['network'].variables, task.deployed(
            step(state, batch_of(), RNG)[0].variables
        )['network'].variables

    before, after = jax.device_get(run())
    assert moved(before, after) == {'params/head/kernel', 'params/head/bias'}


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"Freeze: 'stem/\.\*' matches no parameter; the first is"):
        jax.eval_shape(lambda: Freeze(supervised(NET), 'stem/.*').init(RNG, SEEN))
    with pytest.raises(ValueError, match=r"Freeze.pattern '\.\*' matches every parameter: leave some to train"):
        jax.eval_shape(lambda: Freeze(supervised(NET), '.*').init(RNG, SEEN))


@pytest.mark.parametrize('wrap', [lambda task: task, Ema], ids=['bare', 'averaged'])
@pytest.mark.parametrize('low_rank', [False, True])
def test_what_is_frozen_inside_of_a_start_is_read_again(low_rank, wrap, tmp_path):
    """The network that `Start` takes is what the frozen part is made of, also when a run goes on."""
    run = supervised(NET)
    v = begun(run)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        networks = variables_of(run.deployed(v._replace(params=jax.tree.map(lambda leaf: leaf + 1, v.params))))
        checkpoints.save_best(1, {'variables': v}, networks)
    inner = LowRank(run, rank=1) if low_rank else Freeze(run, 'backbone/.*')
    task = wrap(Start(inner, Best(str(tmp_path))))
    first, again = (task.init(RNG, SEEN, task.given(SEEN, fixed_only=only)).fixed for only in (False, True))
    chex.assert_trees_all_equal(jax.device_get(first), jax.device_get(again))
    plain = jax.device_get(task.init(RNG, SEEN, Given()).fixed)
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jax.device_get(again))))
