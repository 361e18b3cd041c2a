"""Semantic segmentation: how many pixels of each class were given to each class, and what follows from these counts.

Counts are taken over a whole split before anything is divided, as the benchmarks do; a mean over images of each one's
figure is another number. Conventions of mmsegmentation (https://github.com/open-mmlab/mmsegmentation, Apache-2.0,
mmseg/evaluation/metrics/iou_metric.py): a class that is neither labelled nor predicted anywhere is left out of the mean
of IoU and Dice, one that is never labelled is left out of the mean accuracy. The frequency-weighted IoU is that of Long
et al., 2015, https://arxiv.org/abs/1411.4038, section 5.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Num

from longview.methods.figures.means import known_mean, ratio


def confusion(
    label: Integer[Array, 'b *place'],
    predicted: Integer[Array, 'b *place'],
    mask: Bool[Array, ' b'],
    *,
    classes: int,
    ignore: int | None = None,
) -> Int[Array, 'k k']:
    """Counts the pixels of a batch by their class, the row, and the class predicted for them, the column.

    The counts of several batches may be added. One batch, over all devices, may have up to 2**31 - 1 pixels, which are
    8,191 maps of 512 x 512; added in float64 they are exact up to 2**53 pixels.

    Args:
        label: the class of each pixel, or voxel; one that is not in 0 ... `classes` - 1 leaves the pixel out, as 255 or
            -1 often does.
        predicted: the class predicted, in 0 ... `classes` - 1, too.
        mask: the examples that count.
        classes: number of classes.
        ignore: a class among them whose pixels are left out as well.
    """
    label, predicted = label.astype(jnp.int32), predicted.astype(jnp.int32)
    counts = (label >= 0) & (label < classes) & mask.reshape(-1, *[1] * (label.ndim - 1))
    if ignore is not None:
        counts &= label != ignore
    cell = jnp.where(counts, label * classes + predicted, 0)
    cells = jnp.zeros(classes**2, jnp.int32).at[cell.ravel()].add(counts.ravel().astype(jnp.int32))
    return cells.reshape(classes, classes)


def by_class(confusion: Num[np.ndarray, 'k k']) -> dict[str, Float[np.ndarray, ' k']]:
    """Returns ``iou``, ``dice`` and ``accuracy`` (recall) of each class, NaN where they are 0 / 0.

    Args:
        confusion: counts of a split, classes by predictions.
    """
    right, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        'iou': ratio(right, labelled + predicted - right),
        'dice': ratio(2 * right, labelled + predicted),
        'accuracy': ratio(right, labelled),
    }


def figures(confusion: Num[np.ndarray, 'k k']) -> dict[str, float]:
    """Returns the figures of a split, between 0 and 1, or NaN without any pixel.

    They are ``mean_iou``, ``mean_dice`` and ``mean_accuracy``, over the classes of which each is known;
    ``pixel_accuracy``; and ``frequency_weighted_iou``, the mean of IoU over labelled pixels.

    Args:
        confusion: counts of a split, classes by predictions.
    """
    classes, total = by_class(confusion), confusion.sum()
    weighted = np.nansum(classes['iou'] * confusion.sum(axis=1))
    return {
        'mean_iou': known_mean(classes['iou']),
        'mean_dice': known_mean(classes['dice']),
        'mean_accuracy': known_mean(classes['accuracy']),
        'pixel_accuracy': float(ratio(np.trace(confusion), total)),
        'frequency_weighted_iou': float(ratio(weighted, total)),
    }
