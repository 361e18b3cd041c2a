"""Two sorts of examples told apart by a score: those of the training distribution, and those outside of it.

Scores are larger for what is inside; only their order counts. All figures are between 0 and 1; NaN where one sort is
missing or a score is NaN. As in Hendrycks and Gimpel, 2017, https://arxiv.org/abs/1610.02136.
"""

import math

import numpy as np
from jaxtyping import Float

Scores = Float[np.ndarray, ' n']
Others = Float[np.ndarray, ' m']


def figures(inside: Scores, outside: Others) -> dict[str, float]:
    """Returns ``auroc``, ``aupr_in``, ``aupr_out`` and ``fpr95``; see the functions of these names."""
    return {
        'auroc': auroc(inside, outside),
        'aupr_in': average_precision(inside, outside),
        'aupr_out': average_precision(-outside, -inside),
        'fpr95': false_positive_rate(inside, outside, 0.95),
    }


def auroc(inside: Scores, outside: Others) -> float:
    """Returns the area under the ROC curve: how often one inside has a larger score than one outside, ties by half."""
    if _unknown(inside, outside):
        return float('nan')
    outside = np.sort(outside)
    below = np.searchsorted(outside, inside, 'left') + np.searchsorted(outside, inside, 'right')
    return float(np.mean(below / 2) / len(outside))


def average_precision(positive: Scores, negative: Others) -> float:
    """Returns the area under the precision-recall curve, as a sum of steps, without interpolation (as scikit-learn's).

    Args:
        positive: scores of what is to be found.
        negative: scores of the others; with equal scores all are found at once.
    """
    if _unknown(positive, negative):
        return float('nan')
    right, wrong = (len(x) - np.searchsorted(np.sort(x), positive) for x in (positive, negative))
    return float(np.mean(right / (right + wrong)))


def false_positive_rate(inside: Scores, outside: Others, recall: float) -> float:
    """Returns the share of the outside that passes the highest threshold which at least `recall` of the inside pass.

    A score that equals the threshold passes.
    """
    if _unknown(inside, outside):
        return float('nan')
    # Less a bit, so that 0.95 * 20 in floating point is not the 20th.
    rank = max(1, math.ceil(recall * len(inside) - 1e-9))
    threshold = np.sort(inside)[len(inside) - rank]
    return float(np.mean(outside >= threshold))


def _unknown(*scores: np.ndarray) -> bool:
    return any(len(x) == 0 or np.isnan(x).any() for x in scores)
