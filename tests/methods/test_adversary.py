"""Adversaries: the sum of both losses is two optimizers at one point, and groups of parameters that step rarely."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from longview.methods.ema import Ema
from longview.methods.generate.adversary import Adversarial, Hinge, NonSaturating, held
from longview.methods.generate.generator import sample
from longview.methods.optim.adamw import adamw
from longview.methods.optim.apart import Group, apart
from longview.methods.optim.sgd import sgd
from longview.methods.task import chain, init_state, make_step
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from tests.modelzoo import tiny

RNG = jax.random.key(0)
DRAWS = np.random.default_rng(0)
BATCH = {
    'image': DRAWS.normal(size=(8, 4, 4, 1)).astype(np.float32),
    'epoch': np.zeros(8, np.int32),
    'index': np.arange(8, dtype=np.int32),
}
BATCH = jax.tree.map(jnp.asarray, BATCH)


class Painter(nn.Module):
    """Numbers -> an image."""

    side: int = 4

    @nn.compact
    def __call__(self, code, *, train=False):
        x = jnp.tanh(Dense(8, name='hidden', kernel_init=nn.initializers.normal(0.5))(code))
        x = Dense(self.side**2, name='paint', kernel_init=nn.initializers.normal(0.5))(x)
        return x.reshape(len(x), self.side, self.side, 1)


class Critic(nn.Module):
    """An image -> one number."""

    normalized: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        if self.normalized:
            x = BatchNorm(name='norm')(x, train=train)
        x = jnp.tanh(Dense(8, name='hidden', kernel_init=nn.initializers.normal(0.5))(x.reshape(len(x), -1)))
        return Dense(1, name='say', kernel_init=nn.initializers.normal(0.5))(x)


TASK = Adversarial(Painter(), Critic(), width=3)
CONTESTS = {'non_saturating': NonSaturating(), 'hinge': Hinge()}
RATES = {'generator': 0.01, 'critic': 0.04}


def depths(path):
    return 0, 1


def flat(rate):
    return functools.partial(adamw, schedule=lambda *_: optax.constant_schedule(rate), weight_decay=0.01)


def groups(every=1):
    rare = Group('generator/.*', flat(RATES['generator']), every)
    return [rare, Group('critic/.*', flat(RATES['critic']))]


def codes_of(task, rng):
    """What the generator begins with in a step with this key."""
    return task._codes(jax.vmap(lambda n: jax.random.fold_in(jax.random.split(rng, 5)[0], n))(jnp.arange(8)))


def of_sides(task, v, rng):
    """Both losses as functions of the parameters of their own side alone, by the equations of Goodfellow et al."""
    code = codes_of(task, rng)
    says = lambda params, x: task.critic.apply({'params': params}, x)[:, 0]
    paints = lambda params: task.generator.apply({'params': params}, code)

    def of_critic(params):
        made = says(params, paints(v.params['generator']))
        data = says(params, BATCH['image'])
        if isinstance(task.contest, Hinge):
            return jnp.mean(jnp.maximum(1 - data, 0) + jnp.maximum(1 + made, 0))
        return -jnp.mean(jnp.log(jax.nn.sigmoid(data)) + jnp.log(1 - jax.nn.sigmoid(made)))

    def of_generator(params):
        made = says(v.params['critic'], paints(params))
        return -jnp.mean(made if isinstance(task.contest, Hinge) else jnp.log(jax.nn.sigmoid(made)))

    return {'critic': of_critic, 'generator': of_generator}


@pytest.mark.parametrize('name', CONTESTS)
def test_a_step_is_that_of_two_optimizers_at_the_same_point(name):
    task = Adversarial(Painter(), Critic(), width=3, contest=CONTESTS[name])
    tx = apart(100, 10.0, depths, groups=groups()).transform

    step = tiny.jit(make_step(task, tx, transform=chain(())))

    @tiny.jit
    def alone(state):
        rng = jax.random.fold_in(jax.random.split(RNG)[1], state.step)
        sides = of_sides(task, state.variables, rng)
        return {side: jax.grad(loss)(state.variables.params[side]) for side, loss in sides.items()}

    @tiny.jit
    def by_hand(params, grads):
        for side, rate in RATES.items():
            optimizer = flat(rate)(100, 10.0, depths).transform
            state = optimizer.init(params[side])
            for grad in grads:
                updates, state = optimizer.update(grad[side], state, params[side])
                params = params | {side: optax.apply_updates(params[side], updates)}
        return params

    states, grads = [tiny.jit(lambda: init_state(task, tx, RNG, BATCH, chain(())))()], []
    for _ in range(2):
        grads.append(alone(states[-1]))
        states.append(step(states[-1], BATCH, RNG)[0])
    params = jax.device_get(by_hand(states[0].variables.params, grads))
    states = jax.device_get(states)
    assert int(states[-1].bad_step) == -1
    chex.assert_trees_all_close(states[-1].variables.params, params, rtol=2e-4, atol=2e-6)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[0].variables.params, params)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_between_its_steps_a_group_stays_as_it_is_and_its_moments_too():
    """Every third step: the same as its optimizer stepped by hand with the third and the sixth gradient."""
    params = {'generator': {'kernel': jnp.ones((2, 2))}, 'critic': {'kernel': jnp.ones(3)}}
    grads = jax.tree.map(lambda p: jnp.asarray(DRAWS.normal(size=(6, *p.shape)), jnp.float32), params)
    decaying = functools.partial(adamw, schedule=lambda steps, per_epoch: optax.linear_schedule(0.1, 0.0, steps))
    rare = Group('generator/.*', decaying, 3)
    optimizer = apart(6, 3.0, depths, groups=[rare, Group('.*', decaying)])

    @tiny.jit
    def run(params, grads):
        state, seen = optimizer.transform.init(params), [params]
        for n in range(6):
            updates, state = optimizer.transform.update(jax.tree.map(lambda g: g[n], grads), state, seen[-1])
            seen.append(optax.apply_updates(seen[-1], updates))
        by_hand = []
        for side, steps, at in (('generator', 2, (2, 5)), ('critic', 6, range(6))):
            alone, own = decaying(steps, 1.0, depths).transform, params[side]
            state = alone.init(own)
            for n in at:
                updates, state = alone.update(jax.tree.map(lambda g: g[n], grads[side]), state, own)
                own = optax.apply_updates(own, updates)
            by_hand.append(own)
        return seen, by_hand

    seen, (generator, critic) = jax.device_get(run(params, grads))
    chex.assert_trees_all_close(seen[-1], {'generator': generator, 'critic': critic}, rtol=1e-6)
    for still in (1, 2, 4, 5):
        chex.assert_trees_all_equal(seen[still]['generator'], seen[still - 1]['generator'])
    assert np.abs(seen[3]['generator']['kernel'] - seen[2]['generator']['kernel']).min() > 0
    # What is logged is the rate of the first group: it falls at its own steps.
    assert [round(float(optimizer.schedule(n)), 3) for n in range(6)] == [0.1] * 3 + [0.05] * 3


def test_microbatches_change_no_number_and_statistics_of_a_critic_move_by_what_it_learns_from():
    task, tx = Ema(Adversarial(Painter(), Critic(normalized=True), width=3), 0.5), optax.sgd(0.1)

    @tiny.jit
    def run():
        first = init_state(task, tx, RNG, BATCH, chain(()))
        plain = init_state(Ema(TASK, 0.5), tx, RNG, BATCH, chain(()))
        step = lambda task, state, parts: make_step(task, tx, transform=chain(()), accumulate=parts)(state, BATCH, RNG)[
            0
        ]
        params = first.variables.params['generator']
        made = Painter().apply({'params': params}, codes_of(TASK, jax.random.fold_in(jax.random.split(RNG)[1], 0)))
        return made, step(task, first, 1), [step(Ema(TASK, 0.5), plain, parts) for parts in (1, 2)]

    made, normed, (whole, parts) = jax.device_get(run())
    chex.assert_trees_all_close(whole, parts, rtol=1e-4, atol=1e-6)
    # Two passes of a tenth each: first over the data, then over what is made.
    mean = normed.variables.state['inner']['critic']['batch_stats']['norm']['mean']
    np.testing.assert_allclose(mean, [0.9 * 0.1 * np.mean(BATCH['image']) + 0.1 * made.mean()], rtol=1e-4)
    metrics = whole.meters
    np.testing.assert_allclose(metrics['loss'], metrics['generator'] + metrics['critic'], rtol=1e-6)


def test_figures_samples_and_networks():
    task, seen = Ema(TASK, 0.5), BATCH | {'mask': jnp.arange(8) < 5}

    @tiny.jit
    def run():
        v = task.init(RNG, BATCH)
        parts = [
            task.measure(v, {name: x[rows] for name, x in seen.items()}, None, RNG) for rows in (slice(3), slice(3, 8))
        ]
        return v, parts, sample(task, v, RNG, jnp.arange(3)), sample(task, v, RNG, jnp.arange(2, 3))

    v, parts, three, last = jax.device_get(run())
    figures = task.figures(jax.tree.map(np.add, *parts), {})
    assert {'loss', 'generator', 'critic', 'raw_loss'} <= set(figures)
    assert figures['loss'] == pytest.approx(figures['generator'] + figures['critic'], rel=1e-5)
    np.testing.assert_allclose(three[2:], last, rtol=1e-5)
    assert three.shape == (3, 4, 4, 1)
    deployed = task.deployed(v)
    assert set(deployed) == {'generator', 'critic'} and deployed['critic'].module == Critic()
    chex.assert_trees_all_equal(deployed['generator'].variables, {'params': v.state['average']['generator']})


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="held: 'judge/.*' matches no parameter"):
        held({'critic': {'kernel': jnp.ones(2)}}, 'judge/.*')
    with pytest.raises(
        ValueError, match=r'the generator makes images of \(2, 2, 1\) and those of the data are \(4, 4, 1\)'
    ):
        jax.eval_shape(Adversarial(Painter(2), Critic(), width=3).init, RNG, BATCH)
    params, one = {'a': jnp.ones(2), 'b': jnp.ones(2)}, functools.partial(sgd, schedule=lambda *_: lambda step: 0.1)
    with pytest.raises(ValueError, match='b is in no group of the optimizer, which has a: add one'):
        apart(5, 1.0, depths, groups=[Group('a', one)]).transform.init(params)
    with pytest.raises(ValueError, match="the group 'c' of the optimizer has no parameter"):
        apart(5, 1.0, depths, groups=[Group('c', one), Group('.*', one)]).transform.init(params)
    with pytest.raises(ValueError, match='a group steps every 6 steps and the run has 5'):
        apart(5, 1.0, depths, groups=[Group('.*', one, 6)])
    with pytest.raises(ValueError, match="the group 'a' steps every 0 steps"):
        Group('a', one, 0)
