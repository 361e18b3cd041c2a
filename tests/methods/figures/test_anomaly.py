"""Regions against scipy's; tests/goldens has a published implementation's overlap."""

import numpy as np
import scipy.ndimage

from longview.methods.figures import anomaly


def test_regions_are_scipys():
    """Random masks, from specks to nets that wind through the image, and a spiral."""
    rng = np.random.default_rng(0)
    masks = rng.random((5, 17, 23)) < np.asarray([0.1, 0.3, 0.4, 0.5, 0.9])[:, None, None]
    spiral = np.zeros((17, 23), bool)
    for i in range(0, 8, 2):
        spiral[i, i : 23 - i] = spiral[16 - i, i : 23 - i] = spiral[i : 17 - i, 22 - i] = True
        spiral[i + 2 : 17 - i, i] = spiral[i + 2, i : i + 2] = True
    for mask in (*masks, spiral):
        wanted, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        found = anomaly.regions(mask[None])[0]
        assert len(np.unique(np.stack([found, wanted])[:, mask], axis=1).T) == count == found.max()
        np.testing.assert_array_equal(found > 0, mask)
    together = anomaly.regions(masks)
    assert together.max() == sum(anomaly.regions(mask[None]).max() for mask in masks)


def test_small_regions_count_as_large_ones_do():
    mask = np.zeros((1, 10, 10), bool)
    mask[0, 0, 0] = mask[0, 5:9, 5:9] = True
    normal = np.linspace(0, 0.4, 100).reshape(1, 10, 10)
    assert anomaly.per_region_overlap(np.where(mask, 1, normal), mask) == 1
    large_only = np.where(mask, 1, normal)
    large_only[0, 0, 0] = 0
    np.testing.assert_allclose(anomaly.per_region_overlap(large_only, mask), 0.5)


def test_what_cannot_be_said_is_not_a_number():
    score, mask = np.random.default_rng(0).random((1, 4, 4)), np.eye(4, dtype=bool)[None]
    for given in ((score, mask & False), (score, mask | True), (score * np.nan, mask), (score * 0, mask)):
        assert np.isnan(anomaly.per_region_overlap(*given))
    assert np.isnan(anomaly.per_region_overlap(score[:0], mask[:0]))
