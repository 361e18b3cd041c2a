"""One step, however it is run: microbatches, meshes, donation, and what happens when it is not finite."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods import diagnose, forward
from longview.methods.ema import Ema
from longview.methods.optim.adamw import adamw
from longview.methods.optim.schedules import warmup_cosine
from longview.methods.supervised import Supervised, cross_entropy
from longview.methods.task import Task, Variables, chain, init_state, make_score, make_step, normalizes_batches
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.evonorm import EvoNormB0
from longview.runtime.mesh import MeshConfig, batch_sharding, make_mesh, replicated, tree_shardings
from tests.toys import Head, Net, Normed

RNG = jax.random.key(0)
NOTHING = chain([])
TASK = Supervised(Net(drop=0.3), Head())


def batch_of(size: int = 16) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        'image': jnp.asarray(rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)),
        'label': jnp.asarray(rng.integers(0, 10, size, dtype=np.int32)),
        'epoch': jnp.zeros(size, jnp.int32),
        'index': jnp.arange(size, dtype=jnp.int32),
    }


def after_steps(task=TASK, tx=optax.adam(1e-2), steps: int = 3, batch=None, **options):
    batch = batch_of() if batch is None else batch
    state = jax.jit(lambda: init_state(task, tx, RNG, batch, NOTHING))()
    step = jax.jit(make_step(task, tx, transform=NOTHING, **options), donate_argnums=0)
    for _ in range(steps):
        state, _ = step(state, batch, RNG)
    return state


@pytest.mark.parametrize('accumulate', [2, 4, 16])
def test_accumulation_changes_no_number(accumulate: int) -> None:
    whole, parts = after_steps(), after_steps(accumulate=accumulate)
    chex.assert_trees_all_close(whole.variables.params, parts.variables.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(whole.meters, parts.meters, rtol=1e-5)


@pytest.mark.parametrize('norm', [BatchNorm, EvoNormB0], ids=lambda norm: norm.__name__)
def test_running_statistics_move_once_a_step_by_all_microbatches(norm: type) -> None:
    """The first layer sees the same pixels however they are split, so its statistics are those of the whole batch.

    Its outputs are not: why a run that goes on must keep its `accumulate` then (runtime/plan.py).
    """
    task = Supervised(Normed(norm), Head())
    whole, parts = (jax.device_get(after_steps(task, accumulate=parts)) for parts in (1, 8))
    first = lambda state: state.variables.state['batch_stats']['first']
    chex.assert_trees_all_close(first(whole), first(parts), rtol=1e-5)
    assert abs(whole.meters['loss'] - parts.meters['loss']) > 1e-3 and normalizes_batches(whole.variables.state)


def test_other_running_statistics_move_once_a_microbatch() -> None:
    class Count(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool):
            count = self.variable('batch_stats', 'var', jnp.zeros, ())
            count.value = count.value + train
            return x

    state = after_steps(Supervised(Normed(Count), Head()), accumulate=4)
    assert jax.device_get(state.variables.state) == {'batch_stats': {'first': {'var': 12}, 'last': {'var': 12}}}


def test_the_dropped_rows_matter() -> None:
    """Guards the test above: it would pass trivially if stochastic depth did nothing."""
    plain = after_steps(Supervised(Net(), Head()))
    assert float(jnp.abs(plain.meters['loss'] - after_steps().meters['loss'])) > 1e-3


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(ValueError, match='16 does not divide into 3 microbatches'):
        after_steps(accumulate=3)


@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 8, 1)])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_any_mesh_gives_the_same_numbers(sizes: tuple[int, int, int], accumulate: int) -> None:
    config = MeshConfig(*sizes, rules=(('hidden/kernel', (None, 'tensor')),), fsdp_min_size=1)
    mesh, tx, batch = make_mesh(config), optax.adam(1e-2), batch_of()
    init = lambda: init_state(TASK, tx, RNG, batch, NOTHING)
    shardings = tree_shardings(jax.eval_shape(init), mesh, config)
    state = jax.jit(init, out_shardings=shardings)()
    step = jax.jit(
        make_step(TASK, tx, transform=NOTHING, accumulate=accumulate),
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    batch = jax.device_put(batch, batch_sharding(mesh))
    for _ in range(3):
        state, _ = step(state, batch, jax.device_put(RNG, replicated(mesh)))
    chex.assert_trees_all_close(
        jax.device_get(state.variables.params), jax.device_get(after_steps().variables.params), rtol=1e-4, atol=1e-5
    )
    assert step._cache_size() == 1


def test_averaged_weights_follow_the_rule_and_are_scored() -> None:
    tx, batch = optax.sgd(0.1), batch_of()
    task = Ema(Supervised(Net(), Head()), decay=0.9)
    state = after_steps(task, tx, steps=2)
    expected = jax.jit(lambda: init_state(task.inner, tx, RNG, batch, NOTHING))().variables.params
    for count in (1, 2):
        weights = after_steps(task.inner, tx, steps=count).variables.params
        expected = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, expected, weights)
    chex.assert_trees_all_close(state.variables.state['average'], expected, rtol=1e-5, atol=1e-7)
    scores = task.score(state.variables, batch)
    inner = task.inner.score(state.variables._replace(state={}), batch)
    np.testing.assert_allclose(scores['raw_loss'], inner['loss'], rtol=1e-6)
    assert not np.allclose(scores['loss'], inner['loss'], rtol=1e-3)


def test_running_statistics_are_averaged_with_the_weights() -> None:
    """Those of the newest weights belong to other activations: an evaluation with them is of neither network."""
    task, tx, batch = Ema(Supervised(Normed(), Head()), decay=0.5), optax.sgd(0.5), batch_of()
    step = make_step(task, tx, transform=NOTHING)
    newest = lambda v: v._replace(state=v.state['inner'])
    half = lambda a, b: jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, a, b)

    @jax.jit
    def run():
        state = init_state(task, tx, RNG, batch, NOTHING)
        expected = newest(state.variables)
        for _ in range(2):
            state, _ = step(state, batch, RNG)
            expected = half(expected, newest(state.variables))
        return task.score(state.variables, batch), task.inner.score(expected, batch)

    scores, expected = jax.device_get(run())
    np.testing.assert_allclose(scores['loss'], expected['loss'], rtol=1e-4)
    assert not np.allclose(scores['loss'], scores['raw_loss'], rtol=1e-2)


def test_an_average_that_reaches_back_before_the_run_is_told() -> None:
    task = Ema(Supervised(Net(), Head()), decay=0.999)
    assert 'averages over about 1,000 steps and the run has 999' in Ema(task, decay=0.5).advice(999)
    assert task.advice(1000) is None and dataclasses.replace(task, warmup=True).advice(10) is None


def test_averages_warm_up() -> None:
    state = after_steps(Ema(Supervised(Net(), Head()), decay=0.9999, warmup=True), optax.sgd(0.1), steps=1)
    start = after_steps(Supervised(Net(), Head()), optax.sgd(0.1), steps=0).variables.params
    expected = jax.tree.map(lambda a, p: 0.1 * a + 0.9 * p, start, state.variables.params)
    chex.assert_trees_all_close(state.variables.state['average'], expected, rtol=1e-5, atol=1e-7)


def test_scores_leave_padding_out() -> None:
    state, batch = after_steps(Supervised(Net(), Head())), batch_of()
    score = make_score(Supervised(Net(), Head()), NOTHING)
    half = jnp.arange(16) < 8
    spoiled = {**batch, 'label': jnp.where(half, batch['label'], 0), 'mask': half}
    sums = score(state.variables, spoiled, RNG)
    first = {k: x[:8] for k, x in batch.items()} | {'mask': jnp.ones(8, bool)}
    chex.assert_trees_all_close(sums, score(state.variables, first, RNG), rtol=1e-5)
    assert sums['count'] == 8


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


def test_meters_restart_with_every_window() -> None:
    losses = [float(after_steps(steps=n).meters['loss']) for n in (1, 2, 3)]
    assert float(after_steps(steps=3, log_every=2).meters['loss']) == losses[2]
    np.testing.assert_allclose(after_steps(steps=2, log_every=2).meters['loss'], losses[0] + losses[1], rtol=1e-6)


def test_a_bad_step_changes_nothing_but_its_mark() -> None:
    tx = optax.adam(1e-2)
    batch = batch_of()
    spoil = lambda batch, rng: {**batch, 'image': jnp.where(batch['index'][0] == 7, jnp.nan, 1.0) * batch['image']}
    state = jax.jit(lambda: init_state(TASK, tx, RNG, batch, spoil))()
    step = jax.jit(make_step(TASK, tx, transform=spoil))
    good, bad_step = step(state, batch, RNG)
    assert int(bad_step) == -1
    bad, bad_step = step(good, {**batch, 'index': jnp.full(16, 7)}, RNG)
    assert int(bad_step) == 1
    chex.assert_trees_all_equal(bad._replace(bad_step=good.bad_step), good)
    later, _ = step(bad, batch, RNG)
    chex.assert_trees_all_equal(later, bad)


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


def test_every_step_reports_its_loss() -> None:
    meters = jax.device_get(after_steps(Named(Net(), Head()), steps=1).meters)
    assert meters.keys() == {'loss', 'other', 'grad_norm', 'update_norm'} and meters['loss'] == meters['other'] > 0


def test_a_name_that_the_run_itself_reports_is_refused() -> None:
    with pytest.raises(ValueError, match="reports 'grad_norm', .* give it another name"):
        after_steps(Named(Net(), Head(), metric='grad_norm'))
    task = Named(Net(), Head(), scored='count')
    with pytest.raises(ValueError, match="scores 'count', .* give it another name"):
        make_score(task, NOTHING)(after_steps(task, steps=0).variables, batch_of() | {'mask': jnp.ones(16, bool)}, RNG)


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
    state, batch, transform = after_steps(), batch_of(), NOTHING
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
    state = after_steps(task, steps=0, batch=batch)
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
    tx = optimizer(**options).transform
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


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
    state = tx.init(PARAMS)
    _, state = tx.update(grads, state, PARAMS)
    moment = next(s.mu for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, 'mu')) if hasattr(s, 'mu'))
    np.testing.assert_allclose(optax.tree.norm(moment), 0.1, rtol=1e-5)


@pytest.mark.parametrize('name', ['decay_rules', 'rate_rules'])
def test_rules_that_match_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 'no_such' matches no parameter"):
        first_update(**{name: (('no_such', 1.0),)})


def test_a_task_that_knows_no_depths_says_so() -> None:
    with pytest.raises(NotImplementedError, match='set layer_decay to 1'):
        Task.depth_of(TASK, 'hidden')
