"""Several labels against scikit-learn, and what is left out where scikit-learn counts 0."""

import numpy as np
from sklearn import metrics

from longview.methods.figures import classification

RNG = np.random.default_rng(0)
TRUTH = RNG.random((40, 4)) < 0.3
# Rounded, so that some answers are equal.
LOGITS = (RNG.normal(size=(40, 4)) + 2 * TRUTH - 1).round(1).astype(np.float32)


def test_figures_are_those_of_scikit_learn():
    said = LOGITS > 0
    np.testing.assert_allclose(
        classification.average_precision(LOGITS, TRUTH), metrics.average_precision_score(TRUTH, LOGITS, average=None)
    )
    wanted = {
        'mean_average_precision': metrics.average_precision_score(TRUTH, LOGITS),
        'exact_match': metrics.accuracy_score(TRUTH, said),
        'f1_micro': metrics.f1_score(TRUTH, said, average='micro'),
        'f1_macro': metrics.f1_score(TRUTH, said, average='macro'),
    }
    found = classification.figures(LOGITS, TRUTH)
    assert found.keys() == wanted.keys() and 0 < wanted['exact_match'] < 1
    np.testing.assert_allclose(list(found.values()), list(wanted.values()))


def test_labels_that_nobody_has_are_left_out():
    """The last label is neither there nor said; the one before is said and not there."""
    nobody = np.zeros((40, 2), bool)
    absent = np.stack([np.full(40, 1.0), np.full(40, -1.0)], axis=1).astype(np.float32)
    found = classification.figures(np.concatenate([LOGITS, absent], 1), np.concatenate([TRUTH, nobody], 1))
    few = classification.figures(LOGITS, TRUTH)
    assert found['mean_average_precision'] == few['mean_average_precision']
    np.testing.assert_allclose(found['f1_macro'], few['f1_macro'] * 4 / 5)


def test_all_have_a_label_or_none_answers():
    always = np.ones((40, 1), bool)
    np.testing.assert_allclose(classification.average_precision(LOGITS[:, :1], always), [1.0])
    assert np.isnan(list(classification.figures(LOGITS[:0], TRUTH[:0]).values())).all()
    broken = np.where(np.arange(40)[:, None] == 3, np.nan, LOGITS).astype(np.float32)
    assert np.isnan(list(classification.figures(broken, TRUTH).values())).all()
