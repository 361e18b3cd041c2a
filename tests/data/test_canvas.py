"""Digits on a canvas: what is said of them is where the ink is, and the same digits are never in both splits."""

import io

import numpy as np
import PIL.Image
import pytest

from longview.data import canvas
from longview.data.digits import Digits


def made(**changes):
    return canvas.digits(**{'split': 'train', 'examples': 6, 'size': 40, 'sides': (8, 16), 'seed': 3, **changes})


def test_boxes_and_map_are_around_the_ink_and_nowhere_else():
    data = made(noise=0.0)
    assert {name: array.dtype.name for name, array in data.items()} == {
        'image': 'uint8',
        'map': 'int32',
        'boxes': 'float32',
        'boxes_valid': 'bool',
        'boxes_label': 'int32',
    }
    assert data['boxes_valid'].sum() > 6
    for image, classes, boxes, valid, label in zip(*data.values()):
        assert (image[..., 0][classes > 0] >= canvas.INK).all()
        inside = np.zeros_like(classes)
        for (y0, x0, y1, x1), digit in zip(boxes[valid].astype(int), label[valid]):
            ink = classes[y0:y1, x0:x1] == 1 + digit
            assert ink.any(axis=1)[[0, -1]].all() and ink.any(axis=0)[[0, -1]].all()
            inside[y0:y1, x0:x1] += 1
        assert inside.max() == 1 and not classes[inside == 0].any()
        assert not boxes[~valid].any()


def test_canvases_follow_from_the_seed_and_fewer_are_the_first_of_more():
    few, more, others = made(examples=3), made(), made(seed=4)
    for name in few:
        np.testing.assert_array_equal(few[name], more[name][:3])
    assert (more['image'] != others['image']).any()


def test_clutter_is_background_and_noise_is_as_large_as_it_is_said():
    alike = {'size': 64, 'most': 1}
    bare, cluttered, noisy = (
        made(clutter=pieces, noise=noise, **alike) for pieces, noise in ((0, 0.0), (9, 0.0), (0, 24.0))
    )
    assert not bare['image'][0, ..., 0][canvas_free(bare, 0)].any()
    assert cluttered['image'][0, ..., 0][canvas_free(cluttered, 0)].max() > canvas.INK
    # Half of the noise is below black.
    assert 8 < noisy['image'][0, ..., 0][canvas_free(noisy, 0)].mean() < 11


def canvas_free(data, index):
    """Where no digit's square can be."""
    free = np.ones(data['map'].shape[1:], bool)
    for y0, x0, y1, x1 in data['boxes'][index][data['boxes_valid'][index]].astype(int):
        free[max(0, y0 - 16) : y1 + 16, max(0, x0 - 16) : x1 + 16] = False
    assert free.any()
    return free


@pytest.mark.parametrize('split', ['train', 'test'])
def test_the_digits_are_those_of_the_split(split):
    images, labels = canvas._digits(split)
    read = [row for _, row in Digits._generate_examples(None, split == 'test')]
    np.testing.assert_array_equal(labels, [row['label'] for row in read])
    decoded = [np.asarray(PIL.Image.open(io.BytesIO(row['image']))) for row in read[:20]]
    np.testing.assert_array_equal(images[:20, ..., 0], decoded)


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'split': 'validation'}, "no split 'validation'"),
        ({'most': 0}, 'at least 1'),
        ({'sides': (16, 8)}, '16 to 8 pixels wide on a canvas of 40'),
        ({'sides': (4, 8)}, 'at least 8'),
        ({'size': 12}, '8 to 16 pixels wide on a canvas of 12'),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        made(**changes)
