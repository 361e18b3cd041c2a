"""Errors of numbers against scikit-learn."""

import numpy as np
from sklearn import metrics

from longview.methods.figures import regression

RNG = np.random.default_rng(0)
# Far from 0: sums of squares in float32 would have no digit left of the distances from the mean.
TRUTH = (2000 + RNG.normal(size=(30, 2)) * [1, 5]).astype(np.float32)
PREDICTION = (TRUTH + RNG.normal(size=(30, 2))).astype(np.float32)


def test_figures_are_those_of_scikit_learn():
    found = regression.figures(PREDICTION, TRUTH)
    wide = TRUTH.astype(np.float64), PREDICTION.astype(np.float64)
    wanted = {
        'mae': metrics.mean_absolute_error(*wide),
        'rmse': metrics.mean_squared_error(*wide) ** 0.5,
        'r2': metrics.r2_score(*wide),
    }
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-9)


def test_numbers_that_are_all_the_same_and_none_at_all():
    same = np.concatenate([TRUTH[:, :1], np.full((30, 1), 0.1, np.float32)], axis=1)
    alone = regression.figures(PREDICTION[:, :1], TRUTH[:, :1])
    np.testing.assert_allclose(regression.figures(PREDICTION, same)['r2'], alone['r2'])
    assert np.isnan(list(regression.figures(PREDICTION[:0], TRUTH[:0]).values())).all()
    broken = np.where(np.arange(30)[:, None] == 3, np.nan, PREDICTION).astype(np.float32)
    assert np.isnan(list(regression.figures(broken, TRUTH).values())).all()
