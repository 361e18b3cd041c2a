"""Figures of a classifier class by class, of the probabilities that it gives to the examples of a split; in NumPy."""

import numpy as np
from jaxtyping import Float, Int

from longview.methods.figures.calibration import adaptive_error
from longview.methods.figures.means import ratio

_TINY = np.finfo(np.float32).tiny


def figures(probabilities: Float[np.ndarray, 'n k'], label: Int[np.ndarray, ' n']) -> dict[str, float]:
    """Returns accuracy, top5, loss (cross-entropy), expected and adaptive calibration error, NaN without examples."""
    right = np.take_along_axis(probabilities, label[:, None], axis=1)
    rank = np.sum(probabilities > right, axis=1)
    sums = reliability(probabilities, label)
    distance = np.abs(sums['right'] - sums['confidence']).sum()
    sure = probabilities.max(axis=1)
    return {
        'accuracy': float(ratio(np.sum(rank < 1), len(label))),
        'top5': float(ratio(np.sum(rank < 5), len(label))),
        'loss': float(ratio(-np.log(np.maximum(right, _TINY), dtype=np.float64).sum(), len(label))),
        'calibration_error': float(ratio(distance, len(label))),
        'adaptive_calibration_error': adaptive_error(sure, probabilities.argmax(axis=1) == label),
    }


def confusion(probabilities: Float[np.ndarray, 'n k'], label: Int[np.ndarray, ' n']) -> Int[np.ndarray, 'k k']:
    """Returns how many examples of each class (row) were taken for each class (column)."""
    classes = probabilities.shape[1]
    return np.bincount(label * classes + probabilities.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def by_class(confusion: Int[np.ndarray, 'k k']) -> dict[str, np.ndarray]:
    """Returns of each class its ``examples``, and ``precision``, ``recall`` and ``f1``, NaN where they have no meaning.

    A class that nothing was taken for has no precision, one without examples no recall, and one without either no f1.
    """
    hits, there, found = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        'examples': there,
        'precision': ratio(hits, found),
        'recall': ratio(hits, there),
        'f1': ratio(2 * hits, there + found),
    }


def reliability(
    probabilities: Float[np.ndarray, 'n k'], label: Int[np.ndarray, ' n'], *, bins: int = 15
) -> dict[str, np.ndarray]:
    """Returns of each bin of confidence the ``count`` of examples, how many are ``right``, and their ``confidence``.

    The bins are those of `calibration.reliability`.
    """
    sure, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == label
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    total = lambda weights: np.bincount(place, weights, minlength=bins)
    return {'count': total(np.ones_like(sure)), 'right': total(right.astype(np.float64)), 'confidence': total(sure)}
