"""Counts of pixels and their figures, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from longview.methods.figures import segmentation

CLASSES = 4
RNG = np.random.default_rng(0)
LABEL = RNG.integers(-1, CLASSES + 1, (5, 6, 7)).astype(np.int32)  # -1 and 4 are no classes
PREDICTED = RNG.integers(0, CLASSES, (5, 6, 7)).astype(np.int32)


@jax.jit
def counted(label, predicted, mask):
    count = lambda **ignore: segmentation.confusion(label, predicted, mask, classes=CLASSES, **ignore)
    return {'all': count(), 'without 2': count(ignore=2)}


def test_counts_are_scikit_learns_and_padding_has_none():
    mask = np.asarray([True, False, True, True, False])
    found = jax.device_get(counted(LABEL, PREDICTED, mask))
    assert found['all'].dtype == np.int32
    known = (LABEL >= 0) & (LABEL < CLASSES) & mask[:, None, None]
    for name, kept in {'all': known, 'without 2': known & (LABEL != 2)}.items():
        wanted = metrics.confusion_matrix(LABEL[kept], PREDICTED[kept], labels=range(CLASSES))
        np.testing.assert_array_equal(found[name], wanted)
    other = np.where(mask[:, None, None], PREDICTED, 3)
    np.testing.assert_array_equal(found['all'], jax.device_get(counted(LABEL, other, mask)['all']))


def test_batches_add_up():
    everything = np.ones(5, bool)
    whole = jax.device_get(counted(LABEL, PREDICTED, everything)['all'])
    first = np.arange(5) < 3
    parts = [jax.device_get(counted(LABEL, PREDICTED, mask)['all']) for mask in (first, ~first)]
    np.testing.assert_array_equal(np.sum(parts, axis=0, dtype=np.float64), whole)


def test_labels_of_eight_bits_do_not_overflow():
    label = np.full((1, 2), 150, np.uint8)
    counts = jax.jit(lambda label: segmentation.confusion(label, label, jnp.ones(1, bool), classes=200))(label)
    assert np.asarray(counts)[150, 150] == 2 == np.asarray(counts).sum()


def test_figures_are_scikit_learns():
    label, predicted = RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)
    found = segmentation.figures(metrics.confusion_matrix(label, predicted).astype(np.float64))
    iou = metrics.jaccard_score(label, predicted, average=None)
    assert {name: round(value, 12) for name, value in found.items()} == {
        'mean_iou': round(iou.mean(), 12),
        'mean_dice': round(metrics.f1_score(label, predicted, average='macro'), 12),
        'mean_accuracy': round(metrics.balanced_accuracy_score(label, predicted), 12),
        'pixel_accuracy': round(metrics.accuracy_score(label, predicted), 12),
        'frequency_weighted_iou': round(metrics.jaccard_score(label, predicted, average='weighted'), 12),
    }


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_is_not():
    #                     predicted: 0, 1, 2, 3
    confusion = np.asarray([[6, 0, 2, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    by_class = segmentation.by_class(confusion)
    np.testing.assert_array_equal(by_class['iou'], [6 / 8, 1, 0, np.nan])
    np.testing.assert_array_equal(by_class['accuracy'], [6 / 8, 1, np.nan, np.nan])
    found = segmentation.figures(confusion)
    np.testing.assert_allclose(found['mean_iou'], (6 / 8 + 1 + 0) / 3)
    np.testing.assert_allclose(found['mean_accuracy'], (6 / 8 + 1) / 2)
    np.testing.assert_allclose(found['frequency_weighted_iou'], (8 * 6 / 8 + 4 * 1) / 12)


def test_nothing_counted_is_not_a_number():
    assert all(map(np.isnan, segmentation.figures(np.zeros((3, 3))).values()))
