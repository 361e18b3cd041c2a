"""COCO's average precision against pycocotools (tests/goldens has its smaller case), and the overlap of boxes."""

import jax
import jax.numpy as jnp
import numpy as np

from longview.methods.figures import detection
from longview.methods.figures.detection import Detections, Truth

IMAGES, FOUND, THERE, CLASSES = 4, 250, 14, 2


def split():
    """Returns detections and a truth in whole pixels, with scores of 8 values: many overlaps and scores are equal.

    Some of the truth are crowds, areas are not those of the boxes, and images have over 100 detections of a class.
    """
    rng = np.random.default_rng(3)

    def boxes(count):
        y, x = (np.sort(rng.integers(0, 400, (IMAGES, count, 2)), axis=-1) for _ in range(2))
        return np.stack([y[..., 0], x[..., 0], y[..., 1] + 1, x[..., 1] + 1], axis=-1).astype(np.float32)

    there = boxes(THERE)
    truth = Truth(
        boxes=there,
        label=rng.integers(0, CLASSES, (IMAGES, THERE)),
        valid=rng.random((IMAGES, THERE)) < 0.7,
        crowd=rng.random((IMAGES, THERE)) < 0.2,
        area=(there[..., 2] - there[..., 0]) * (there[..., 3] - there[..., 1]) * np.float32(0.75),
    )
    found = boxes(FOUND)
    near, copied = rng.integers(0, THERE, (IMAGES, FOUND)), rng.random((IMAGES, FOUND)) < 0.6
    copy = np.take_along_axis(there, near[..., None], axis=1) + rng.integers(-6, 7, (IMAGES, FOUND, 4))
    copy[..., :2] = np.minimum(copy[..., :2], copy[..., 2:] - 1)
    label = np.where(copied, np.take_along_axis(truth.label, near, axis=1), rng.integers(0, CLASSES, copied.shape))
    return Detections(
        boxes=np.where(copied[..., None], copy, found).astype(np.float32),
        score=rng.integers(0, 8, copied.shape).astype(np.float32) / 8,
        label=label,
        valid=rng.random(copied.shape) < 0.9,
    ), truth


# COCOeval(..., 'bbox').stats of pycocotools 2.0.11 for `split`.
PYCOCOTOOLS = {
    'ap': 0.13665364039966083,
    'ap50': 0.2513592101726419,
    'ap75': 0.15872991405716225,
    'ap_small': 0.08382838283828382,
    'ap_medium': 0.25224678037267345,
    'ap_large': 0.15387388878536506,
    'ar1': 0.08447712418300654,
    'ar10': 0.33415032679738566,
    'ar100': 0.7772875816993465,
    'ar_small': 0.175,
    'ar_medium': 0.7825,
    'ar_large': 0.9512499999999999,
}


def test_figures_are_pycocotools():
    found, truth = split()
    assert all((found.valid & (found.label == k)).sum(axis=1).max() > 100 for k in range(CLASSES))
    figures = detection.figures(detection.curves(found, truth, classes=CLASSES))
    assert figures.keys() == PYCOCOTOOLS.keys()
    np.testing.assert_allclose([*figures.values()], [*PYCOCOTOOLS.values()], atol=1e-12)


def test_padding_counts_for_nothing():
    found, truth = split()
    nothing = lambda rows: rows._replace(boxes=np.where(rows.valid[..., None], rows.boxes, np.nan))
    poisoned = nothing(found)._replace(score=np.where(found.valid, found.score, 9).astype(np.float32)), nothing(truth)
    same = detection.curves(*poisoned, classes=CLASSES), detection.curves(found, truth, classes=CLASSES)
    np.testing.assert_array_equal(same[0].precision, same[1].precision)
    wide = [type(rows)(*(np.concatenate([x, np.zeros_like(x)], axis=1) for x in rows)) for rows in (found, truth)]
    np.testing.assert_array_equal(detection.curves(*wide, classes=CLASSES).precision, same[1].precision)


def test_a_perfect_detector_and_a_class_without_truth():
    boxes = np.asarray([[[0, 0, 200, 200], [0, 0, 20, 20]]], np.float32)
    label, everything = np.asarray([[0, 2]]), np.ones((1, 2), bool)
    found = Detections(boxes, np.ones((1, 2), np.float32), label, everything)
    curves = detection.curves(found, Truth(boxes, label, everything), classes=4)
    figures = detection.figures(curves)
    assert {name for name, value in figures.items() if value != 1} == {'ap_medium', 'ar_medium'}
    np.testing.assert_array_equal(np.isnan(curves.precision[:, 0, 0, 0]), [False, True, False, True])


def figures_of(found, truth):
    """Returns the figures of two boxes in one image, of one class, the first the surer one."""
    label, everything = np.zeros((1, 2), int), np.ones((1, 2), bool)
    found = Detections(np.float32([found]), np.float32([[0.9, 0.8]]), label, everything)
    return detection.figures(detection.curves(found, Truth(np.float32([truth]), label, everything), classes=1))


def test_of_equal_overlaps_the_last_one_is_taken():
    """So the second detection, which is the second box, finds only the first one; numbers of pycocotools 2.0.11."""
    figures = figures_of([[0, 0, 10, 12], [0, 2, 10, 12]], [[0, 0, 10, 10], [0, 2, 10, 12]])
    np.testing.assert_allclose([figures[name] for name in ('ap50', 'ap75', 'ar100')], [1, 0.5049505, 0.7], rtol=1e-7)


def test_boxes_on_the_edge_are_of_both_sizes():
    boxes = [[0, 0, 32, 32], [50, 50, 146, 146]]
    figures = figures_of(boxes, boxes)
    assert figures['ap_small'] == figures['ap_medium'] == figures['ap_large'] == 1
    missed = figures_of([[0, 0, 1, 1], [50, 50, 146, 146]], boxes)
    assert (missed['ar_small'], missed['ar_medium'], missed['ar_large']) == (0, 0.5, 1)


def test_without_images_or_detections():
    empty = lambda images, count: (np.zeros((images, count, 4), np.float32), np.zeros((images, count), np.int32))
    boxes, label = empty(0, 3)
    nowhere = detection.curves(
        Detections(boxes, np.zeros((0, 3), np.float32), label, label > 0), Truth(boxes, label, label > 0), classes=2
    )
    assert all(map(np.isnan, detection.figures(nowhere).values()))
    boxes, label = empty(1, 1)
    none = Detections(boxes, np.zeros((1, 1), np.float32), label, np.zeros((1, 1), bool))
    missed = Truth(boxes + np.float32([0, 0, 9, 9]), label, np.ones((1, 1), bool))
    figures = detection.figures(detection.curves(none, missed, classes=2))
    assert figures['ap'] == figures['ar100'] == figures['ap_small'] == 0 and np.isnan(figures['ap_large'])


def test_overlaps_are_the_same_in_numpy_and_jax():
    a = np.asarray([[0, 0, 4, 4], [1, 1, 1, 1]], np.float32)
    b = np.asarray([[0, 0, 4, 4], [2, 2, 6, 4], [8, 8, 9, 9], [1, 1, 1, 1]], np.float32)
    wanted = [[1, 4 / 20, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(detection.iou(a, b), wanted, rtol=1e-6)
    found = jax.jit(detection.iou)(jnp.asarray([a]), jnp.asarray([b]))
    np.testing.assert_allclose(jax.device_get(found), [wanted], rtol=1e-6)
