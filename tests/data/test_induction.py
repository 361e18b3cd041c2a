"""Sequences of induction: what comes twice, and what is wanted after it."""

import numpy as np
import pytest

from longview.data.induction import IGNORED, induction


@pytest.mark.quick
def test_what_followed_the_word_that_comes_twice_is_wanted_at_the_end():
    found = induction(vocabulary=5, examples=200, length=16, seed=0)
    words, label = found['words'], found['label']
    assert words.dtype == label.dtype == np.int32 and words.shape == label.shape == (200, 16)
    assert (label[:, :-1] == IGNORED).all() and (words[:, -1] == 0).all()
    places = [np.flatnonzero(row == 0) for row in words]
    assert all(len(place) == 2 for place in places)
    first = np.array([place[0] for place in places])
    assert set(first) == set(range(8))
    np.testing.assert_array_equal(label[:, -1], words[np.arange(200), first + 1])
    assert set(label[:, -1]) == {1, 2, 3, 4}
    again, other = (induction(vocabulary=5, examples=200, length=16, seed=seed) for seed in (0, 1))
    assert (again['words'] == words).all() and (other['words'] != words).any()


@pytest.mark.parametrize('changes', [{'vocabulary': 1}, {'length': 3}])
def test_what_leaves_no_question_is_refused_in_words(changes):
    with pytest.raises(ValueError, match='use at least 2 words, and 4 places'):
        induction(**{'vocabulary': 5, 'examples': 2, 'length': 16, 'seed': 0} | changes)
