"""Calibration errors against uncertainty-calibration, Brier score and likelihood against scikit-learn."""

import functools

import jax
import numpy as np
from sklearn import metrics

from longview.methods.figures import calibration

RNG = np.random.default_rng(0)
LOGITS = (2 * RNG.normal(size=(90, 4))).astype(np.float32)
LABEL = np.where(RNG.random(90) < 0.6, LOGITS.argmax(1), RNG.integers(0, 4, 90)).astype(np.int32)
# get_ece and get_ece_em of uncertainty-calibration 0.1.4, both with 15 bins.
EXPECTED_ERROR, ADAPTIVE_ERROR = 0.19086852590652764, 0.19698888219064983


@functools.partial(jax.jit, static_argnames='bins')
def counted(logits, label, mask, bins=15):
    return calibration.reliability(logits, label, mask, bins=bins)


@jax.jit
def rows(logits, label):
    confidence, right = calibration.confidence(logits, label)
    scores = {'brier': calibration.brier(logits, label), 'nll': calibration.nll(logits, label)}
    return {'confidence': confidence, 'right': right, **scores}


def test_the_expected_error_of_added_batches_with_padding():
    batches = []
    for begin in range(0, 90, 40):
        logits, label = np.full((40, 4), np.nan, np.float32), np.zeros(40, np.int32)
        count = len(LABEL[begin : begin + 40])
        logits[:count], label[:count] = LOGITS[begin : begin + 40], LABEL[begin : begin + 40]
        batches.append(jax.device_get(counted(logits, label, np.arange(40) < count)))
    assert batches[-1]['count'].sum() == 10 and batches[0]['count'].dtype == batches[0]['right'].dtype == np.int32
    sums = jax.tree.map(lambda *parts: np.sum(parts, axis=0, dtype=np.float64), *batches)
    np.testing.assert_allclose(calibration.expected_error(sums), EXPECTED_ERROR, rtol=1e-6)


def test_the_adaptive_error_has_bins_of_as_many():
    found = jax.device_get(rows(LOGITS, LABEL))
    np.testing.assert_allclose(
        calibration.adaptive_error(found['confidence'], found['right']), ADAPTIVE_ERROR, rtol=1e-6
    )
    # Two bins, of 0.1, 0.2, 0.3 and of 0.6, 0.8.
    confidence, right = np.asarray([0.8, 0.1, 0.6, 0.3, 0.2]), np.asarray([True, False, True, True, False])
    by_hand = (abs(0.6 - 1) + abs(1.4 - 2)) / 5
    np.testing.assert_allclose(calibration.adaptive_error(confidence, right, bins=2), by_hand)


def test_edges_of_bins():
    """Probabilities of exactly 1 and 0.5 are in the bins that end there."""
    logits = np.asarray([[200, 0], [0, 0]], np.float32)
    sums = jax.device_get(counted(logits, np.zeros(2, np.int32), np.ones(2, bool), bins=4))
    np.testing.assert_array_equal(sums['count'], [0, 1, 0, 1])
    np.testing.assert_array_equal(sums['confidence'], [0, 0.5, 0, 1])


def test_brier_and_likelihood_are_scikit_learns():
    found = jax.device_get(rows(LOGITS, LABEL))
    wide = np.exp(LOGITS.astype(np.float64))
    probabilities = wide / wide.sum(axis=1, keepdims=True)
    brier = metrics.brier_score_loss(LABEL, probabilities, labels=range(4), scale_by_half=False)
    np.testing.assert_allclose(found['brier'].mean(), brier, rtol=1e-6)
    np.testing.assert_allclose(found['nll'].mean(), metrics.log_loss(LABEL, probabilities), rtol=1e-6)


def test_nothing_counted_is_not_a_number():
    nothing = {name: np.zeros(15) for name in ('count', 'right', 'confidence')}
    assert np.isnan(calibration.expected_error(nothing))
    assert np.isnan(calibration.adaptive_error(np.zeros(0), np.zeros(0, bool)))
