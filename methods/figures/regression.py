"""Numbers that were predicted: how far off they are, on the host, for the predictions of a whole split."""

import numpy as np
from jaxtyping import Float

from longview.methods.figures.means import known_mean, ratio


def figures(prediction: Float[np.ndarray, 'n k'], truth: Float[np.ndarray, 'n k']) -> dict[str, float]:
    """Returns ``mae`` and ``rmse`` in the unit of the labels, and ``r2``, 1 at best; NaN without examples.

    The mean absolute error and the root of the mean squared error are over all numbers together. R2, the coefficient of
    determination, is one less the squared errors over the squared distances from the mean, for each of the K, and of
    these the mean (scikit-learn's uniform average); a number that is the same in all examples has none and is left out.
    """
    error = prediction.astype(np.float64) - truth
    if np.isnan(error).any():
        return dict.fromkeys(('mae', 'rmse', 'r2'), float('nan'))
    # From the first one, so that numbers that are all the same are at exactly 0 from their mean.
    place = truth.astype(np.float64) - truth[:1]
    spread = ((place - ratio(place.sum(axis=0), len(place))) ** 2).sum(axis=0)
    return {
        'mae': known_mean(np.abs(error)),
        'rmse': float(np.sqrt(known_mean(error**2))),
        'r2': known_mean(1 - ratio((error**2).sum(axis=0), spread)),
    }
