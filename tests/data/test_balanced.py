"""Balanced rows: classes equally frequent at every moment, and no example of any dropped."""

import numpy as np
import pytest

from longview.data.balanced import Balanced
from longview.data.subset import Subset
from tests.data.streams import classified, evaluation, first, joined

DATA = classified(20, 3, 0, 7)


def test_classes_are_equally_frequent_and_each_goes_through_all_of_its_examples():
    data = Balanced(DATA)
    assert (data.num_train, data.num_eval, data.num_classes) == (30, 9, 4)
    rows = joined(first(data, 30, 8, seed=1))  # 80 rounds of three classes
    assert (np.sort(rows['label'].reshape(80, 3), axis=1) == [0, 1, 3]).all()
    assert len({tuple(turn) for turn in rows['label'].reshape(80, 3)}) == 6, 'a round is in random order'
    for label, start, size in ((0, 0, 20), (1, 20, 3), (3, 23, 7)):
        mine = {name: x[rows['label'] == label] for name, x in rows.items()}
        assert (mine['epoch'] == np.arange(80) // size).all()
        cycles = [mine['index'][mine['epoch'] == cycle].tolist() for cycle in range(80 // size)]
        assert all(sorted(cycle) == list(range(start, start + size)) for cycle in cycles)
        assert len(set(map(tuple, cycles))) > 1, 'each cycle is shuffled anew'
    assert joined(evaluation(data, 9))['label'].tolist() == [0, 0, 0, 1, 1, 1, 3, 3, 3]


def test_of_a_subset_its_members_are_balanced():
    data = Balanced(Subset(DATA, indices=(0, 1, 2, 20)))
    rows = joined(first(data, 3, 4))
    assert np.bincount(rows['label']).tolist() == [6, 6] and set(rows['index']) == {0, 1, 2, 20}


def test_labels_that_are_no_classes_are_refused():
    measured = classified(4, 4)
    object.__setattr__(measured, 'num_classes', None)
    with pytest.raises(ValueError, match=r'labels of the data are int32 \(\) of num_classes=None; wanted one class'):
        Balanced(measured).check()
