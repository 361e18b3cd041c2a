"""One step, however it is run: microbatches, meshes, donation, and what happens when it is not finite.

A program is compiled once and shared: `states` keeps what each step left, on the host.
"""

import dataclasses
import functools
import itertools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods import diagnose, forward
from longview.methods.ema import Ema
from longview.methods.evaluation import make_measure
from longview.methods.optim.adamw import adamw
from longview.methods.optim.schedules import warmup_cosine
from longview.methods.supervised import Supervised, cross_entropy
from longview.methods.task import (
    Task,
    TrainState,
    Variables,
    chain,
    init_state,
    make_step,
    normalizes_batches,
)
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.evonorm import EvoNormB0
from longview.runtime.mesh import MeshConfig, batch_sharding, make_mesh, replicated, tree_shardings
from tests.modelzoo import tiny
from tests.toys import Head, Net, Normed, Spoil

RNG = jax.random.key(0)
NOTHING = chain([])
SPOIL = Spoil(index=99)  # which a batch has only where a test puts it
ADAM = optax.adam(1e-2)
TASK = Supervised(Net(drop=0.3), Head())


def batch_of(size: int = 16) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        'image': jnp.asarray(rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)),
        'label': jnp.asarray(rng.integers(0, 10, size, dtype=np.int32)),
        'epoch': jnp.asarray(np.zeros(size, np.int32)),
        'index': jnp.asarray(np.arange(size, dtype=np.int32)),
    }


@functools.cache
def start(task: Task = TASK) -> TrainState:
    """Returns a task's first state."""
    return jax.device_get(tiny.jit(lambda: init_state(task, ADAM, RNG, batch_of(), SPOIL))())


@functools.cache
def step_of(task: Task = TASK, **options):
    return tiny.jit(make_step(task, ADAM, transform=SPOIL, **options))


@functools.cache
def states(task: Task = TASK, **options) -> list[TrainState]:
    """Returns the first state and those after each of three steps."""
    made = [start(task)]
    for _ in range(3):
        made.append(jax.device_get(step_of(task, **options)(made[-1], batch_of(), RNG)[0]))
    return made


@pytest.mark.parametrize('accumulate', [pytest.param(4, marks=pytest.mark.quick), 16])
def test_accumulation_changes_no_number(accumulate: int) -> None:
    whole, parts = states()[-1], states(accumulate=accumulate)[-1]
    chex.assert_trees_all_close(whole.variables.params, parts.variables.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(whole.meters, parts.meters, rtol=1e-5)


class Count(nn.Module):
    """Running statistics that know nothing of microbatches: how often they were seen, under the name of an average."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        count = self.variable('batch_stats', 'var', jnp.zeros, ())
        if train:
            count.value = count.value + 1
        return x


class Norms(nn.Module):
    """Every layer with running statistics, side by side."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = Count(name='count')(x, train=train)
        return BatchNorm(name='batchnorm')(x, train=train) + EvoNormB0(name='evonorm')(x, train=train)


NORMED = Supervised(Normed(Norms), Head())


def test_running_statistics_move_once_a_step_by_all_microbatches_and_others_once_a_microbatch() -> None:
    """The first layers see the same pixels however they are split, so their statistics are those of the whole batch.

    Their outputs are not: why a run that goes on must keep its `accumulate` then (runtime/plan.py).
    """
    whole, parts = states(NORMED)[-1], states(NORMED, accumulate=8)[-1]
    statistics, in_parts = (dict(state.variables.state['batch_stats']['first']) for state in (whole, parts))
    assert (statistics.pop('count'), in_parts.pop('count')) == ({'var': 3}, {'var': 3 * 8})
    assert statistics.keys() == {'batchnorm', 'evonorm'}
    chex.assert_trees_all_close(statistics, in_parts, rtol=1e-5)
    assert abs(whole.meters['loss'] - parts.meters['loss']) > 1e-3 and normalizes_batches(whole.variables.state)


def test_the_dropped_rows_matter() -> None:
    """Guards the test above: it would pass trivially if stochastic depth did nothing."""
    batch = batch_of() | {'row': jnp.arange(16)}
    plain = tiny.jit(lambda v: Supervised(Net(), Head()).loss(v, batch, RNG, jnp.int32(0))[0])
    assert abs(float(plain(start().variables)) - states()[1].meters['loss']) > 1e-3


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(ValueError, match='16 does not divide into 3 microbatches'):
        jax.eval_shape(step_of(accumulate=3), start(), batch_of(), RNG)


# Devices along each axis, and microbatches. Each axis alone and all together; more devices, and more ways, are heavy.
MESHES = [
    ((2, 1, 1), 2),
    ((1, 2, 1), 1),
    ((2, 2, 2), 2),
    *(
        pytest.param(sizes, accumulate, marks=pytest.mark.heavy)
        for sizes, accumulate in itertools.product([(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 8, 1)], [1, 2])
        if (sizes, accumulate) != ((2, 2, 2), 2)
    ),
]


@pytest.mark.parametrize('sizes, accumulate', MESHES)
def test_any_mesh_gives_the_same_numbers(sizes: tuple[int, int, int], accumulate: int) -> None:
    config = MeshConfig(*sizes, rules=(('hidden/kernel', (None, 'tensor')),), fsdp_min_size=1)
    mesh, batch = make_mesh(config, jax.devices()[: math.prod(sizes)]), batch_of()
    init = lambda: init_state(TASK, ADAM, RNG, batch, SPOIL)
    shardings = tree_shardings(jax.eval_shape(init), mesh, config)
    state = tiny.jit(init, out_shardings=shardings)()
    step = tiny.jit(
        make_step(TASK, ADAM, transform=SPOIL, accumulate=accumulate),
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    batch = jax.device_put(batch, batch_sharding(mesh))
    for _ in range(3):
        state, _ = step(state, batch, jax.device_put(RNG, replicated(mesh)))
    chex.assert_trees_all_close(
        jax.device_get(state.variables.params), states()[-1].variables.params, rtol=1e-4, atol=1e-5
    )
    assert step._cache_size() == 1


EMA = Ema(NORMED, decay=0.5)


def halved(trees) -> dict:
    """Returns the average with decay 1/2 of some trees, from the first on."""
    return functools.reduce(lambda a, b: jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, a, b), trees)


@pytest.mark.quick
def test_averaged_weights_follow_the_rule_and_change_no_training() -> None:
    found, plain = states(EMA), states(NORMED)
    chex.assert_trees_all_close(found[-1].variables.params, plain[-1].variables.params, rtol=1e-4, atol=1e-5)
    expected = halved([state.variables.params for state in found])
    chex.assert_trees_all_close(found[-1].variables.state['average'], expected, rtol=1e-5, atol=1e-7)


def test_averaged_weights_are_scored_with_statistics_averaged_alike() -> None:
    """Those of the newest weights belong to other activations: an evaluation with them is of neither network."""
    newest = lambda v: v._replace(state=v.state['inner'])
    last, expected = states(EMA)[-1].variables, halved([newest(state.variables) for state in states(EMA)])
    score = lambda v, *inner: (EMA.score(v, batch_of()), [NORMED.score(v, batch_of()) for v in inner])
    scores, (wanted, raw) = jax.device_get(tiny.jit(score)(last, expected, newest(last)))
    np.testing.assert_allclose(scores['loss'], wanted['loss'], rtol=1e-4)
    np.testing.assert_allclose(scores['raw_loss'], raw['loss'], rtol=1e-6)
    assert not np.allclose(scores['loss'], raw['loss'], rtol=1e-2)


def test_an_average_that_reaches_back_before_the_run_is_told() -> None:
    task = Ema(Supervised(Net(), Head()), decay=0.999)
    assert 'averages over about 1,000 steps and the run has 999' in Ema(task, decay=0.5).advice(999)
    assert task.advice(1000) is None and dataclasses.replace(task, warmup=True).advice(10) is None


def test_averages_warm_up() -> None:
    task, before = Ema(NORMED, decay=0.3, warmup=True), jnp.float32(1.0)
    v = Variables({'scale': jnp.float32(0.0)}, {'inner': {}, 'average': {'scale': before}}, {})
    steps = [0, 1, 2, 5]
    found = [float(task.after(v, None, jnp.int32(step)).state['average']['scale']) for step in steps]
    np.testing.assert_allclose(found, [1 / 10, 2 / 11, 3 / 12, 0.3], rtol=1e-6)


@pytest.mark.quick
def test_scores_leave_padding_out() -> None:
    batch, score = batch_of(), tiny.jit(make_measure(TASK, NOTHING))
    twice = {name: x.at[8:].set(x[:8]) for name, x in batch.items()} | {'mask': jnp.ones(16, bool)}
    spoiled = batch | {'label': batch['label'].at[8:].set(0), 'mask': jnp.arange(16) < 8}
    both, half = (jax.device_get(score(start().variables, rows, RNG).sums) for rows in (twice, spoiled))
    chex.assert_trees_all_close(both, jax.tree.map(lambda x: 2 * x, half), rtol=1e-5)
    assert half['weight'] == 8 and half['loss'] > 0


def test_top5_and_accuracy_count_ranks() -> None:
    @dataclasses.dataclass(frozen=True)
    class Fixed(Supervised):
        def predict(self, v, batch):
            return {'logits': jnp.arange(10.0)[None] + jnp.zeros((3, 1))}

    scores = Fixed(Net(), Head()).score(Variables({}, {}, {}), {'label': jnp.array([9, 5, 4])})
    assert scores['accuracy'].tolist() == [1, 0, 0]
    assert scores['top5'].tolist() == [1, 1, 0]


def test_cross_entropy_is_the_equation() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(4, 7)), rng.dirichlet(np.ones(7), 4)
    expected = -(target * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    np.testing.assert_allclose(cross_entropy(jnp.float32(logits), jnp.float32(target)), expected, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Named(Supervised):
    """Reports and scores under any names."""

    metric: str = 'other'
    scored: str = 'other'

    def loss(self, v, batch, rng, step):
        loss, (state, metrics) = super().loss(v, batch, rng, step)
        return loss, (state, {self.metric: metrics['loss']})

    def score(self, v, batch):
        return {self.scored: super().score(v, batch)['loss']}


def test_every_step_reports_its_loss_and_meters_restart_with_every_window() -> None:
    losses = [float(state.meters['loss']) for state in states()[1:]]
    meters = [state.meters for state in states(Named(TASK.backbone, TASK.head), log_every=2)[1:]]
    assert meters[0].keys() == {'loss', 'other', 'grad_norm', 'update_norm'} and len(set(losses)) == 3
    for name in ('loss', 'other'):
        wanted = [losses[0], losses[0] + losses[1], losses[2]]
        np.testing.assert_allclose([meter[name] for meter in meters], wanted, rtol=1e-5)


@pytest.mark.quick
def test_a_bad_step_changes_nothing_but_its_mark() -> None:
    step, good = step_of(), states()[1]
    assert good.bad_step == -1
    bad, bad_step = jax.device_get(step(good, {**batch_of(), 'index': jnp.full(16, 99)}, RNG))
    assert bad_step == 1
    chex.assert_trees_all_equal(bad._replace(bad_step=good.bad_step), good)
    later, _ = jax.device_get(step(bad, batch_of(), RNG))
    chex.assert_trees_all_equal(later, bad)


def test_a_name_that_the_run_itself_reports_is_refused() -> None:
    with pytest.raises(ValueError, match="reports 'grad_norm', .* give it another name"):
        start(Named(Net(), Head(), metric='grad_norm'))
    task = Named(Net(), Head(), scored='count')
    with pytest.raises(ValueError, match="scores 'count', .* give it another name"):
        jax.eval_shape(make_measure(task, NOTHING), start().variables, batch_of() | {'mask': jnp.ones(16, bool)}, RNG)


def test_a_wrapper_compares_examples_if_what_it_wraps_does() -> None:
    @dataclasses.dataclass(frozen=True)
    class Comparing(Supervised):
        batchwide = True

    assert Ema(Ema(Comparing(Net(), Head()))).batchwide and not Ema(Supervised(Net(), Head())).batchwide


@pytest.mark.parametrize(
    'where, words',
    [
        ('weight', 'the weight backbone/hidden/kernel'),
        ('batch', 'the batch array image'),
        ('transform', 'the batch transforms made it in image'),
        ('module', 'the module classifier (Dense)'),
    ],
)
def test_the_first_bad_thing_is_named(where: str, words: str) -> None:
    state, batch, transform = jax.tree.map(jnp.array, states()[-1]), batch_of(), NOTHING
    batch = {**batch, 'image': batch['image'].astype(jnp.float32)}
    params = state.variables.params
    if where == 'weight':
        params['backbone']['hidden']['kernel'] = params['backbone']['hidden']['kernel'].at[0, 0].set(jnp.nan)
    if where == 'module':
        params['head']['classifier']['kernel'] = jnp.full_like(params['head']['classifier']['kernel'], 3e38)
    if where == 'batch':
        batch['image'] = batch['image'].at[3].set(jnp.inf)
    if where == 'transform':
        transform = lambda batch, rng: {**batch, 'image': batch['image'] / 0}
    assert words in diagnose.first_bad(TASK, state, batch, RNG, transform)


def test_the_first_bad_thing_is_looked_for_in_microbatches_and_without_labels() -> None:
    """The whole batch may not fit into memory; that is what microbatches are for."""
    sizes = []

    class Dividing(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool = False):
            sizes.append(len(x))
            x = nn.Dense(2, name='hidden')(x.astype(jnp.float32).reshape(len(x), -1))
            return {'pooled': x, 'logits': x}

    @dataclasses.dataclass(frozen=True)
    class Summing(Supervised):
        def loss(self, v, batch, rng, step):
            features, state = forward.learn(
                self.backbone, v.params['backbone'], v.state, batch['image'], rng=rng, row=batch['row']
            )
            bad = jnp.where(batch['row'] == 7, jnp.nan, 1.0)
            return jnp.mean(features['pooled'].sum(axis=1) * bad), (state, {})

    task = Summing(Dividing(), Head())
    batch = {name: x for name, x in batch_of().items() if name != 'label'}
    state = tiny.jit(lambda: init_state(task, ADAM, RNG, batch, NOTHING))()
    sizes.clear()
    found = diagnose.first_bad(task, state, batch, RNG, NOTHING, accumulate=4)
    assert found == 'the gradient of backbone/hidden/bias is the first that is not' and set(sizes) == {4}


def optimizer(**options):
    schedule = lambda steps, per_epoch: warmup_cosine(steps, per_epoch, peak=0.1, warmup_epochs=1, start=0.01, end=0.02)
    return adamw(20, 10, lambda path: (0 if 'hidden' in path else 1, 2), schedule=schedule, **options)


def test_schedule_is_the_rule() -> None:
    rate = optimizer().schedule
    expected = [0.01 + 0.09 * t / 10 for t in range(10)]
    expected += [0.02 + 0.08 * 0.5 * (1 + np.cos(np.pi * t / 10)) for t in range(11)]
    np.testing.assert_allclose([rate(t) for t in range(21)], expected, rtol=1e-5)


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match='a warm-up of 50 steps is longer than the run of 20 steps'):
        warmup_cosine(20, 10, peak=0.1, warmup_epochs=5)


PARAMS = {'hidden': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}, 'classifier': {'kernel': jnp.ones((2, 2))}}


def first_update(**options):
    """Returns the first update without a gradient, of the decay alone."""
    tx = optimizer(**options).transform

    @tiny.jit
    def run():
        return tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)[0]

    return jax.device_get(run())


def test_decay_follows_axes_and_rules() -> None:
    update = first_update(weight_decay=0.5)
    np.testing.assert_allclose(update['hidden']['kernel'], -0.01 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(update['hidden']['bias'], 0)
    update = first_update(weight_decay=0.5, decay_rules=(('bias', 2.0), ('hidden', 0.0)))
    np.testing.assert_allclose(update['hidden']['bias'], -0.01, rtol=1e-6)
    np.testing.assert_allclose(update['hidden']['kernel'], 0)


def test_layers_learn_at_their_own_rates() -> None:
    update = first_update(weight_decay=0.5, layer_decay=0.5)
    np.testing.assert_allclose(update['hidden']['kernel'], -0.01 * 0.5 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(update['classifier']['kernel'], -0.01 * 0.5, rtol=1e-6)
    update = first_update(weight_decay=0.5, rate_rules=(('hidden', 0.0),))
    np.testing.assert_allclose(update['hidden']['kernel'], 0)
    np.testing.assert_allclose(update['classifier']['kernel'], -0.01 * 0.5, rtol=1e-6)


def test_gradients_are_clipped_together() -> None:
    tx = optimizer(weight_decay=0.0, clip_norm=1.0).transform
    grads = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    _, state = jax.device_get(tiny.jit(lambda: tx.update(grads, tx.init(PARAMS), PARAMS))())
    moment = next(s.mu for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, 'mu')) if hasattr(s, 'mu'))
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moment)))
    np.testing.assert_allclose(norm, 0.1, rtol=1e-5)


@pytest.mark.parametrize('name', ['decay_rules', 'rate_rules'])
def test_rules_that_match_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 'no_such' matches no parameter"):
        optimizer(**{name: (('no_such', 1.0),)}).transform.init(PARAMS)


def test_a_task_that_knows_no_depths_says_so() -> None:
    with pytest.raises(NotImplementedError, match='set layer_decay to 1'):
        Task.depth_of(TASK, 'hidden')
