"""Losses against scikit-learn, SciPy and the goldens of timm and torchvision; and what Supervised makes of them."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from sklearn import metrics
from sklearn.utils.class_weight import compute_class_weight

from longview import train
from longview.methods import losses
from longview.methods.answers import Labels, Numbers
from longview.methods.augment import Mix, Normalize
from longview.methods.ema import Ema
from longview.methods.evaluation import make_measure
from longview.methods.losses import SoftmaxCrossEntropy
from longview.methods.peft.low_rank import LowRank
from longview.methods.prune.magnitude import Prune
from longview.methods.supervised import Supervised
from longview.methods.task import chain, init_state, make_step
from longview.runtime.evaluation import added, cut, joined
from tests import goldens, runs, toys
from tests.goldens import functions
from tests.goldens.filling import draw
from tests.goldens.functions import Function
from tests.methods.small import RNG, batch_of
from tests.modelzoo import tiny

DRAWS = np.random.default_rng(0)
LOGITS = DRAWS.normal(size=(6, 5)).astype(np.float32)
CLASS = np.asarray([0, 1, 1, 4, 2, 1])
HOT = np.eye(5, dtype=np.float32)[CLASS]
SOFT = DRAWS.dirichlet(np.ones(5), 6).astype(np.float32)
MANY = (DRAWS.random((6, 5)) < 0.4).astype(np.float32)
WEIGHTS = (0.5, 2.0, 1.0, 3.0, 0.25)
ERROR = LOGITS.astype(np.float64) - SOFT
LIKELY = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
P = scipy.special.expit(LOGITS.astype(np.float64))
BINARY = lambda target: -target * np.log(P) - (1 - target) * np.log1p(-P)

CASES = {
    'cross_entropy': (SoftmaxCrossEntropy(), SOFT, -(SOFT * LIKELY).sum(1)),
    'weighted': (SoftmaxCrossEntropy(WEIGHTS), SOFT, -(SOFT * LIKELY * WEIGHTS).sum(1)),
    'focal': (losses.SoftmaxFocal(0.5), SOFT, -(SOFT * LIKELY * (1 - np.exp(LIKELY)) ** 0.5).sum(1)),
    'binary': (losses.BinaryCrossEntropy(), SOFT, BINARY(SOFT).mean(1)),
    'binary_labels': (losses.BinaryCrossEntropy(Labels(), sum_classes=True), MANY, BINARY(MANY).sum(1)),
    'binary_threshold': (losses.BinaryCrossEntropy(threshold=0.2), SOFT, BINARY(1.0 * (SOFT > 0.2)).mean(1)),
    'sigmoid_focal': (losses.SigmoidFocal(alpha=None, gamma=0.0, sum_classes=True), MANY, BINARY(MANY).sum(1)),
    'squared': (losses.SquaredError(), SOFT, (ERROR**2).mean(1)),
    'absolute': (losses.AbsoluteError(), SOFT, abs(ERROR).mean(1)),
    'huber': (losses.Huber(0.7), SOFT, scipy.special.huber(0.7, ERROR).mean(1)),
}


@pytest.mark.quick
def test_each_loss_is_its_equation_in_float32():
    loss_of = lambda logits: {name: loss(logits, jnp.asarray(target)) for name, (loss, target, _) in CASES.items()}
    found, half = jax.device_get(
        tiny.jit(lambda logits: (loss_of(logits), loss_of(logits.astype(jnp.bfloat16))))(LOGITS)
    )
    for name, (_, _, wanted) in CASES.items():
        np.testing.assert_allclose(found[name], wanted, rtol=2e-5, err_msg=name)
        assert half[name].dtype == np.float32
        np.testing.assert_allclose(half[name], wanted, rtol=0.03, err_msg=name)


def test_class_weights_make_the_weighted_mean_of_torch_and_scikit_learn():
    scaled = dataclasses.replace(SoftmaxCrossEntropy(WEIGHTS), weighted_mean=False)
    both = tiny.jit(lambda *given: (SoftmaxCrossEntropy(WEIGHTS).mean(*given), scaled.mean(*given)))
    found, by_count = jax.device_get(both(LOGITS, HOT))
    weight = np.asarray(WEIGHTS)[CLASS]
    wanted = metrics.log_loss(CLASS, np.exp(LIKELY), sample_weight=weight, labels=range(5))
    np.testing.assert_allclose([found, by_count], [wanted, wanted * weight.mean()], rtol=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    counts = np.bincount(CLASS, minlength=5)
    found = losses.balanced(counts.tolist())
    known = np.flatnonzero(counts)
    np.testing.assert_allclose(np.asarray(found)[known], compute_class_weight('balanced', classes=known, y=CLASS))
    assert found[3] == 0 and np.isclose(np.asarray(found)[CLASS].mean(), 1)


def of_golden(x, t, s, alpha, gamma):
    """What the golden of torchvision's sigmoid_focal_loss names, in the units of `losses.focal`."""
    t, s = (jnp.asarray(target, jnp.float32) for target in (t, s))
    focal = jax.jit(functools.partial(losses.focal, gamma=gamma), static_argnames='alpha')
    hard, soft, plain = focal(x, t, alpha=alpha), focal(x, s, alpha=alpha), focal(x, t, alpha=None)
    return {'none': hard, 'mean': hard.mean(), 'soft': soft, 'unweighted': plain.sum()}


def test_the_focal_loss_is_torchvisions():
    golden = goldens.read(goldens.FUNCTIONS / 'det_focal_loss.json.gz')
    report = functions.compare(golden, Function('tests.methods.test_losses:of_golden'))
    assert report.passed, str(report)


def test_binary_cross_entropy_of_classes_is_timms():
    """Of the golden timm_bce_loss, timm 1.0.31: targets of a mixture, and labels smoothed by 0.1, above 0.2."""
    logits, soft = (draw(f'timm_bce_loss/{name}', (6, 10), kind) for name, kind in _TIMM.items())
    label = draw('timm_bce_loss/labels', (6,), 'integers', 10).astype(np.int32)
    loss = losses.BinaryCrossEntropy(threshold=0.2)

    @tiny.jit
    def both(logits, soft, label):
        return loss.mean(logits, soft), loss.mean(logits, loss.answers.target(label, 10, 0.1))

    np.testing.assert_allclose(jax.device_get(both(logits, soft, label)), [0.73772144, 0.73422295], rtol=1e-6)


_TIMM = {'logits': 'normal', 'soft': 'probabilities'}


@pytest.mark.parametrize('loss', [losses.SoftmaxFocal(0.5), losses.SigmoidFocal(gamma=0.5)])
def test_an_answer_that_is_sure_has_a_finite_gradient(loss):
    grads = tiny.jit(jax.grad(lambda x: loss(x, jnp.asarray([[1.0, 0.0]])).sum()))(jnp.asarray([[200.0, -200.0]]))
    assert np.isfinite(grads).all()


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: SoftmaxCrossEntropy((1.0, -1.0)), 'class_weights has -1.0: weights'),
        (
            lambda: SoftmaxCrossEntropy((1.0, 1.0))(jnp.asarray(LOGITS), jnp.asarray(HOT)),
            'has 2 weights and there are 5 classes',
        ),
        (lambda: losses.SoftmaxFocal(-1.0), 'gamma is -1.0'),
        (lambda: losses.SigmoidFocal(gamma=-1.0), 'gamma is -1.0'),
        (lambda: losses.BinaryCrossEntropy(threshold=1.0), 'threshold is 1.0'),
        (lambda: losses.Huber(0.0), 'delta is 0.0'),
        (
            lambda: SoftmaxCrossEntropy().answers.target(jnp.zeros((4, 3)), 3),
            r'labels are float32 \(4, 3\), and the loss is of',
        ),
        (lambda: Labels().target(jnp.zeros((4, 3)), 5), 'gives 5 numbers and there are 3 labels'),
        (lambda: Numbers().target(jnp.zeros(4), 1, 0.1), 'label_smoothing is 0.1, and the labels are numbers'),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


class Net(nn.Module):
    """Eight features of an image."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1).astype(jnp.float32) / 255
        return {'pooled': jnp.tanh(nn.Dense(8, name='hidden')(x))}


def labelled(label):
    return batch_of() | {'label': jnp.asarray(label)}


TX = optax.sgd(0.1)
TAGS = (np.arange(48).reshape(16, 3) % 5 < 2).astype(np.float32)
HEIGHT = np.linspace(150, 190, 16, dtype=np.float32)
SEVERAL = Supervised(Net(), toys.Head(3), criterion=losses.BinaryCrossEntropy(Labels()))
NUMBER = Supervised(Net(), toys.Head(1), criterion=losses.Huber(), label='height')


def trained(task, batch, transform=chain([]), accumulate=1):
    """Returns the first state and that after a step."""
    begin = lambda: init_state(task, TX, RNG, batch, transform)
    start = tiny.jit(begin)()
    state, bad = tiny.jit(make_step(task, TX, transform=transform, accumulate=accumulate))(start, batch, RNG)
    assert int(bad) == -1
    return jax.device_get((start, state))


def evaluated(task, v, batch):
    """Returns the figures of a batch as an evaluation of two batches with padding gets them."""
    program, size = tiny.jit(make_measure(task, chain([]))), 10
    sums, rows = None, []
    for begin in (0, size):
        place = np.minimum(begin + np.arange(size), 15)
        part = {name: jnp.asarray(column)[place] for name, column in batch.items()}
        mask = begin + np.arange(size) < 16
        part['label'] = jnp.where(mask.reshape(-1, *[1] * (part['label'].ndim - 1)), part['label'], 0)
        measured = jax.device_get(program(v, part | {'mask': jnp.asarray(mask)}, RNG))
        sums = added(sums, measured.sums)
        rows.append(cut(measured.rows, measured.mask))
    return task.figures(sums, joined(rows))


def answers_of(task, v, batch, name):
    return jax.device_get(tiny.jit(lambda: task.predict(v, batch)[name])())


@pytest.mark.parametrize('wrap', [lambda t: t, lambda t: Ema(t, 0.5)], ids=['alone', 'ema'])
def test_several_labels_are_scored_as_by_scikit_learn(wrap):
    task, batch = wrap(SEVERAL), labelled(TAGS)
    state = trained(task, batch)[1]
    logits = answers_of(task, state.variables, batch, 'logits')
    found, said = evaluated(task, state.variables, batch), logits > 0
    wanted = {
        'loss': metrics.log_loss(TAGS.ravel(), scipy.special.expit(logits.astype(np.float64)).ravel()),
        'mean_average_precision': metrics.average_precision_score(TAGS, logits, average='macro'),
        'exact_match': metrics.accuracy_score(TAGS, said),
        'f1_micro': metrics.f1_score(TAGS, said, average='micro'),
        'f1_macro': metrics.f1_score(TAGS, said, average='macro'),
    }
    assert {name for name in found if not name.startswith('raw_')} == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert 0 < found['f1_micro'] < 1


def test_numbers_of_a_column_are_scored_as_by_scikit_learn():
    batch = batch_of() | {'height': jnp.asarray(HEIGHT)}
    start, state = trained(NUMBER, batch)
    prediction = answers_of(NUMBER, state.variables, batch, 'prediction')[:, 0]
    found = evaluated(NUMBER, state.variables, batch)
    wanted = {
        'loss': scipy.special.huber(1.0, prediction - HEIGHT).mean(),
        'mae': metrics.mean_absolute_error(HEIGHT, prediction),
        'rmse': metrics.root_mean_squared_error(HEIGHT, prediction),
        'r2': metrics.r2_score(HEIGHT, prediction),
    }
    assert found.keys() == wanted.keys() and 'logits' not in jax.eval_shape(NUMBER.predict, start.variables, batch)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_microbatches_change_no_number_unless_a_mean_is_weighted():
    weighted = dataclasses.replace(SEVERAL, head=toys.Head(), criterion=SoftmaxCrossEntropy((1.0, 2.0) * 5))
    apart = dataclasses.replace(weighted, criterion=dataclasses.replace(weighted.criterion, weighted_mean=False))
    assert weighted.batchwide and Ema(weighted).batchwide and not (apart.batchwide or SEVERAL.batchwide)
    for task, batch in ((SEVERAL, labelled(TAGS)), (apart, batch_of())):
        chex.assert_trees_all_close(
            *(trained(task, batch, accumulate=n)[1].variables.params for n in (1, 4)), rtol=1e-5
        )


MIX = chain([Normalize((0.5,), (0.5,)), Mix(10)])
WRAPS = {
    'ema': lambda task: Ema(task, 0.5),
    'low_rank': lambda task: LowRank(task, rank=1),
    'prune': lambda task: Prune(task, every=2, rounds=1, amount=0.5),
}


@pytest.mark.parametrize('wrap', WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize(
    'loss', [losses.BinaryCrossEntropy(threshold=0.2), losses.SigmoidFocal(), losses.SoftmaxFocal()], ids=str
)
def test_losses_take_mixed_targets_under_wrappers(loss, wrap):
    """By shapes alone: what they compute is above."""
    task, batch = wrap(Supervised(Net(), toys.Head(), criterion=loss)), batch_of()
    state = jax.eval_shape(lambda: init_state(task, TX, RNG, batch, MIX))
    after, _ = jax.eval_shape(make_step(task, TX, transform=MIX), state, batch, RNG)
    assert after.variables.params.keys() == state.variables.params.keys()
    seen = batch | {'mask': jnp.ones(16, bool)}
    measured = jax.eval_shape(make_measure(task, chain([])), state.variables, seen, RNG)
    assert {'loss', 'accuracy', 'top5'} <= {
        path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(measured.sums)
    }


@pytest.mark.parametrize('label, classes', [(TAGS.astype(np.int32), 3), (batch_of()['label'], 4)])
def test_targets_that_are_not_those_of_the_head_are_refused(label, classes):
    mix = chain(
        [Normalize((0.5,), (0.5,)), lambda batch, rng: batch | {'target': jax.nn.one_hot(batch['label'], classes)}]
    )
    with pytest.raises(ValueError, match=r'made targets \(16, .*\), and the head gives \(16, 3\): set num_classes'):
        jax.eval_shape(lambda: init_state(SEVERAL, TX, RNG, labelled(label), mix))


def test_smoothed_labels():
    found = jax.device_get(
        (SoftmaxCrossEntropy().answers.target(jnp.asarray([1]), 4, 0.2), Labels().target(jnp.asarray([[1, 0]]), 2, 0.2))
    )
    np.testing.assert_allclose(found[0], [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)
    np.testing.assert_allclose(found[1], [[0.9, 0.1]], rtol=1e-6)


SQUARED = {'fn': 'methods.losses:SquaredError'}


def heights():
    """A split of 48 images and the brightness of each, as a data set's function."""
    image = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), dtype=np.uint8)
    return {'image': image, 'label': image.mean(axis=(1, 2, 3)).astype(np.float32) / 100}


def config(**task):
    split = {'partial': 'tests.methods.test_losses:heights'}
    data = {'fn': 'input_pipeline:Arrays', 'train_split': split, 'eval_split': split}
    made = toys.config(data=data, steps=4, batch_size=16, eval_every=4, save_every=4, best='eval/mae', best_mode='min')
    made.task.head.num_classes = 1
    made.task.update(task)
    return made


def test_a_config_learns_numbers(tmp_path):
    with runs.quickly():
        figures = train.train(config(criterion=SQUARED), tmp_path)
    assert figures.keys() >= {'eval/loss', 'eval/mae', 'eval/rmse', 'eval/r2'} and figures['eval/mae'] < 1
    assert runs.saved(tmp_path, 'best') == [4]


def test_a_config_without_the_column_or_the_loss_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Supervised.label is 'age', and the batch has .*, image, .*label"):
        train.train(config(criterion=SQUARED, label='age'), tmp_path)
    with pytest.raises(
        ValueError, match=r'the labels are float32 \(16,\), and the loss is of one class.*or of numbers'
    ):
        train.train(config(), tmp_path)
