"""Loss scaling of a network in float16: gradients that would be 0 without it, and steps that are left out."""

import dataclasses
import functools
import shutil

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview import train
from longview.methods.ema import Ema
from longview.methods.losses import SoftmaxCrossEntropy
from longview.methods.optim.loss_scale import LossScale
from longview.methods.peft.low_rank import LowRank
from longview.methods.supervised import Supervised
from longview.methods.task import init_state, make_step
from tests import runs, toys
from tests.methods.small import RNG, batch_of
from tests.modelzoo import tiny

TX = optax.adam(1e-3)


class Half(nn.Module):
    """A hidden layer whose gradients are too small for float16 at the scale 1, and too large for it at that of 2^21.

    Attributes:
        dtype: what it computes in.
    """

    dtype: jnp.dtype = jnp.float16

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1).astype(self.dtype) / 255
        x = jnp.tanh(nn.Dense(8, dtype=self.dtype, name='hidden')(x))
        still = jax.lax.stop_gradient(x)
        return {'pooled': (still + (x - still) * jnp.asarray(2.0**-19, self.dtype)).astype(jnp.float32)}


PLAIN = Supervised(Half(), toys.Head())
SCALED = LossScale(PLAIN, initial=2.0**22, every=3)


def spoiled(batch, rng):
    """The image is not finite where an example's index is 99."""
    image = batch['image'].astype(jnp.float32)
    return batch | {'image': jnp.where((batch['index'] == 99)[:, None, None, None], jnp.nan, image)}


@functools.cache
def step_of(task, accumulate=1):
    return tiny.jit(make_step(task, TX, transform=spoiled, accumulate=accumulate))


@functools.cache
def begun(task):
    return jax.device_get(tiny.jit(lambda: init_state(task, TX, RNG, batch_of(), spoiled))())


@functools.cache
def states(task=SCALED, steps=9, accumulate=1):
    """Returns the first state and those after each step."""
    made = [begun(task)]
    for _ in range(steps):
        made.append(jax.device_get(step_of(task, accumulate)(made[-1], batch_of(), RNG)[0]))
    return made


def gradients(task):
    """Returns the gradient of the hidden layer's kernel in the first step."""
    batch, v = batch_of() | {'row': jnp.arange(16)}, begun(task).variables
    of = lambda params: task.loss(v._replace(params=params), batch, RNG, jnp.int32(0))
    (loss, _), found = jax.device_get(tiny.jit(lambda: jax.value_and_grad(of, has_aux=True)(v.params))())
    return loss, found['backbone']['hidden']['kernel']


@pytest.mark.quick
def test_gradients_that_underflow_are_right_when_scaled():
    _, wanted = gradients(dataclasses.replace(PLAIN, backbone=Half(jnp.float32)))
    (loss, lost), (scaled_loss, scaled) = gradients(PLAIN), gradients(LossScale(PLAIN, initial=2.0**16))
    assert runs.relative(wanted, scaled) < 0.01 and runs.relative(wanted, lost) > 0.3
    assert scaled.dtype == np.float32 and scaled_loss == loss


def test_an_overflow_leaves_a_step_out_and_halves_the_scale_and_good_steps_double_it():
    found = states()
    scales = [float(state.meters['loss_scale']) for state in found[1:]]
    assert [np.log2(scale) for scale in scales] == [22, 21, 20, 20, 20, 21, 20, 20, 20]
    left_out = [0, 1, 5]
    assert [int(state.bad_step) for state in found] == [-1] * 10 and int(found[-1].step) == 9
    assert [float(state.meters['skipped']) for state in found[1:]] == [float(step - 1 in left_out) for step in range(9)]
    for step in range(9):
        before, after = found[step], found[step + 1]
        meters = after.meters
        assert np.isfinite(list(meters.values())).all() and meters['loss'] > 2
        assert (meters['grad_norm'] == 0) == (step in left_out)
        if step in left_out:
            chex.assert_trees_all_equal((after.variables, after.opt_state), (before.variables, before.opt_state))
    moments = optax.tree.get(found[-1].opt_state, 'count')
    assert int(moments) == 9 - len(left_out)


def test_training_is_that_of_float32():
    """After six good steps each, for the steps that are left out change nothing."""
    exact = states(dataclasses.replace(PLAIN, backbone=Half(jnp.float32)), steps=6)[-1]
    chex.assert_trees_all_close(states()[-1].variables.params, exact.variables.params, atol=2e-4)
    moved = (
        exact.variables.params['backbone']['hidden']['kernel']
        - begun(PLAIN).variables.params['backbone']['hidden']['kernel']
    )
    assert np.abs(moved).mean() > 4e-3


def test_microbatches_change_no_number():
    task = LossScale(PLAIN, initial=2.0**16)
    whole, parts = states(task, steps=3)[-1], states(task, steps=3, accumulate=4)[-1]
    chex.assert_trees_all_close(whole.variables.params, parts.variables.params, atol=1e-4)
    chex.assert_trees_all_equal(whole.variables.state, parts.variables.state)


def test_a_loss_that_is_not_finite_ends_the_run():
    start = begun(SCALED)
    bad, bad_step = jax.device_get(step_of(SCALED)(start, {**batch_of(), 'index': jnp.full(16, 99)}, RNG))
    assert bad_step == 0
    chex.assert_trees_all_equal(bad._replace(bad_step=start.bad_step), start)


def test_an_overflow_at_the_scale_1_ends_the_run():
    """The loss is of the order 1e9, which float32 holds, and its gradients are too large for float16 as they are."""
    heavy = SoftmaxCrossEntropy((1e9,) * 10, weighted_mean=False)
    found = states(LossScale(dataclasses.replace(PLAIN, criterion=heavy), initial=4.0), steps=4)
    assert [int(state.bad_step) for state in found] == [-1, -1, -1, 2, 2]
    assert float(found[2].meters['loss_scale']) == 2 and int(found[-1].step) == 2


@pytest.mark.parametrize('wrap', [lambda t: Ema(t, 0.5), lambda t: LowRank(t, rank=1)], ids=['ema', 'low_rank'])
@pytest.mark.parametrize('inside', [True, False])
def test_it_stands_inside_of_other_wrappers_or_around_them(wrap, inside):
    scale = functools.partial(LossScale, initial=2.0**22, every=3)
    found = states(wrap(scale(PLAIN)) if inside else scale(wrap(PLAIN)), steps=4)
    assert [float(state.meters['loss_scale']) for state in found[1:3]] == [2.0**22, 2.0**21]
    assert int(found[-1].bad_step) == -1
    chex.assert_trees_all_equal(found[1].variables, found[0].variables)
    assert float(found[-1].meters['grad_norm']) > 0


def test_a_run_goes_on_with_its_scale(tmp_path):
    task = {
        'fn': 'methods.optim.loss_scale:LossScale',
        'inner': toys.config().task.to_dict() | {'backbone': {'fn': 'tests.methods.test_loss_scale:Half'}},
        'initial': 2.0**24,
        'every': 2,
    }
    config = toys.config(task=task, log_every=1, eval_every=8)
    with runs.quickly():
        train.train(config, tmp_path)
        before, saved = runs.rows(tmp_path), runs.checkpoint(tmp_path, 6)
        shutil.rmtree(tmp_path / 'checkpoints' / '8')
        train.train(config, tmp_path)
    assert saved['variables/state/scale'] < 2.0**24 and saved['variables/state/next'] > 0
    assert sum(row.get('train/skipped', 0) for row in before) >= 2
    assert runs.rows(tmp_path) == before


@pytest.mark.parametrize('options, words', [({'initial': 0.5}, 'initial is 0.5'), ({'every': 0}, 'every is 0')])
def test_scales_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LossScale(PLAIN, **options)
