"""Class-incremental classification: who competes, who learns, and what an evaluation says after each session."""

import functools
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview import train
from longview.methods.continual.incremental import Incremental, among, came
from longview.methods.ema import Ema
from longview.methods.objective import NETWORK
from longview.methods.peft.low_rank import LowRank
from longview.methods.supervised import cross_entropy
from longview.methods.task import Given, init_state, make_step
from longview.modelzoo.heads import Linear
from tests import runs, toys
from tests.methods.small import NET, RNG, Dropping, batch_of, transform
from tests.modelzoo import tiny

# Classes 4 and 7 come first, the class 2 never.
SESSIONS = (2, 1, -1, 1, 0, 1, 2, 0, 2, 2)
SEEN = [1, 3, 4, 5, 7]  # by session 1


def task(backbone=NET, **fields) -> Incremental:
    return Incremental(backbone, Linear(10), class_sessions=SESSIONS, **fields)


def batch(session: int = 1, size: int = 16) -> dict[str, jax.Array]:
    """A batch of a session, with labels of all classes that have come by then."""
    known = np.flatnonzero((np.array(SESSIONS) >= 0) & (np.array(SESSIONS) <= session))
    label = jnp.asarray(known[np.arange(size) % len(known)].astype(np.int32))
    return batch_of(size) | {'label': label, 'session': jnp.full(size, session, jnp.int32)}


def seen_by(session: int) -> dict[str, jax.Array]:
    return transform(batch(session), RNG) | {'row': jnp.arange(16)}


@functools.cache
def after_a_step():
    """The variables of a task after a step of session 1, the gradients in it, and what it predicts and measures."""
    made, data = task(), batch(1)
    whole = {**batch_of(), 'label': jnp.arange(16) % 11 - 1, 'mask': jnp.arange(16) < 14}
    whole['image'] = jnp.where(whole['mask'][:, None, None, None], whole['image'] / 255, jnp.nan)

    @tiny.jit
    def run():
        state = init_state(made, optax.sgd(0.1), RNG, data, transform)
        loss = lambda params: made.loss(state.variables._replace(params=params), seen_by(1), RNG, state.step)
        grads, (_, metrics) = jax.grad(loss, has_aux=True)(state.variables.params)
        v = make_step(made, optax.sgd(0.1), transform=transform)(state, data, RNG)[0].variables
        network = made.deployed(v)[NETWORK]
        raw = network.module.apply(network.variables, whole['image'])['logits']
        return (
            v,
            grads,
            metrics,
            made.predict(v, whole)['logits'],
            raw,
            made.measure(v, whole, None, RNG),
            made.score(v, whole),
        )

    return *jax.device_get(run()), jax.device_get(whole)


def test_unseen_classes_get_no_gradient_and_the_newest_session_is_kept():
    v, grads, *_ = after_a_step()
    unseen = np.setdiff1d(np.arange(10), SEEN)
    for leaf in jax.tree.leaves(grads['head']):
        assert (leaf[..., unseen] == 0).all() and (np.abs(leaf[..., SEEN]).max(axis=0) > 0).all()
    assert v.state['session'] == 1 and v.state['session'].dtype == np.int32 and set(v.params) == {'backbone', 'head'}


def test_answers_are_classes_that_have_come_and_the_deployed_network_knows_no_session():
    *_, logits, raw, _, _, _ = after_a_step()
    np.testing.assert_array_equal(logits[:14, SEEN], raw[:14, SEEN])
    assert (np.delete(logits, SEEN, axis=1) == np.finfo(np.float32).min).all() and np.isfinite(raw[:14]).all()
    assert set(logits[:14].argmax(axis=1)) <= set(SEEN)


def test_figures_by_session_are_those_counted_by_hand():
    *_, raw, sums, scores, whole = after_a_step()
    figures = task().figures(jax.tree.map(np.float64, sums), {})
    sessions, label = np.array(SESSIONS), whole['label'][:14]
    arrives = np.where(label < 0, -1, sessions[label])
    raw, known = raw[:14], np.isin(np.arange(10), SEEN)
    answers = np.where(known, raw, -np.inf).argmax(axis=1)
    of_its_session = np.where(sessions[None] == arrives[:, None], raw, -np.inf).argmax(axis=1)
    for session in range(3):
        mine = arrives == session
        assert figures[f'session{session}/accuracy'] == pytest.approx(np.mean(answers[mine] == label[mine]))
        assert figures[f'session{session}/task_accuracy'] == pytest.approx(np.mean(of_its_session[mine] == label[mine]))
    assert figures['session'] == 1 and figures['session2/accuracy'] == 0
    counted = (arrives >= 0) & (arrives <= 1)
    assert 0 < counted.sum() < 14 and figures['accuracy'] == pytest.approx(np.mean((answers == label)[counted]))
    assert figures['task_accuracy'] == pytest.approx(np.mean((of_its_session == label)[counted]))
    by_session = [figures[f'session{session}/accuracy'] for session in range(2)]
    assert figures['average_accuracy'] == pytest.approx(np.mean(by_session))
    smaller = raw[counted][:, SEEN].astype(np.float64)
    right = np.take_along_axis(smaller, np.searchsorted(SEEN, label[counted])[:, None], axis=1)[:, 0]
    assert (scores['loss'][:14][~counted] == 0).all() and scores['loss'][:14][counted].min() > 0
    assert figures['loss'] == pytest.approx(np.mean(np.log(np.exp(smaller).sum(axis=1)) - right), rel=1e-5)


def test_figures_have_their_names_and_no_nan_before_anything_is_measured():
    *_, sums, _, _ = after_a_step()
    figures = task().figures(jax.tree.map(lambda x: np.zeros_like(x, np.float64), sums), {})
    assert len(figures) == 5 + 2 * 3 and set(figures.values()) == {0}


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_the_loss_is_that_of_a_head_of_fewer_classes(smoothing):
    logits = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
    made, data = task(label_smoothing=smoothing), batch(1)
    allowed = came(SESSIONS, jnp.int32(1))
    assert np.flatnonzero(allowed).tolist() == SEEN

    @tiny.jit
    def both():
        masked = cross_entropy(among(jnp.asarray(logits), allowed[None]), made._target(data, allowed))
        place = jnp.searchsorted(jnp.asarray(SEEN), data['label'])
        target = optax.smooth_labels(jax.nn.one_hot(place, len(SEEN)), smoothing)
        return masked, cross_entropy(jnp.asarray(logits[:, SEEN]), target)

    masked, smaller = jax.device_get(both())
    np.testing.assert_allclose(masked, smaller, rtol=1e-6)


def test_soft_targets_are_of_the_classes_that_have_come():
    target = np.full((16, 10), 0.02, np.float32)
    target[:, 1] = 0.5
    allowed = np.isin(np.arange(10), SEEN)
    found = jax.device_get(task()._target(batch(1) | {'target': jnp.asarray(target)}, jnp.asarray(allowed)))
    np.testing.assert_allclose(found[0, SEEN], [0.5 / 0.58] + [0.02 / 0.58] * 4, rtol=1e-6)
    assert (found[:, ~allowed] == 0).all()


def test_it_nests_and_microbatches_change_no_number():
    made = Ema(LowRank(task(Dropping(), label_smoothing=0.1), rank=1), 0.5)
    tx, evaluated = optax.sgd(0.1), seen_by(2) | {'mask': jnp.ones(16, bool)}
    first = tiny.jit(lambda: init_state(made, tx, RNG, batch(0), transform))()
    whole, split = (tiny.jit(make_step(made, tx, transform=transform, accumulate=count)) for count in (1, 4))
    last = parts = first
    for session in (0, 1):
        last, parts = whole(last, batch(session), RNG)[0], split(parts, batch(session), RNG)[0]
    sums = jax.device_get(tiny.jit(made.measure)(last.variables, evaluated, None, RNG))
    first, last, parts = (jax.device_get(state.variables) for state in (first, last, parts))
    chex.assert_trees_all_close(last, parts, rtol=1e-4, atol=1e-6)
    assert (first.params['head']['kernel'] != last.params['head']['kernel']).any()
    assert last.state['inner']['inner']['session'] == 1
    figures = made.figures(jax.tree.map(np.float64, sums), {})
    assert figures['session'] == figures['raw_session'] == 1 and 'raw_session2/task_accuracy' in figures


def test_first_weights_are_taken_as_every_objective_takes_them():
    head = {'kernel': np.ones((8, 10), np.float32), 'bias': np.arange(10, dtype=np.float32)}
    given = Given(networks={NETWORK: {'params': {'head': head}}})
    v = jax.device_get(tiny.jit(lambda: task().init(RNG, seen_by(0), given))())
    chex.assert_trees_all_equal(v.params['head'], head)


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: Incremental(NET, Linear(10), class_sessions=()), r'class_sessions is \(\): give the session of each'),
        (lambda: Incremental(NET, Linear(10), class_sessions=(-1,)), r'class_sessions is \(-1,\): give the session'),
        (
            lambda: jax.eval_shape(task().init, RNG, transform(batch_of(), RNG)),
            'reads the column session, and the batch has epoch, image, index, label.*: put data.sessions:Sessions',
        ),
        (
            lambda: jax.eval_shape(Incremental(NET, Linear(9), class_sessions=SESSIONS).init, RNG, seen_by(0)),
            'class_sessions has 10 classes and the head gives 9 logits: change the head',
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert '\n' not in str(caught.value)


def config():
    """Eight steps on digits, of which the eighth is the first of the second session."""
    made = toys.config(best='eval/session')
    made.task.fn = 'methods.continual.incremental:Incremental'
    made.task.class_sessions = {'data': 'class_sessions'}
    sessions = {'fn': 'data.sessions:Sessions', 'data': made.data.to_dict(), 'parts': 2, 'steps': 7, 'memory': 3}
    made.data = sessions
    return made


def test_a_run_resumes_to_the_bit_across_the_sessions(tmp_path: pathlib.Path):
    through, resumed = tmp_path / 'through', tmp_path / 'resumed'
    with runs.quickly():
        scores = train.train(config(), through)
        shutil.copytree(through, resumed)
        shutil.rmtree(resumed / 'checkpoints' / '8')
        train.train(config(), resumed)
    runs.assert_same_bits(through, resumed, 8)
    assert scores['eval/session'] == 1 and runs.saved(through, 'best') == [8]
    before, after = (row for row in runs.rows(through) if 'eval/session' in row)
    assert before['eval/session'] == 0 and before['eval/session1/accuracy'] == 0 < before['eval/session0/accuracy']
    assert before['eval/accuracy'] == before['eval/session0/accuracy'] and after['eval/examples'] == 359
