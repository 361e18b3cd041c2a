"""Subsets: which examples are kept, that they keep their numbers, and that evaluation sees all."""

import numpy as np
import pytest

from longview.data.subset import Subset
from tests.data.streams import classified, evaluation, first, joined

DATA = classified(5, 6, 7)  # 18 examples
SCORES = np.array([3, 1, 2] * 6, np.float32)


def test_each_epoch_holds_the_members_once_by_their_numbers():
    data = Subset(DATA, indices=(17, 3, 4, 8, 11))
    assert (data.num_train, data.num_eval, data.num_classes) == (5, 9, 3)
    rows = joined(first(data, 5, 6, seed=1))
    for epoch in range(5):
        assert sorted(rows['index'][rows['epoch'] == epoch]) == [3, 4, 8, 11, 17]
    assert (rows['what'] == rows['index']).all()
    assert joined(evaluation(data, 9))['what'].tolist() == list(range(9))


@pytest.fixture(params=['npy', 'csv'])
def scores(request, tmp_path):
    path = tmp_path / f'scores.{request.param}'
    if request.param == 'npy':
        np.save(path, SCORES)
    else:
        lines = [f'{index},{SCORES[index]}' for index in reversed(range(18))]
        path.write_text('\n'.join(['index,score', *lines, '']))
    return str(path)


@pytest.mark.parametrize(
    ('fields', 'want'),
    [
        ({'keep': 0.5}, [0, 3, 6, 9, 12, 15, 2, 5, 8]),
        ({'keep': 0.5, 'highest': False}, [1, 4, 7, 10, 13, 16, 2, 5, 8]),
        ({'keep': 1.0}, list(range(18))),
        ({'keep': 0.01}, [0]),
    ],
)
def test_scores_keep_a_fraction_and_ties_go_to_the_lower_number(scores, fields, want):
    assert Subset(DATA, scores=scores, **fields).members.tolist() == sorted(want)


def test_scores_rank_what_an_inner_subset_has_left(scores):
    inner = Subset(DATA, indices=(1, 2, 3, 5))
    assert Subset(inner, scores=scores, keep=0.5).members.tolist() == [2, 3]


def test_as_many_of_each_class_are_drawn_at_random():
    drawn = [Subset(DATA, per_class=3, seed=seed).members for seed in range(4)]
    labels = DATA.source().labels()
    assert all(np.bincount(labels[members]).tolist() == [3, 3, 3] for members in drawn)
    assert len({tuple(members) for members in drawn}) == 4
    assert (Subset(DATA, per_class=3, seed=2).members == drawn[2]).all()


def _file(path, text: str) -> str:
    path.write_text(text)
    return str(path)


MISTAKES = {
    'nothing': (lambda tmp: Subset(DATA), 'wants one of indices, scores and per_class'),
    'two': (lambda tmp: Subset(DATA, indices=(1,), per_class=1), 'wants one of indices, scores and per_class'),
    'keep': (lambda tmp: Subset(DATA, scores='x.npy'), "scores='x.npy' and keep=None: give both"),
    'fraction': (lambda tmp: Subset(DATA, scores='x.npy', keep=50), 'keep=50: give both, with 0 < keep <= 1'),
    'empty': (lambda tmp: Subset(DATA, indices=()), 'has no indices; wanted at least one'),
    'twice': (lambda tmp: Subset(DATA, indices=(3, 1, 3)), 'has the index 3 twice'),
    'unknown': (lambda tmp: Subset(DATA, indices=(3, 18)), 'has the index 18, which is none of the 18 examples'),
    'class': (lambda tmp: Subset(DATA, per_class=6), 'per_class=6 and the class 0 has 5 examples: use 1 to 5'),
    'shape': (
        lambda tmp: np.save(tmp / 's.npy', np.ones(17)) or Subset(DATA, scores=str(tmp / 's.npy'), keep=0.5),
        r'have the shape \(17,\); wanted \(18,\), one for each example',
    ),
    'none': (
        lambda tmp: (
            np.save(tmp / 's.npy', np.where(np.arange(18) == 4, np.nan, 1))
            or Subset(DATA, scores=str(tmp / 's.npy'), keep=0.5)
        ),
        'The score of example 4 in .* is none',
    ),
    'header': (
        lambda tmp: Subset(DATA, scores=_file(tmp / 's.csv', 'index,scores\n'), keep=0.5),
        "has the header 'index,scores'; wanted index,score",
    ),
    'lines': (
        lambda tmp: Subset(DATA, scores=_file(tmp / 's.csv', 'index,score\n0,1\n0,2\n'), keep=0.5),
        'has 2 scores; wanted one for each index from 0 to 17',
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_answered_in_a_sentence_before_the_first_step(mistake, tmp_path):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        call(tmp_path).check()
    assert '\n' not in str(caught.value)


def test_the_examples_of_each_class_are_counted():
    data = Subset(DATA, per_class=3)
    assert data.class_counts == (3,) * data.num_classes
    assert sum(DATA.class_counts) == DATA.num_train and len(DATA.class_counts) == DATA.num_classes
