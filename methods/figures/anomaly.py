"""Anomalies located: the area under the per-region overlap, on the host.

Bergmann et al., 2021, https://doi.org/10.1007/s11263-020-01400-4, section 5: how much of each anomalous region is
found, however large it is, while no more than a share of the normal pixels is called anomalous. The area is taken as
published code does (MuSc, https://github.com/xrli-U/MuSc, utils/metrics.py): at 200 thresholds between the smallest and
the largest score, over the false-positive rates among them that are below the limit, stretched to 0 ... 1.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

_THRESHOLDS = 200


def regions(mask: Bool[np.ndarray, 'n h w']) -> Int[np.ndarray, 'n h w']:
    """Returns the number, from 1, of the region that each pixel of each mask is in, and 0 outside of the mask.

    Pixels that touch, by a corner too, are in the same region.
    """
    # Each pixel points to the first one that it knows of in its region, asks its neighbours, and then that one.
    outside = mask.size
    first = np.where(mask, np.arange(mask.size).reshape(mask.shape), outside)
    while True:
        near = np.pad(first, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
        near = np.minimum(np.minimum(near[:, :-2], near[:, 1:-1]), near[:, 2:])
        near = np.minimum(np.minimum(near[..., :-2], near[..., 1:-1]), near[..., 2:])
        near = np.where(mask, near, outside)
        near = np.append(near.ravel(), outside)[near]
        if np.array_equal(near, first):
            break
        first = near
    numbers = np.zeros(mask.shape, np.int64)
    numbers[mask] = np.unique(first[mask], return_inverse=True)[1] + 1
    return numbers


def per_region_overlap(
    score: Float[np.ndarray, 'n h w'], mask: Bool[np.ndarray, 'n h w'], *, limit: float = 0.3
) -> float:
    """Returns the area under the mean overlap of regions by the false-positive rate, 0 to 1.

    It is NaN where there is no anomalous pixel, no normal one, or no two rates below the limit.

    Args:
        score: larger for anomalous pixels.
        mask: the anomalous pixels of the same images.
        limit: the largest share of normal pixels that may be called anomalous.
    """
    if not mask.any() or mask.all() or np.isnan(score).any():
        return float('nan')
    score = score.astype(np.float64)
    thresholds = np.linspace(score.min(), score.max(), _THRESHOLDS, endpoint=False)
    passing = lambda values: 1 - np.searchsorted(np.sort(values), thresholds, 'right') / len(values)
    number = regions(mask)[mask]
    order = np.argsort(number, kind='stable')
    parts = np.split(score[mask][order], np.cumsum(np.bincount(number)[1:])[:-1])
    overlap = np.mean([passing(part) for part in parts], axis=0)
    rate = passing(score[~mask])
    overlap, rate = overlap[rate < limit][::-1], rate[rate < limit][::-1]
    if rate.size == 0 or rate[0] == rate[-1]:
        return float('nan')
    return float(np.trapezoid(overlap, (rate - rate[0]) / (rate[-1] - rate[0])))
