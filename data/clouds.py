"""Digits as sets of points: the pixels that are not dark, each where it is and how bright it is.

The digits are those of data/digits.py, with the same test split. Points stand in no order.
"""

from __future__ import annotations

import numpy as np

from longview.data.digits import arrays


def digits(
    *, test: bool = False, at_most: int = 48, threshold: int = 32, jitter: float = 0.25, seed: int = 0
) -> dict[str, np.ndarray]:
    """Makes a split; the same arguments give the same arrays.

    Args:
        test: the test split, 359 digits, or the one to train on, 1,438.
        at_most: points of an example, N; of more than that, some are left out at random.
        threshold: a pixel that is brighter is a point, 0 to 255.
        jitter: standard deviation by which points are moved, in pixels.
        seed: of what is drawn, 0 <= seed < 2**32.

    Returns:
        points float32 (B, N, 3), row and column from -1 to 1 and brightness from 0 to 1, zeros as padding;
        points_valid bool (B, N); label int32 (B,).
    """
    image, label = arrays(test)
    draws = np.random.RandomState(seed)
    brightness = image.reshape(len(image), -1)
    there = brightness > threshold
    moved = jitter * draws.standard_normal((*brightness.shape, 2))
    # Points in any order before what is none.
    order = np.argsort(draws.uniform(size=brightness.shape) + ~there, axis=1)[:, :at_most]
    place = (np.indices((8, 8)).reshape(2, -1).T[None] + moved - 3.5) / 3.5
    points = np.concatenate([place, brightness[..., None] / 255], axis=2)
    points, valid = np.take_along_axis(points, order[..., None], axis=1), np.take_along_axis(there, order, axis=1)
    points = np.where(valid[..., None], points, 0).astype(np.float32)
    return {'points': points, 'points_valid': valid, 'label': label.astype(np.int32)}
