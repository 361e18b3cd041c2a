"""Data sets that are made of digits: what a caption says is in the picture, and points are where the pixels are."""

import numpy as np
import pytest

from longview.data import captions, clouds
from longview.data.digits import arrays


def said(row: np.ndarray, valid: np.ndarray) -> list[str]:
    return [captions.VOCABULARY[number] for number in row[valid]]


def _at(column: int) -> tuple[tuple[int, int], ...]:
    return (0, 0), (column, 4 - column), (0, 0)


def test_a_caption_says_what_the_picture_shows():
    made = captions.digits(test=True, copies=2, seed=3)
    digits, labels = arrays(test=True)
    assert len(digits) == 359 and len(made['label']) == 718
    sides, lights = set(), set()
    for row in range(300, 420):
        image = made['image'][row]
        *text, end = said(made['words'][row], made['words_valid'][row])
        assert end == captions.END and captions.NUMBERS[labels[row % 359]] in text
        assert sum(word in captions.NUMBERS for word in text) == 1
        whole = digits[row % 359]
        dark = image.sum(dtype=int) < whole.sum(dtype=int)
        shown = whole // 2 if dark else whole
        # Columns at its edges may be empty: then a digit is at several places.
        places = {column for column in range(5) if np.array_equal(image, np.pad(shown, _at(column)))}
        there = {'dark': dark, 'bright': not dark, 'left': places & {0, 1}, 'right': places & {3, 4}}
        assert there['left'] or there['right']
        assert all(there[word] for word in {*captions.SIDES, *captions.LIGHTS} & {*text})
        sides |= {*captions.SIDES} & {*text}
        lights |= {*captions.LIGHTS} & {*text}
    assert sides == {*captions.SIDES} and lights == {*captions.LIGHTS}


@pytest.mark.parametrize('make', [captions.digits, clouds.digits])
def test_the_same_arguments_give_the_same_arrays_and_splits_share_no_digit(make):
    one, again, other = make(test=True), make(test=True), make(test=True, seed=1)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not all(np.array_equal(one[name], other[name]) for name in one)
    assert len(make()['label']) + len(one['label']) == 1797


def test_prompts_name_their_class_alone():
    made = captions.prompts()
    assert made['words'].shape == made['words_valid'].shape == (10, 2, 8)
    for number, (rows, valid) in enumerate(zip(made['words'], made['words_valid'])):
        for text in map(said, rows, valid):
            assert {*text} & {*captions.NUMBERS, *captions.LIGHTS, *captions.SIDES} == {captions.NUMBERS[number]}


def test_words_out_of_the_vocabulary_and_long_texts_are_refused():
    with pytest.raises(ValueError, match="'ten' in 'the digit ten' is not in the vocabulary: use <end>, a, "):
        captions.encode(['the digit ten'])
    with pytest.raises(ValueError, match="'the digit one' has 4 words, the end included, and places is 3: raise it"):
        captions.encode(['the digit one'], places=3)


def test_points_are_the_bright_pixels_in_any_order():
    made, (digits, labels) = clouds.digits(test=True, threshold=100, jitter=0.0), arrays(test=True)
    assert np.array_equal(made['label'], labels)
    places = np.rint(made['points'][..., :2] * 3.5 + 3.5).astype(int)
    for points, place, valid, digit in zip(made['points'], places, made['points_valid'], digits):
        drawn = np.zeros((8, 8))
        drawn[tuple(place[valid].T)] = points[valid, 2]
        np.testing.assert_allclose(drawn, np.where(digit > 100, digit / 255, 0)[..., 0], atol=1e-6)
        assert not points[~valid].any()
    rows = places[0][made['points_valid'][0]] @ [8, 1]
    assert (np.diff(rows) < 0).any() and (np.diff(rows) > 0).any()


def test_points_are_moved_by_the_jitter_and_at_most_so_many():
    still, moved = (clouds.digits(test=True, jitter=jitter, at_most=20) for jitter in (0.0, 0.25))
    assert still['points'].shape == (359, 20, 3)
    shift = (moved['points'] - still['points'])[still['points_valid']] * 3.5
    np.testing.assert_allclose(shift.std(axis=0), [0.25, 0.25, 0], rtol=0.05, atol=1e-6)
