"""Skipping blocks and leaving early: the papers' equations, and what is saved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.exits import skip
from longview.methods.exits.confidence import EXIT_LOGITS, Branch, EarlyExit, certain, confident, operations
from longview.methods.exits.skip import Skip
from longview.methods.exits.staged import staged
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.vision import skipnet
from longview.modelzoo.vision.dit_routing import RoutedTransformer
from longview.modelzoo.vision.resnet import Basic, ResNet
from tests.methods.small import NET, RNG, SEEN, Dropping, begun
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal
SKIPNET = skipnet.SkipNet((3,), (4,), functools.partial(skipnet.MeanGate, size=2), stem_width=4)


def test_rewards_and_probabilities_are_the_equations():
    gates = np.random.default_rng(1).integers(0, 2, (3, 4)).astype(np.float32)
    losses, logits = np.abs(NORMAL(size=3)).astype(np.float32), NORMAL(size=(3, 4)).astype(np.float32)
    wanted = np.empty((3, 4))
    for row in range(3):
        for gate in range(4):
            later = sum(0.9 ** (index - gate) * (1 - gates[row, index]) * 0.2 / 4 for index in range(gate, 4))
            wanted[row, gate] = later - 0.9 ** (4 - gate) * losses[row]
    returns, chances, executed = tiny.jit(
        lambda gates, losses, logits: (
            skip.returns(gates, losses, 0.2, 0.9),
            skip.log_probability(logits, gates),
            skip.executed(gates),
        )
    )(gates, losses, logits)
    np.testing.assert_allclose(returns, wanted, rtol=1e-5)
    likely = 1 / (1 + np.exp(-logits))
    expected = np.log(np.where(gates == 1, likely, 1 - likely))
    np.testing.assert_allclose(chances, expected, rtol=1e-4)
    np.testing.assert_allclose(executed, (1 + gates.sum(1)) / 5, rtol=1e-6)


@pytest.mark.parametrize('decide, reinforce', [(skipnet.hard, 0.0), (skipnet.sampled, 0.5)])
def test_the_loss_of_a_skipping_network_is_the_equation_and_reaches_its_gates(decide, reinforce):
    task = Skip(SKIPNET.clone(decide=decide), Linear(10), alpha=0.3, reinforce=reinforce)

    @tiny.jit
    def run():
        v, rng = task.init(RNG, SEEN), jax.random.key(3)
        (loss, (_, metrics)), grads = jax.value_and_grad(
            lambda params: task.loss(v._replace(params=params), SEEN, rng, jnp.int32(0)), has_aux=True
        )(v.params)
        variables = {'params': v.params, **v.state, 'example': {'row': SEEN['row']}}
        features, _ = Classifier(task.backbone, task.head).apply(
            variables, SEEN['image'], train=True, rngs={'drop_path': rng}, mutable=['batch_stats']
        )
        return loss, metrics, grads, {key: features[key] for key in ('logits', 'gates', 'gate_logits')}

    loss, metrics, grads, features = jax.device_get(run())
    logits, gates, chances = (np.asarray(features[key], np.float64) for key in ('logits', 'gates', 'gate_logits'))
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(16), SEEN['label']]
    np.testing.assert_allclose(metrics['label'], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics['executed'], (1 + gates.sum(1)).mean() / 3, rtol=1e-5)
    if reinforce:
        returns = np.stack([-losses + 0.15 * (2 - gates.sum(1)), -losses + 0.15 * (1 - gates[:, 1])], axis=1)
        likely = 1 / (1 + np.exp(-np.where(gates == 1, chances, -chances)))
        wanted = losses.mean() - reinforce * (returns * np.log(likely)).sum(1).mean()
    else:
        wanted = losses.mean() + 0.3 * gates.mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)
    assert all(abs(grads['backbone'][f'stage0_gate{index:02d}']['embed']['kernel']).max() > 0 for index in range(2))


def test_scores_say_what_was_run():
    task = Skip(SKIPNET, Linear(10))
    scores = jax.eval_shape(lambda: task.score(task.init(RNG, SEEN), SEEN))
    assert set(scores) == {'loss', 'accuracy', 'executed'} and {score.shape for score in scores.values()} == {(16,)}


def test_a_budget_counts_each_example_s_cost_once_its_weight_has_risen():
    """From step 10 on, fully from step 14; the scores say what the paths cost."""
    network = RoutedTransformer((8, 12), (1, 2), (1, 1), 2, patch=4)
    task = Skip(network, Linear(10), budget=0.25, budget_weight=3.0, budget_from=10, budget_warmup=4)

    @tiny.jit
    def run():
        v = task.init(RNG, SEEN)
        loss = lambda step: task.loss(v, SEEN, jax.random.key(3), jnp.int32(step))[0]
        return [loss(step) for step in (0, 11, 14, 99)], task.score(v, SEEN)

    losses, scores = jax.device_get(run())
    extra = 3 * np.square(scores['cost'] - 0.25).mean()
    assert 0.1 < extra and ((0 < scores['cost']) & (scores['cost'] < scores['hard_cost'] + 1e-6)).all()
    np.testing.assert_allclose(
        np.asarray(losses) - losses[0], extra * np.asarray([0, 0.25, 1, 1]), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match='budget is 0.5, and SkipNet does not say what its paths cost: leave it None'):
        jax.eval_shape(Skip(SKIPNET, Linear(10), budget=0.5).init, RNG, SEEN)


def test_a_network_without_gates_cannot_skip():
    with pytest.raises(ValueError, match='Skip needs a backbone with gates, and Pyramid gives logits, map, pooled'):
        jax.eval_shape(Skip(NET, Linear(10)).init, RNG, SEEN)


def early(backbone=NET, exits=('stage0',), weights=(0.5, 1.0), **changes):
    return EarlyExit(backbone, Linear(10), functools.partial(Branch, 10), exits, weights, **changes)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_who_is_sure_is_the_equation():
    logits = (3 * NORMAL(size=(20, 4))).astype(np.float32)
    likely = softmax(logits.astype(np.float64))
    entropy = -(likely * np.log(likely)).sum(1)
    for rule, sure in ((confident, likely.max(1) >= 0.8), (certain, entropy <= 0.5)):
        found = rule(jnp.asarray(logits), 0.8 if rule is confident else 0.5)
        np.testing.assert_array_equal(found, sure)
        assert 0 < sure.mean() < 1


TASK = early(
    ResNet((1, 1), (4, 8), Basic, stem_width=4, stem_stride=1),
    ('stage0', 'stage1'),
    (0.2, 0.3, 1.0),
    leaves=certain,
    threshold=1.5,
)
# The brighter, the surer: some leave at each exit.
BRIGHT = {**SEEN, 'image': SEEN['image'] * jnp.geomspace(60, 0.5, 16)[:, None, None, None]}


@functools.cache
def network():
    """Returns a small network's variables, three times as large as they start, and what it answers."""
    v = begun(TASK)
    v = v._replace(params=jax.tree.map(lambda leaf: 3 * leaf, v.params))
    return v, tiny.jit(TASK.predict)(v, BRIGHT)


def test_the_first_sure_exit_answers_and_every_exit_is_in_the_loss():
    v, answers = network()
    logits = np.asarray(answers[EXIT_LOGITS], np.float64)
    likely = softmax(logits)
    sure = np.concatenate([-(likely * np.log(likely)).sum(-1)[:, :2] <= 1.5, np.ones((16, 1), bool)], axis=1)
    taken = sure.argmax(1)
    assert set(taken) == {0, 1, 2}
    np.testing.assert_array_equal(answers['exit'], taken)
    np.testing.assert_allclose(answers['logits'], logits[np.arange(16), taken], rtol=1e-6)

    @tiny.jit
    def run(v):
        loss, (_, metrics) = TASK.loss(v, BRIGHT, RNG, jnp.int32(0))
        variables = {'params': v.params, **v.state}
        features, _ = TASK.model.apply(variables, BRIGHT['image'], train=True, mutable=['batch_stats'])
        return loss, metrics, features[EXIT_LOGITS], TASK.score(v, BRIGHT)

    loss, metrics, logits, scores = run(v)
    rows = np.arange(16)[:, None], np.arange(3)[None], np.asarray(SEEN['label'])[:, None]
    losses = -np.log(softmax(np.asarray(logits, np.float64)))[rows].mean(0)
    np.testing.assert_allclose(loss, losses @ [0.2, 0.3, 1.0], rtol=1e-5)
    np.testing.assert_allclose([metrics[f'{name}_loss'] for name in ('stage0', 'stage1', 'last')], losses, rtol=1e-5)
    spent, plain = operations(TASK, v, BRIGHT['image'])
    np.testing.assert_allclose(scores['saved'], 1 - np.array(spent)[taken] / plain, atol=1e-6)
    np.testing.assert_allclose(scores['exit'], taken)


def test_the_arithmetic_is_that_of_the_convolutions_and_a_little_more():
    v, _ = network()
    spent, plain = operations(TASK, v, SEEN['image'])
    stem, stage0 = 64 * 9 * 1 * 4, 2 * 64 * 9 * 4 * 4
    stage1 = 16 * (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8)
    for counted, multiply_adds in ((spent[0], stem + stage0), (spent[2], stem + stage0 + stage1)):
        assert 2 * 0.75 < counted / multiply_adds < 2 * 1.25  # the borders multiply less, norms and rectifiers add
    assert spent[0] < spent[1] < spent[2] and plain < spent[2] < 1.1 * plain


def test_stages_run_for_those_who_stay_and_answer_alike():
    v, answers = network()
    logits, taken = staged(TASK, v, least=2)(BRIGHT['image'])
    np.testing.assert_array_equal(taken, answers['exit'])
    np.testing.assert_allclose(logits, answers['logits'], rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match='Pyramid cannot go on from stage0: leave it at a stage of a network'):
        task = early(threshold=2.0)
        staged(task, begun(task))(SEEN['image'])


@pytest.mark.parametrize(
    'make, error, words',
    [
        (lambda: early(weights=(1.0,)), ValueError, 'EarlyExit has 1 early exits and 1 weights'),
        (lambda: early(exits=(), weights=(1.0,)), ValueError, 'EarlyExit has 0 early exits'),
        (lambda: early(Dropping()), TypeError, 'EarlyExit at stage0 needs a PyramidBackbone .* Dropping has neither'),
        (
            lambda: jax.eval_shape(early(exits=('stage3',)).init, RNG, SEEN),
            ValueError,
            'Pyramid gives no map stage3 for EarlyExit to leave at: use some of map, stage0',
        ),
        (lambda: jax.eval_shape(early(Dropping(), ('pooled',)).init, RNG, SEEN), ValueError, 'gives no map pooled'),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()
