"""Several labels an example: which are found, on the host, of the answers to a whole split.

Answers are logits (N, K), and a label is said to be there where its own is above 0. A label's average precision is a
sum of steps with equal answers found at once; of the means over labels, one is left out of which there is nothing to
measure: of the average precisions a label that no example has, of F1 one that is neither there nor said to be anywhere.
scikit-learn counts such ones as 0; torchmetrics leaves them out of the first mean and counts 0 in the second.
"""

import numpy as np
from jaxtyping import Bool, Float

from longview.methods.figures.means import known_mean, ratio

Logits = Float[np.ndarray, 'n k']
Truth = Bool[np.ndarray, 'n k']


def figures(logits: Logits, truth: Truth) -> dict[str, float]:
    """Returns figures between 0 and 1; NaN where there is nothing to measure, or an answer is NaN.

    They are ``mean_average_precision``, the mean over labels; ``exact_match``, the share of examples with all their
    labels and no other; ``f1_micro``, of all labels together, and ``f1_macro``, the mean over labels.

    Args:
        logits: answers of the split.
        truth: whether each label is there.
    """
    broken = np.isnan(logits).any()
    said = logits > 0
    found, either = (said & truth).sum(axis=0), said.sum(axis=0) + truth.sum(axis=0)
    made = {
        'mean_average_precision': known_mean(average_precision(logits, truth)),
        'exact_match': known_mean((said == truth).all(axis=1)),
        'f1_micro': float(ratio(2 * found.sum(), either.sum())),
        'f1_macro': known_mean(ratio(2 * found, either)),
    }
    return dict.fromkeys(made, float('nan')) if broken else made


def average_precision(logits: Logits, truth: Truth) -> Float[np.ndarray, ' k']:
    """Returns each label's area under its precision-recall curve; NaN for one that no example has."""
    return np.asarray([_area(answer, wanted) for answer, wanted in zip(logits.T, truth.T)], np.float64)


def _area(answer: np.ndarray, wanted: np.ndarray) -> float:
    """The mean, over the examples with the label, of the share of such among those with no smaller answer."""
    right, every = np.sort(answer[wanted]), np.sort(answer)
    above = lambda ordered: len(ordered) - np.searchsorted(ordered, right)
    return known_mean(above(right) / above(every))
