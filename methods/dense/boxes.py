"""Boxes as arithmetic: distances to their sides, which place answers for which box, overlaps, and suppression.

Boxes are (y0, x0, y1, x1) in pixels and places (y, x). The number of boxes is fixed; those that are none are masked.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from longview.methods.figures import detection


def places(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int]
) -> tuple[Float[np.ndarray, 'l 2'], Float[np.ndarray, ' l'], Int[np.ndarray, ' l']]:
    """Returns the centre of each place of a pyramid, its stride and its level; row by row, one level after the other.

    Args:
        sizes: rows and columns of each level.
        strides: pixels between its places.
    """
    centres = [
        (np.stack(np.meshgrid(*map(np.arange, size), indexing='ij'), axis=-1).reshape(-1, 2) + 0.5) * stride
        for size, stride in zip(sizes, strides, strict=True)
    ]
    counts = [len(level) for level in centres]
    per_place = lambda values, kind: np.repeat(np.asarray(values, kind), counts)
    return (
        np.concatenate(centres).astype(np.float32),
        per_place(strides, np.float32),
        per_place(range(len(counts)), int),
    )


def distances(place: Float[Array, '*#n 2'], boxes: Float[Array, '*#n 4']) -> Float[Array, '*n 4']:
    """Returns how far the top, left, bottom and right side of a box are from a place; all positive inside of it."""
    return jnp.concatenate([place - boxes[..., :2], boxes[..., 2:] - place], axis=-1)


def from_distances(place: Float[Array, '*#n 2'], sides: Float[Array, '*#n 4']) -> Float[Array, '*n 4']:
    """Returns the box whose sides are so far from a place; the inverse of `distances`."""
    return jnp.concatenate([place - sides[..., :2], place + sides[..., 2:]], axis=-1)


def centreness(sides: Float[Array, '*n 4']) -> Float[Array, '*n']:
    """Returns how central a place is in its box, 1 in the middle and 0 at a side.

    Tian et al., 2019, https://arxiv.org/abs/1904.01355, equation (3)::

        sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))

    Args:
        sides: distances; outside of the box the result is 0.
    """
    near = jnp.minimum(sides[..., :2], sides[..., 2:])
    far = jnp.maximum(sides[..., :2], sides[..., 2:])
    share = jnp.prod(jnp.maximum(near, 0) / jnp.where(far > 0, far, 1), axis=-1)
    # The root has no gradient at 0; nothing learns from this, but a NaN would spread.
    return jnp.where(share > 0, jnp.sqrt(jnp.where(share > 0, share, 1)), 0)


def answering(
    place: Float[Array, 'l 2'],
    stride: Float[Array, ' l'],
    low: Float[Array, ' l'],
    high: Float[Array, ' l'],
    boxes: Float[Array, 'n 4'],
    valid: Bool[Array, ' n'],
    radius: float = 1.5,
) -> Int[Array, ' l']:
    """Returns for each place the box that it answers for, or -1.

    That is the smallest box for which the place is inside of it, nearer to its centre than `radius` strides along each
    axis, and whose largest of four distances lies between `low` and `high`: so each level has boxes of its own size.
    Tian et al., 2019, https://arxiv.org/abs/1904.01355, section 3.2; the radius is of the authors' later code, and
    torchvision's.

    Args:
        place, stride: of each place, from `places`.
        low, high: bounds of the largest distance, in pixels, of each place's level.
        boxes, valid: of one image.
        radius: in strides.
    """
    sides = distances(place[:, None], boxes[None])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = jnp.max(jnp.abs(place[:, None] - middle[None]), axis=-1) < radius * stride[:, None]
    largest = sides.max(axis=-1)
    fits = (largest > low[:, None]) & (largest < high[:, None])
    able = near & (sides.min(axis=-1) > 0) & fits & valid[None]
    area = jnp.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    smallest = jnp.argmin(jnp.where(able, area[None], jnp.inf), axis=-1)
    return jnp.where(able.any(axis=-1), smallest, -1)


def generalized_iou(a: Float[Array, '*n 4'], b: Float[Array, '*n 4'], eps: float = 1e-7) -> Float[Array, '*n']:
    """Returns the IoU of each pair less the share of their common hull that neither covers; -1 to 1.

    Rezatofighi et al., 2019, https://arxiv.org/abs/1902.09630, algorithm 1.

    Args:
        a, b: boxes in pairs.
        eps: added to both denominators, as torchvision does.
    """
    area = lambda box: jnp.prod(box[..., 2:] - box[..., :2], axis=-1)
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    shared = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    hull = jnp.prod(jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2]), axis=-1)
    union = area(a) + area(b) - shared
    return shared / (union + eps) - (hull - union) / (hull + eps)


def kept(
    boxes: Float[Array, 'n 4'], score: Float[Array, ' n'], label: Int[Array, ' n'], threshold: float
) -> Bool[Array, ' n']:
    """Returns which boxes greedy suppression keeps: by falling score, those that overlap no kept one of their class
    more.

    Args:
        boxes, score, label: of one image; of equal scores the first counts as higher.
        threshold: of the IoU; one that is equal to it stays.
    """
    order = jnp.argsort(-score, stable=True)
    boxes, label = boxes[order], label[order]
    rivals = (detection.iou(boxes, boxes) > threshold) & (label[:, None] == label[None])
    later = jnp.arange(len(order))

    def visit(index: Int[Array, ''], keep: Bool[Array, ' n']) -> Bool[Array, ' n']:
        return keep & ~(keep[index] & rivals[index] & (later > index))

    keep = jax.lax.fori_loop(0, len(order), visit, jnp.ones(len(order), bool))
    return jnp.zeros(len(order), bool).at[order].set(keep)
