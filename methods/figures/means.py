"""Quotients and means of which nothing may be left to divide by: then they are NaN, and nothing warns."""

import numpy as np
from numpy.typing import ArrayLike


def ratio(top: ArrayLike, bottom: ArrayLike) -> np.ndarray:
    """Returns ``top / bottom`` in float64, broadcast; NaN where `bottom` is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def known_mean(values: ArrayLike) -> float:
    """Returns the mean of the values that are not NaN; NaN where there is none."""
    values = np.asarray(values, np.float64)
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float('nan')
