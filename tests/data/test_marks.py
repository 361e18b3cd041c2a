"""Texts with marks: whether they agree is what the label says, and nothing nearby tells."""

import collections

import numpy as np
import pytest

from longview.data.drawn import SPLITS
from longview.data.marks import SHORTEST, marks

PAIRS = {')': '(', ']': '[', '}': '{', '>': '<'}


def closed(text: str) -> list[tuple[int, int]]:
    """Returns where each bracket opens and closes."""
    found, waiting = [], []
    for place, byte in enumerate(text):
        if byte in PAIRS.values():
            waiting.append(place)
        elif byte in PAIRS:
            found.append((waiting.pop(), place))
    assert not waiting
    return found


def test_the_marks_that_are_far_apart_agree_where_the_label_says_so():
    made = marks(split='train', examples=400, lengths=(300, 400))
    assert made['words'].shape == made['words_valid'].shape == (400, 400)
    assert made['words'].dtype == made['label'].dtype == np.int32
    ends, nearby = {0: collections.Counter(), 1: collections.Counter()}, 0
    for words, valid, label in zip(made['words'], made['words_valid'], made['label']):
        length = valid.sum()
        assert 300 <= length <= 400 and valid[:length].all() and not words[length:].any()
        text = bytes(words[:length].tolist()).decode('ascii')
        *_, far = pairs = sorted(closed(text), key=lambda pair: pair[1] - pair[0])
        assert far[0] < length // 10 and far[1] >= length - length // 10
        assert (PAIRS[text[far[1]]] == text[far[0]]) == label
        for opening, closing in pairs[:-1]:
            assert PAIRS[text[closing]] == text[opening] and text[opening + 1 : closing].isalpha()
        nearby += len(pairs) - 1
        ends[label].update((text[far[0]], text[far[1]]))
    assert 160 < made['label'].sum() < 240 and nearby > 2 * 400
    # About 50 of each kind are expected at each end; 20 are five deviations below.
    assert all(len(counts) == 8 and min(counts.values()) >= 20 for counts in ends.values())


def test_splits_share_no_text_and_fewer_are_the_first_of_more():
    made = {split: marks(split=split, examples=20, lengths=(200, 220)) for split in SPLITS}
    assert len({row.tobytes() for part in made.values() for row in part['words']}) == 60
    fewer, other = (marks(split='test', examples=5, lengths=(200, 220), seed=seed) for seed in (0, 1))
    assert all(np.array_equal(fewer[name], made['test'][name][:5]) for name in fewer)
    assert not np.array_equal(fewer['words'], other['words'])


def test_the_shortest_texts_have_a_place_for_their_marks():
    assert (marks(split='train', examples=100, lengths=(SHORTEST, SHORTEST))['words'] > 0).all()


@pytest.mark.parametrize('lengths', [(SHORTEST - 1, 400), (400, 300)])
def test_lengths_that_cannot_be_are_refused_in_words(lengths):
    with pytest.raises(ValueError, match='use at least 180 bytes, and the longest length last'):
        marks(split='train', examples=1, lengths=lengths)
