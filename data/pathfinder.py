"""Pathfinder: two dots on dashed curves among other curves, and whether one curve connects them.

Linsley et al., 2018, "Learning long-range spatial dependencies with horizontal gated recurrent units",
https://arxiv.org/abs/1805.08315; as a sequence of 1,024 pixels in Tay et al., 2020, "Long Range Arena",
https://arxiv.org/abs/2011.04006. The published images are files; ours are drawn by rules of our own, without any code
of theirs: every image has two long curves and shorter ones between, and dots are at both ends of one long curve
(label 1), or at one end of each (label 0).

Pixels of a curve are at most `GAP` rows and columns apart, and those of two curves at least `CLEARANCE`, so that the
label can always be read off the image.
"""

from __future__ import annotations

import functools

import numpy as np

from longview.data.drawn import Arrays, drawn

DASH, GAP, CLEARANCE = 3, 2, 5
# The largest turn between two dashes, in radians, and the places tried for a curve before it is given up.
_TURN, _TRIES = 0.5, 10


def pathfinder(
    *,
    split: str,
    examples: int,
    size: int = 32,
    dashes: int = 5,
    distractors: int = 6,
    distractor_dashes: int = 2,
    seed: int = 0,
) -> Arrays:
    """Makes a split, in which both labels are equally likely.

    Args:
        split: 'train', 'validation' or 'test'.
        examples: number of images N.
        size: side S of an image, in pixels.
        dashes: of each of the two long curves, four pixels each with the gap behind it.
        distractors: other curves, of which those are left out that find no place.
        distractor_dashes: of each of them.
        seed: 0 <= seed < 2**32.

    Returns:
        image uint8 (N, S, S, 1), 255 where something is drawn and 0 elsewhere; label int32 (N,).

    Raises:
        ValueError: the curves do not fit, or there is no such split.
    """
    room = (size - 2) ** 2 // (4 * CLEARANCE)
    if not 1 <= distractor_dashes or not 2 <= dashes <= room // 8:
        raise ValueError(
            f'dashes is {dashes} and distractor_dashes {distractor_dashes}: on an image of {size} pixels, use 2 to '
            f'{room // 8} for the long curves, and at least 1 for others.'
        )
    one = functools.partial(
        _image, size=size, dashes=dashes, distractors=distractors, distractor_dashes=distractor_dashes
    )
    return drawn(one, key='image', split=split, examples=examples, seed=seed)


def _image(
    draws: np.random.RandomState, size: int, dashes: int, distractors: int, distractor_dashes: int
) -> Arrays | None:
    label = draws.randint(2)
    curves: list[np.ndarray] = []
    for count in (dashes, dashes, *[distractor_dashes] * distractors):
        curve = _curve(draws, curves, size, count)
        if curve is not None:
            curves.append(curve)
        elif len(curves) < 2:
            return None
    image = np.zeros((size, size, 1), np.uint8)
    image[tuple(np.concatenate(curves).T)] = 255
    one, two = curves[:2]
    for y, x in (one[0], one[-1] if label else two[-1]):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    return {'image': image, 'label': np.int32(label)}


def _curve(draws: np.random.RandomState, others: list[np.ndarray], size: int, dashes: int) -> np.ndarray | None:
    """Returns the pixels (M, 2) of a curve from one end to the other, or None where no place is found."""
    taken = np.concatenate(others) if others else np.zeros((0, 2), int)
    for _ in range(_TRIES):
        angles = draws.uniform(0, 2 * np.pi) + np.cumsum(draws.uniform(-_TURN, _TURN, dashes))
        pixels = _pixels(draws.uniform(1, size - 2, 2), angles)
        inside = pixels.min() >= 1 and pixels.max() <= size - 2
        if inside and not _near(pixels, taken) and not _meets_itself(pixels):
            return pixels
    return None


def _pixels(start: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Returns the pixels of dashes from a point on, each in its direction and with a gap behind it."""
    steps = np.repeat(np.stack([np.sin(angles), np.cos(angles)], axis=1), DASH, axis=0)
    steps[DASH::DASH] *= GAP
    steps[0] = 0
    return np.rint(start + np.cumsum(steps, axis=0)).astype(int)


def _near(pixels: np.ndarray, others: np.ndarray) -> bool:
    apart = np.abs(pixels[:, None] - others[None]).max(axis=2)
    return bool((apart < CLEARANCE).any())


def _meets_itself(pixels: np.ndarray) -> bool:
    """Whether a curve comes back to where it was more than two dashes before."""
    return any(_near(pixels[end:], pixels[: end - 2 * DASH]) for end in range(3 * DASH, len(pixels), DASH))
