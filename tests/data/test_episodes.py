"""Episodes: which rows they have, that examples differ, that evaluation is fixed, and what is impossible."""

import numpy as np
import pytest

from longview.data.episodes import Episodes
from longview.data.subset import Subset
from tests.data.streams import classified, evaluation, first, joined

DATA = classified(5, 6, 0, 7, 4)
WAYS, SHOTS, QUERIES = 3, 1, 2
ROWS = WAYS * (SHOTS + QUERIES)


def episodes(**fields) -> Episodes:
    return Episodes(DATA, **{'ways': WAYS, 'shots': SHOTS, 'queries': QUERIES, 'episodes': 5} | fields)


def check_episode(rows: dict[str, np.ndarray]) -> None:
    """The columns of one episode fit each other."""
    assert rows['support'].tolist() == [True] * WAYS * SHOTS + [False] * WAYS * QUERIES
    assert rows['label'].tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    classes = rows['class'][:WAYS]
    assert len(set(classes)) == WAYS and (rows['class'] == classes[rows['label']]).all()
    assert len(set(rows['index'])) == ROWS and len(set(rows['episode'])) == 1


def test_a_batch_is_episodes_of_different_classes_and_examples():
    data = episodes()
    labels = DATA.source().labels()
    batches = first(data, 40, 2 * ROWS, seed=4)
    rows = {name: x.reshape(80, ROWS) for name, x in joined(batches).items()}
    for number in range(80):
        episode = {name: x[number] for name, x in rows.items()}
        check_episode(episode)
        assert (episode['class'] == labels[episode['index']]).all() and (episode['what'] == episode['index']).all()
        assert (episode['episode'] == number).all() and (episode['epoch'] == number).all()
    assert set(rows['class'].ravel()) == {0, 1, 3, 4} and set(rows['index'].ravel()) == set(range(22))
    assert len({tuple(index) for index in rows['index']}) == 80
    assert (data.num_classes, data.num_train, data.num_eval) == (WAYS, 22, 5 * ROWS)


def test_an_evaluation_has_the_same_episodes_each_time_of_its_own_split():
    for batch_size in (ROWS, 3 * ROWS):
        batches = evaluation(episodes(), batch_size)
        rows = {name: x[joined(batches)['mask']].reshape(5, ROWS) for name, x in joined(batches).items()}
        for number in range(5):
            check_episode({name: x[number] for name, x in rows.items()})
        assert (rows['episode'] == np.arange(5)[:, None]).all() and rows['index'].max() < 12
        assert (rows['index'] == joined(evaluation(episodes(), ROWS))['index'].reshape(5, ROWS)).all()
    other = joined(evaluation(episodes(seed=1), ROWS))['index'].reshape(5, ROWS)
    assert (rows['index'] != other).any()


def test_of_a_subset_its_members_are_drawn():
    data = Episodes(Subset(DATA, indices=(0, 1, 2, 5, 6, 7)), ways=2, shots=1, queries=2)
    assert set(joined(first(data, 3, 6))['index']) == {0, 1, 2, 5, 6, 7}


MISTAKES = {
    'shots': (lambda: episodes(shots=0), 'shots=0 of Episodes: it must be at least 1'),
    'ways': (lambda: episodes(ways=5).check(), 'ways=5 and the training split has examples of 4 classes: lower ways'),
    'small class': (
        lambda: episodes(queries=4).check(),
        'needs 1 . 4 examples of a class and the class 4 has 4 in the training split: lower shots or queries',
    ),
    'small evaluation': (
        lambda: episodes(queries=3).check(),
        'needs 1 . 3 examples of a class and the class 0 has 3 in the evaluation split',
    ),
    'batch': (
        lambda: episodes().batch_spec(16),
        'of 3 ways, 1 shots and 2 queries has 9 rows, which do not divide batches of 16: make them a multiple of 9',
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_answered_in_a_sentence(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value)
