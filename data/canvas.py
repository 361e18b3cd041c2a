"""Digits scattered over a canvas, with pieces of digits between them: a small set for dense tasks, without a download.

A canvas is gray noise with digits of data/digits.py on it, which nowhere overlap, each of a random size at a random
place, and with clutter: quarters of other digits, which have the strokes of digits and are background. Training and
test canvases are made of the digits of the two splits, which are disjoint. All is a function of the seed and the
example's number: fewer examples are the first of more. The draws are NumPy's legacy ones, whose stream does not change.

    Arrays(train_split=functools.partial(digits, split='train', examples=2000, size=32), ...)
"""

from __future__ import annotations

import functools

import numpy as np

from longview.data.digits import to_uint8
from longview.data.images import resize

SIDE, CLASSES = 8, 10
# A pixel of a digit that is at least so bright is ink; the rest of its square is background.
INK = 64
# Places tried for a thing before it is left out.
TRIES = 20

Arrays = dict[str, np.ndarray]


def digits(
    *,
    split: str,
    examples: int,
    size: int,
    most: int = 4,
    sides: tuple[int, int] = (SIDE, SIDE),
    clutter: int = 4,
    noise: float = 24.0,
    seed: int = 0,
) -> Arrays:
    """Makes a data set for segmentation and detection.

    Args:
        split: which digits are on the canvases: 'train' or 'test'.
        examples: number of canvases N.
        size: their side S in pixels.
        most: digits on a canvas, drawn from 1 to this; what finds no free place is left out.
        sides: least and largest side of a digit's square in pixels.
        clutter: pieces on a canvas, drawn from 0 to this; they are half as large.
        noise: standard deviation of the noise that is added to bytes.
        seed: 0 <= seed < 2**32.

    Returns:
        image uint8 (N, S, S, 1); map int32 (N, S, S), 1 + digit where there is ink of one and 0 elsewhere; boxes
        float32 (N, most, 4) of the ink as (y0, x0, y1, x1), with boxes_valid bool and boxes_label int32, the digit, (N,
        most).

    Raises:
        ValueError: there is no such split, or the digits do not fit.
    """
    _check(split, size, most, sides)
    images, labels = _digits(split)
    draws = np.random.RandomState(seed)
    canvases = [_canvas(draws, images, labels, size, most, sides, clutter, noise) for _ in range(examples)]
    return {name: np.stack([canvas[name] for canvas in canvases]) for name in canvases[0]}


def _check(split: str, size: int, most: int, sides: tuple[int, int]) -> None:
    if split not in ('train', 'test'):
        raise ValueError(f"The canvases have no split {split!r}: use 'train' or 'test'.")
    if most < 1:
        raise ValueError(f'The canvases have up to {most} digits: use at least 1.')
    if not SIDE <= sides[0] <= sides[1] <= size:
        raise ValueError(
            f'The digits are {sides[0]} to {sides[1]} pixels wide on a canvas of {size}: the least has to be at '
            f'least {SIDE}, and the largest no smaller than it and no larger than the canvas.'
        )


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 (M, 8, 8, 1) and labels (M,) of a split of data/digits.py."""
    from sklearn.datasets import load_digits  # slow to import, and needed only here

    found = load_digits()
    test = np.arange(len(found.target)) % 5 == 4
    chosen = test if split == 'test' else ~test
    return to_uint8(found.images[chosen])[..., None], found.target[chosen].astype(np.int32)


def _canvas(
    draws: np.random.RandomState,
    images: np.ndarray,
    labels: np.ndarray,
    size: int,
    most: int,
    sides: tuple[int, int],
    clutter: int,
    noise: float,
) -> Arrays:
    image, classes = np.zeros((size, size)), np.zeros((size, size), np.int32)
    taken = np.zeros((size, size), bool)
    boxes, valid, label = np.zeros((most, 4), np.float32), np.zeros(most, bool), np.zeros(most, np.int32)
    for slot in range(draws.randint(1, most + 1)):
        chosen, side = draws.randint(len(images)), draws.randint(sides[0], sides[1] + 1)
        digit = resize(images[chosen], side, side, 'bilinear')[..., 0]
        place = _place(draws, taken, side)
        if place is not None:
            image[place], taken[place] = digit, True
            classes[place] = np.where(digit >= INK, 1 + labels[chosen], 0)
            boxes[slot], valid[slot], label[slot] = _box(digit >= INK, place), True, labels[chosen]
    for _ in range(draws.randint(clutter + 1)):
        chosen, side = draws.randint(len(images)), draws.randint(sides[0], sides[1] + 1)
        row, column = draws.randint(2, size=2) * (SIDE // 2)
        quarter = images[chosen, row : row + SIDE // 2, column : column + SIDE // 2]
        place = _place(draws, taken, side // 2)
        if place is not None:
            image[place], taken[place] = resize(quarter, side // 2, side // 2, 'bilinear')[..., 0], True
    image = np.clip(image + noise * draws.standard_normal(image.shape), 0, 255).astype(np.uint8)
    return {'image': image[..., None], 'map': classes, 'boxes': boxes, 'boxes_valid': valid, 'boxes_label': label}


def _place(draws: np.random.RandomState, taken: np.ndarray, side: int) -> tuple[slice, slice] | None:
    """Returns the rows and columns of a free square, or None where none is found."""
    for _ in range(TRIES):
        y, x = draws.randint(len(taken) - side + 1, size=2)
        if not taken[y : y + side, x : x + side].any():
            return slice(y, y + side), slice(x, x + side)
    return None


def _box(ink: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Returns the smallest box around the ink of a square at a place."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    y, x = place[0].start, place[1].start
    return np.asarray([y + rows[0], x + columns[0], y + rows[-1] + 1, x + columns[-1] + 1])
