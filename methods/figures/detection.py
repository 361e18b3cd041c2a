"""COCO's average precision of boxes, on the host, and the overlap of boxes anywhere.

Lin et al., 2014, https://arxiv.org/abs/1405.0312, and https://cocodataset.org/#detection-eval. Reference: pycocotools
2.0.11, https://github.com/cocodataset/cocoapi (BSD-2-Clause), COCOeval, of which every figure is the same:

- Of each class in each image the 100 detections with the highest scores count. By falling score each takes the free
  box of the truth, of its class, that it overlaps most, by at least the threshold (of equal overlaps the last one).
- A crowd is overlapped by the share of the detection inside of it, and can be taken any number of times. What takes one
  is neither right nor wrong.
- Precision is made to fall, read at 101 recalls, and averaged over them, over 10 thresholds, and over classes that have
  a box to be found.
- Small boxes are up to 32^2 pixels, large ones from 96^2. Of the truth's other boxes none has to be found, and what
  takes one of them, or takes none and has another size itself, is neither right nor wrong.

Boxes are (y0, x0, y1, x1) in pixels, without a pixel added to their sides. For COCO's own sizes they have to be in
pixels of the original image.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from longview.methods.figures.means import known_mean, ratio

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
SIZES = {'all': (0, 1e10), 'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, 1e10)}
AT_MOST = (1, 10, 100)


class Detections(NamedTuple):
    """What was found in each image of a split, in any order.

    Attributes:
        boxes: (y0, x0, y1, x1) in pixels.
        score: how sure each is; compared across images.
        label: class of each.
        valid: False for padding.
    """

    boxes: Float[np.ndarray, 'i n 4']
    score: Float[np.ndarray, 'i n']
    label: Int[np.ndarray, 'i n']
    valid: Bool[np.ndarray, 'i n']


class Truth(NamedTuple):
    """What there is in each image of a split.

    Attributes:
        boxes: (y0, x0, y1, x1) in pixels.
        label: class of each.
        valid: False for padding.
        crowd: True for a box around many; None for nowhere.
        area: by which sizes are told, in pixels: COCO's is that of the outline. None for the box's.
    """

    boxes: Float[np.ndarray, 'i m 4']
    label: Int[np.ndarray, 'i m']
    valid: Bool[np.ndarray, 'i m']
    crowd: Bool[np.ndarray, 'i m'] | None = None
    area: Float[np.ndarray, 'i m'] | None = None


class Curves(NamedTuple):
    """What average precision is the average of; NaN for a class without a box of that size to be found.

    Attributes:
        precision: of each class, of `SIZES`, at `THRESHOLDS` and `RECALLS`, of 100 detections.
        recall: of each class, of `SIZES`, with `AT_MOST` so many detections, at `THRESHOLDS`.
    """

    precision: Float[np.ndarray, 'k 4 10 101']
    recall: Float[np.ndarray, 'k 4 3 10']


def iou(
    a: Float[Array | np.ndarray, '*batch n 4'], b: Float[Array | np.ndarray, '*batch m 4']
) -> Float[Array | np.ndarray, '*batch n m']:
    """Returns the intersection of each box with each other one over their union, 0 where that is empty.

    Args:
        a, b: both (y0, x0, y1, x1), or both (x0, y0, x1, y1); of JAX, in jit too, or of NumPy.
    """
    xp = a.__array_namespace__()
    shared = _intersection(a, b)
    union = _area(a)[..., :, None] + _area(b)[..., None, :] - shared
    return xp.where(union > 0, shared / xp.where(union > 0, union, 1), 0)


def _area(boxes: Any) -> Any:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(a: Any, b: Any) -> Any:
    xp = a.__array_namespace__()
    a, b = a[..., :, None, :], b[..., None, :, :]
    side = xp.minimum(a[..., 2:], b[..., 2:]) - xp.maximum(a[..., :2], b[..., :2])
    return xp.prod(xp.maximum(side, 0), axis=-1)


def figures(curves: Curves) -> dict[str, float]:
    """Returns COCO's twelve figures, between 0 and 1; NaN (pycocotools: -1) where there is nothing to be found.

    They are ``ap``, ``ap50`` and ``ap75``, ``ap_small``, ``ap_medium`` and ``ap_large``; and of recall, by the number
    of detections ``ar1``, ``ar10`` and ``ar100``, and by size ``ar_small``, ``ar_medium`` and ``ar_large``.
    """
    precision, recall = curves
    found = {'ap': precision[:, 0], 'ap50': precision[:, 0, 0], 'ap75': precision[:, 0, 5]}
    found |= {f'ap_{size}': precision[:, i] for i, size in enumerate(SIZES) if i}
    found |= {f'ar{most}': recall[:, 0, i] for i, most in enumerate(AT_MOST)}
    found |= {f'ar_{size}': recall[:, i, -1] for i, size in enumerate(SIZES) if i}
    return {name: known_mean(values) for name, values in found.items()}


def curves(detections: Detections, truth: Truth, *, classes: int) -> Curves:
    """Returns precision and recall of each class over a split.

    Of equal scores the first image's counts first, and in an image the first detection.

    Args:
        detections, truth: of the same images, in the same order.
        classes: number of classes; what has another label is left out.
    """
    found, there = _ranked(detections), _listed(truth)
    precision, recall = np.full((classes, 4, 10, 101), np.nan), np.full((classes, 4, 3, 10), np.nan)
    for k in range(classes):
        wanted = _of_class(there, k)
        if len(wanted.label):
            precision[k], recall[k] = _curves_of_class(_of_class(found, k), wanted)
    return Curves(precision, recall)


class _Found(NamedTuple):
    """Detections in a list: by class, image and falling score; `rank` counts from 0 in each image and class."""

    label: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    boxes: np.ndarray
    score: np.ndarray


class _There(NamedTuple):
    """The truth in a list: by class and image; `rank` counts from 0 in each image and class."""

    label: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


def _ranked(detections: Detections) -> _Found:
    boxes, score, label = (x[detections.valid] for x in detections[:3])
    image = np.nonzero(detections.valid)[0]
    order = np.lexsort((-score, image, label))
    label, image = label[order], image[order]
    rank = _rank(label, image)
    rows = (label, image, rank, boxes[order].astype(np.float64), score[order])
    return _Found(*(x[rank < AT_MOST[-1]] for x in rows))


def _listed(truth: Truth) -> _There:
    boxes, label = truth.boxes[truth.valid].astype(np.float64), truth.label[truth.valid]
    crowd = np.zeros(len(boxes), bool) if truth.crowd is None else truth.crowd[truth.valid]
    area = _area(boxes) if truth.area is None else truth.area[truth.valid]
    image = np.nonzero(truth.valid)[0]
    order = np.lexsort((image, label))
    label, image = label[order], image[order]
    return _There(label, image, _rank(label, image), boxes[order], crowd[order], area[order])


def _rank(label: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns the place of each row among those of its class and image, which stand together."""
    place = np.arange(len(label))
    first = np.ones(len(label), bool)
    first[1:] = (np.diff(label) != 0) | (np.diff(image) != 0)
    return place - np.maximum.accumulate(np.where(first, place, 0))


def _of_class(rows: Any, k: int) -> Any:
    begin, end = np.searchsorted(rows.label, [k, k + 1])
    return type(rows)(*(x[begin:end] for x in rows))


def _outside(area: np.ndarray) -> np.ndarray:
    """Returns whether each area is of another size, for each of `SIZES`."""
    low, high = np.asarray(list(SIZES.values())).T[..., None]
    return (area < low) | (area > high)


def _curves_of_class(found: _Found, there: _There) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision (4, 10, 101) and recall (4, 3, 10) of a class."""
    passed_over = there.crowd | _outside(there.area)
    matched, excused = _match(found, there, passed_over)
    excused |= ~matched & _outside(_area(found.boxes))[:, None]
    wanted = np.sum(~passed_over, axis=1)
    right, wrong = matched & ~excused, ~matched & ~excused
    hits = np.stack([np.sum(right[..., found.rank < most], axis=-1) for most in AT_MOST], axis=1)
    order = np.argsort(-found.score, kind='stable')
    right, wrong = (np.cumsum(x[..., order], axis=-1) for x in (right, wrong))
    recall = ratio(right, wanted[:, None, None])
    # No detection before this one that counts: neither right nor wrong, a precision of 0.
    precision = np.nan_to_num(ratio(right, right + wrong))
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # A recall that is never reached has a precision of 0.
    precision = np.pad(precision, ((0, 0), (0, 0), (0, 1)))
    sampled = np.full((4, 10, 101), np.nan)
    for i, t in np.ndindex(4, 10):
        if wanted[i]:
            sampled[i, t] = precision[i, t, np.searchsorted(recall[i, t], RECALLS)]
    return sampled, ratio(hits, wanted[:, None, None])


def _match(found: _Found, there: _There, passed_over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (matched, excused) of each detection of a class, both (4 sizes, 10 thresholds, detections).

    The detections of one rank are of different images, so they choose at once.

    Args:
        found, there: of the class.
        passed_over: (4 sizes, boxes): the truth's boxes that need not be found.
    """
    images, slot = np.unique(there.image, return_inverse=True)
    padded = (len(images), there.rank.max() + 1)
    boxes, crowd, exists = np.zeros((*padded, 4)), np.zeros(padded, bool), np.zeros(padded, bool)
    spare = np.zeros((4, *padded), bool)
    boxes[slot, there.rank], crowd[slot, there.rank], exists[slot, there.rank] = there.boxes, there.crowd, True
    spare[:, slot, there.rank] = passed_over
    taken = np.zeros((4, 10, *padded), bool)
    matched, excused = np.zeros((2, 4, 10, len(found.rank)), bool)
    image = np.minimum(np.searchsorted(images, found.image), len(images) - 1)
    has_truth = images[image] == found.image
    for rank in range(found.rank.max(initial=-1) + 1):
        now = np.flatnonzero((found.rank == rank) & has_truth)
        at = image[now]
        overlap = np.where(exists[at], _overlap(found.boxes[now], boxes[at], crowd[at]), -1)
        able = (~taken[:, :, at] | crowd[at]) & (overlap >= THRESHOLDS[:, None, None])
        extra = spare[:, None, at]
        # Those that need not be found are taken where no other can be.
        able &= np.where((able & ~extra).any(axis=-1, keepdims=True), ~extra, extra)
        chosen = able & (np.arange(padded[1]) == _last_argmax(np.where(able, overlap, -1))[..., None])
        matched[:, :, now], excused[:, :, now] = chosen.any(axis=-1), (chosen & extra).any(axis=-1)
        taken[:, :, at] |= chosen
    return matched, excused


def _overlap(found: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Returns IoU (n, m) of detections (n, 4) with their own images' boxes (n, m, 4), of crowds the share inside."""
    found = found[:, None]
    inside = ratio(_intersection(found, boxes)[:, 0], _area(found))
    return np.where(crowd, np.nan_to_num(inside), iou(found, boxes)[:, 0])


def _last_argmax(x: np.ndarray) -> np.ndarray:
    return x.shape[-1] - 1 - np.argmax(x[..., ::-1], axis=-1)
