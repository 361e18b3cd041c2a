"""Two sorts of examples told apart, against scikit-learn, with equal scores among them."""

import numpy as np
import pytest
from sklearn import metrics

from longview.methods.figures import ood

RNG = np.random.default_rng(0)
INSIDE, OUTSIDE = np.round(RNG.normal(0.7, 1, 60), 1), np.round(RNG.normal(0, 1, 45), 1)


def test_figures_are_scikit_learns():
    scores, sort = np.concatenate([INSIDE, OUTSIDE]), np.repeat([1, 0], [60, 45])
    assert len(np.intersect1d(INSIDE, OUTSIDE)) > 10
    false, true, _ = metrics.roc_curve(sort, scores, drop_intermediate=False)
    found = ood.figures(INSIDE, OUTSIDE)
    expected = {
        'auroc': metrics.roc_auc_score(sort, scores),
        'aupr_in': metrics.average_precision_score(sort, scores),
        'aupr_out': metrics.average_precision_score(1 - sort, -scores),
        'fpr95': false[true >= 0.95][0],
    }
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-12)


def test_extremes():
    assert ood.figures(INSIDE + 99, OUTSIDE) == {'auroc': 1, 'aupr_in': 1, 'aupr_out': 1, 'fpr95': 0}
    constant = ood.figures(np.zeros(30), np.zeros(10))
    assert constant == {'auroc': 0.5, 'aupr_in': 0.75, 'aupr_out': 0.25, 'fpr95': 1}


def test_the_threshold_is_passed_by_at_least_the_recall():
    inside = np.arange(20.0)
    assert ood.false_positive_rate(inside, np.asarray([0.5, 1.0, 1.5]), 0.95) == 2 / 3
    assert ood.false_positive_rate(inside[1:], np.asarray([0.5, 1.0, 1.5]), 0.95) == 2 / 3


@pytest.mark.parametrize('inside, outside', [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_a_missing_sort_or_score_is_not_a_number(inside, outside):
    assert all(map(np.isnan, ood.figures(np.asarray(inside, float), np.asarray(outside, float)).values()))
