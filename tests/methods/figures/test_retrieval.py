"""Recall and average precision of nearest features, against scikit-learn."""

import numpy as np
from sklearn import metrics

from longview.methods.figures import retrieval

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(40, 6)).astype(np.float32)
CLASS = RNG.integers(0, 7, 40)
QUERY = RNG.normal(size=(12, 6)).astype(np.float32)
QUERY_CLASS = RNG.integers(0, 9, 12)  # of classes 7 and 8 the gallery has nothing


def by_scikit_learn(cosine, wanted, at):
    """Returns the figures, given each query's similarities and which of them it wants."""
    rows = [(one[other], mine[other]) for one, mine, other in zip(cosine, wanted, ~np.isnan(cosine)) if mine.any()]
    found = {f'recall_at_{k}': np.mean([mine[np.argsort(-one)][:k].any() for one, mine in rows]) for k in at}
    precision = [metrics.average_precision_score(mine, one) for one, mine in rows]
    return {**found, 'mean_average_precision': np.mean(precision)}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_one_set_searched_through_by_another_in_blocks(monkeypatch):
    monkeypatch.setattr(retrieval, '_AT_ONCE', 5 * len(FEATURES))
    found = retrieval.figures(QUERY, QUERY_CLASS, FEATURES, CLASS, at=(1, 2, 7))
    wanted = QUERY_CLASS[:, None] == CLASS
    assert not wanted.any(axis=1).all()
    expected = by_scikit_learn(unit(QUERY) @ unit(FEATURES).T, wanted, (1, 2, 7))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-6)


def test_a_set_searched_through_by_itself():
    found = retrieval.figures(FEATURES, CLASS)
    cosine = unit(FEATURES) @ unit(FEATURES).T
    np.fill_diagonal(cosine, np.nan)
    wanted = (CLASS[:, None] == CLASS) & ~np.eye(40, dtype=bool)
    expected = by_scikit_learn(cosine, wanted, (1, 5, 10))
    np.testing.assert_allclose([found[name] for name in expected], [*expected.values()], rtol=1e-6)


def test_features_that_are_all_the_same_find_nothing():
    found = retrieval.figures(np.ones((40, 6), np.float32), CLASS)
    assert found['recall_at_10'] == 0 and found['mean_average_precision'] < 0.3


def test_no_rows_and_features_that_are_not_finite():
    nowhere = retrieval.figures(FEATURES[:0], CLASS[:0])
    broken = retrieval.figures(np.where(np.arange(40)[:, None] == 3, np.nan, FEATURES), CLASS)
    alone = retrieval.figures(FEATURES, np.arange(40))
    for figures in (nowhere, broken, alone):
        assert len(figures) == 4 and all(map(np.isnan, figures.values()))
