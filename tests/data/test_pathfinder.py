"""Pathfinder: what the image shows is what the label says, and splits share no image."""

import collections

import numpy as np
import pytest

from longview.data.drawn import SPLITS
from longview.data.pathfinder import GAP, pathfinder


def pieces(image: np.ndarray) -> np.ndarray:
    """Returns the number of the curve of each pixel, 0 for the background: pixels connect over a gap."""
    number, found = np.zeros(image.shape, int), 0
    drawn = {(y, x) for y, x in np.argwhere(image)}
    while drawn:
        found += 1
        waiting = collections.deque([drawn.pop()])
        while waiting:
            y, x = waiting.popleft()
            number[y, x] = found
            near = {(y + dy, x + dx) for dy in range(-GAP, GAP + 1) for dx in range(-GAP, GAP + 1)} & drawn
            drawn -= near
            waiting.extend(near)
    return number


def dots(image: np.ndarray) -> list[tuple[int, int]]:
    """Returns the middles of squares of 3 x 3, which lines have not."""
    windows = np.lib.stride_tricks.sliding_window_view(image > 0, (3, 3))
    return [(y + 1, x + 1) for y, x in np.argwhere(windows.all(axis=(2, 3)))]


def test_dots_are_connected_where_the_label_says_so():
    made = pathfinder(split='train', examples=60)
    assert made['image'].shape == (60, 32, 32, 1) and made['image'].dtype == np.uint8
    assert set(np.unique(made['image'])) == {0, 255} and made['label'].dtype == np.int32
    assert 15 < made['label'].sum() < 45
    counts = []
    for image, label in zip(made['image'][..., 0], made['label']):
        number = pieces(image)
        # Where a line leaves a dot, the square beside its middle may be full too.
        ends = {number[place] for place in dots(image)}
        assert len(ends) == (1 if label else 2)
        counts.append(number.max())
    assert min(counts) >= 2 and max(counts) <= 8 and np.mean(counts) > 4


def test_splits_share_no_image_and_fewer_are_the_first_of_more():
    made = {split: pathfinder(split=split, examples=6, seed=3) for split in SPLITS}
    found = {split: {image.tobytes() for image in part['image']} for split, part in made.items()}
    assert len(found['train'] | found['validation'] | found['test']) == 18
    fewer = pathfinder(split='test', examples=2, seed=3)
    assert all(np.array_equal(fewer[name], made['test'][name][:2]) for name in fewer)
    assert not np.array_equal(pathfinder(split='test', examples=2, seed=4)['image'], fewer['image'])


@pytest.mark.parametrize('changes', [{'dashes': 1}, {'dashes': 30}, {'distractor_dashes': 0}])
def test_curves_that_do_not_fit_are_refused_in_words(changes):
    with pytest.raises(ValueError, match='on an image of 32 pixels, use 2 to 5 for the long curves'):
        pathfinder(split='train', examples=1, **changes)
