"""Few-shot regression against the normal equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from longview.methods.evaluate.few_shot import FewShot, applied, ridge
from tests.methods.small import NET, SEEN, supervised, trained
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal
LABELS = np.arange(40) * 7 % 3
FEATURES = NORMAL(size=(40, 5)) * [1, 2, 3, 4, 5] + 0.3 * LABELS[:, None]
QUERY = NORMAL(size=(6, 5))


def by_normal_equations(features, labels, queries, strength):
    """Returns predictions of the regression with a column of 100s in place of a bias."""
    mean, deviation = features.mean(0), features.std(0) + 1e-5
    widened = lambda x: np.pad((x - mean) / deviation, ((0, 0), (0, 1)), constant_values=100)
    x, y = widened(features), 2 * np.eye(3)[labels] - 1
    return widened(queries) @ np.linalg.solve(x.T @ x + strength * np.eye(6), x.T @ y)


def newest(shots):
    return np.concatenate([np.flatnonzero(LABELS == k)[:shots] for k in range(3)])


def test_the_fit_solves_the_normal_equations():
    chosen = np.isin(np.arange(40), [*newest(4), 30])  # one class has one more, so there is a bias
    run = tiny.jit(lambda *given: (ridge(*given), applied(ridge(*given), jnp.float32(QUERY))))
    fit, found = run(np.float32(FEATURES), np.float32(np.eye(3)[LABELS]), chosen, np.float32(2.0))
    expected = by_normal_equations(FEATURES[chosen], LABELS[chosen], QUERY, 2.0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(fit.bias) > 1e-2


def test_examples_are_the_newest_and_the_strength_is_what_labels_the_rest_best():
    strengths = (1e4, 0.1, 1.0, 10.0)
    task = FewShot(supervised(NET), num_classes=3, bank=50, shots=(2, 5), strengths=strengths)
    bank = np.concatenate([FEATURES, np.full((10, 5), 7.0)])
    label = np.concatenate([LABELS, np.full(10, -1)])
    found = tiny.jit(task.judge)(jnp.float32(QUERY), jnp.float32(bank), jnp.int32(label))
    best = []
    for shots in (2, 5):
        own = newest(shots)
        rest = np.setdiff1d(np.arange(40), own)
        of = lambda queries, strength: by_normal_equations(FEATURES[own], LABELS[own], queries, strength)
        right = [np.sum(of(FEATURES[rest], strength).argmax(1) == LABELS[rest]) for strength in strengths]
        best.append(int(np.argmax(right)))
        np.testing.assert_allclose(found[f'shot{shots}'], of(QUERY, strengths[best[-1]]), atol=1e-3)
    assert best == [3, 0]


def test_the_bank_fills_and_is_scored():
    task = FewShot(supervised(NET), num_classes=10, bank=24, shots=(1, 2))
    v = trained(task, 2)[-1].variables
    assert v.state['label'].tolist() == [*SEEN['label'], *SEEN['label'][:8]]

    @tiny.jit
    def run(v):
        features = task._features(v._replace(state=v.state['inner']), SEEN)
        return task.judge(features, v.state['feature'], v.state['label']), task.score(v, SEEN)

    judged, scores = jax.device_get(run(v))
    for shots in (1, 2):
        right = judged[f'shot{shots}'].argmax(1) == np.asarray(SEEN['label'])
        np.testing.assert_array_equal(scores[f'shot{shots}_accuracy'], right)
    assert 'accuracy' in scores
