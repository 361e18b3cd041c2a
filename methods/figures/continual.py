"""Figures of a sequence of sessions, from the accuracies on each part after each session.

``matrix[t, k]`` is the accuracy on the examples whose classes come in session k, after session t; t and k go from 0 to
T - 1. All figures are means over sessions, however many examples each has, and NaN where there is nothing to average:
forgetting and the transfers of one session. Functions are of NumPy alone.
"""

import numpy as np
from jaxtyping import Float

from longview.methods.figures.means import known_mean

Matrix = Float[np.ndarray, 't t']


def average_incremental(matrix: Matrix) -> float:
    """Returns the mean over sessions t of the mean accuracy on the parts that have come by then.

    Rebuffi et al., 2017, "iCaRL", https://arxiv.org/abs/1611.07725, section 4, for parts of equal size: there the
    accuracy after a session is over all test examples of the classes seen.
    """
    return known_mean([row[: t + 1].mean() for t, row in enumerate(matrix)])


def last(matrix: Matrix) -> float:
    """Returns the mean accuracy on all parts after the last session, ACC of Lopez-Paz and Ranzato, 2017."""
    return known_mean(matrix[-1])


def forgetting(matrix: Matrix) -> float:
    """Returns the mean over all parts but the last of what was lost since the session that knew it best.

    ``mean over k < T - 1 of (max over t < T - 1 of matrix[t, k]) - matrix[T - 1, k]``, which is negative where later
    sessions help. Chaudhry et al., 2018, "Riemannian Walk for Incremental Learning", https://arxiv.org/abs/1801.10112,
    section 3.
    """
    before = matrix[:-1, :-1].max(axis=0, initial=-np.inf)
    return known_mean(before - matrix[-1, :-1])


def backward_transfer(matrix: Matrix) -> float:
    """Returns the mean over all parts but the last of the last accuracy less that right after the part's session.

    Lopez-Paz and Ranzato, 2017, "Gradient Episodic Memory for Continual Learning", https://arxiv.org/abs/1706.08840,
    section 2, BWT.
    """
    return known_mean(matrix[-1, :-1] - np.diag(matrix)[:-1])


def forward_transfer(matrix: Matrix, untrained: Float[np.ndarray, ' t']) -> float:
    """Returns the mean over all parts but the first of the accuracy right before the part's session less `untrained`.

    Lopez-Paz and Ranzato, 2017, section 2, FWT. It says something where a part can be answered before its session, as
    in the task-incremental scenario; among the classes seen so far no such answer is right.

    Args:
        matrix: the accuracies.
        untrained: the accuracy on each part of a network with random weights.
    """
    return known_mean(np.diag(matrix, 1) - untrained[1:])


def figures(matrix: Matrix) -> dict[str, float]:
    """Returns all that need nothing but the matrix."""
    return {
        'average_incremental_accuracy': average_incremental(matrix),
        'last_accuracy': last(matrix),
        'forgetting': forgetting(matrix),
        'backward_transfer': backward_transfer(matrix),
    }
