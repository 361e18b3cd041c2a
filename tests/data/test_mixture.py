"""Mixtures: exact shares, every part a stream of its own, and columns that some parts lack."""

import numpy as np
import pytest

from longview.data import keyed
from longview.data.arrays import Made
from longview.data.mixture import Mixture
from tests.data.streams import classified, evaluation, first, joined

LABELLED, OTHERS = classified(5, 4), classified(17, start=50)


def test_a_batch_has_the_rows_of_its_parts_behind_each_other_and_they_are_their_own_epochs():
    data = Mixture([LABELLED, OTHERS], per_batch=(4, 6))
    assert (data.num_train, data.num_eval, data.num_classes) == (26, 6, 2)
    batches = first(data, 60, 10, seed=2)
    assert all(batch['source'].tolist() == [0] * 4 + [1] * 6 for batch in batches)
    rows = joined(batches)
    for part, size, start in ((0, 9, 0), (1, 17, 50)):
        mine = {name: x[rows['source'] == part] for name, x in rows.items()}
        assert (mine['what'] == mine['index'] + start).all()
        assert (mine['epoch'] == np.arange(len(mine['epoch'])) // size).all()
        for epoch in range(mine['epoch'][-1]):
            assert sorted(mine['index'][mine['epoch'] == epoch]) == list(range(size))


def test_parts_that_are_equal_are_shuffled_apart():
    (batch,) = first(Mixture([OTHERS, OTHERS], per_batch=(17, 17)), 1, 34)
    assert sorted(batch['index'][:17]) == sorted(batch['index'][17:]) == list(range(17))
    assert (batch['index'][:17] != batch['index'][17:]).any()


def test_parts_draw_by_seeds_of_their_own_and_of_the_run(monkeypatch):
    rows, seeds = Made.rows, []
    monkeypatch.setattr(Made, 'rows', lambda self, seed, *which: seeds.append(seed) or rows(self, seed, *which))
    for seed in (0, 1, 0):
        first(Mixture([OTHERS, LABELLED], per_batch=(1, 1)), 1, 2, seed=seed)
    assert len(set(seeds)) == 4 and seeds[:2] == seeds[4:] and 0 not in seeds


def test_orders_are_made_once_an_epoch_of_each_part(monkeypatch):
    """Those of a million examples take a second: with many parts, none may drive another out of the cache."""
    made, permutations = [], keyed.permutations
    monkeypatch.setattr(keyed, 'permutations', lambda *args: made.append(args) or permutations(*args))
    first(Mixture([classified(30 + part) for part in range(9)], per_batch=(1,) * 9), 25, 9, seed=77)
    assert len(made) == 9


@pytest.mark.parametrize(
    ('weights', 'size', 'want'),
    [((0.7, 0.3), 10, (7000, 3000)), ((2, 3, 5), 7, (1400, 2100, 3500))],  # of doubles, 0.7 is less than seven of ten
)
def test_weights_are_exact_after_many_steps_and_to_a_row_in_between(weights, size, want):
    data = Mixture([classified(9, start=100 * part) for part in range(len(weights))], weights=weights)
    source = np.stack([batch['source'] for batch in first(data, 1000, size)])
    counts = np.stack([(source == part).sum(1) for part in range(len(weights))], axis=1).cumsum(0)
    exact = np.arange(1, 1001)[:, None] * size * np.array(weights) / sum(weights)
    assert (abs(counts - exact) < 1).all() and tuple(counts[-1]) == want


def test_a_column_that_a_part_lacks_is_filled_as_stated():
    data = Mixture([classified(6, extra='boxes'), OTHERS], per_batch=(2, 3), fill={'boxes': -1.0}, eval_part=1)
    for batch in (*first(data, 2, 5), *evaluation(data, 5)):
        assert batch['boxes'].shape == (5, 2)
        assert (batch['boxes'] == np.where(batch['source'] == 0, 1.0, -1.0)[:, None]).all()
    assert evaluation(data, 5)[0]['source'].tolist() == [1] * 5


MISTAKES = {
    'no share': (lambda: Mixture([LABELLED, OTHERS]), 'wants one of per_batch and weights'),
    'shares': (lambda: Mixture([LABELLED, OTHERS], per_batch=(4,)), r'has 2 parts and per_batch=\(4,\): wanted a'),
    'zero': (lambda: Mixture([LABELLED, OTHERS], weights=(1, 0)), r'weights=\(1, 0\): wanted a number above 0'),
    'part': (
        lambda: Mixture([LABELLED], weights=(1,), eval_part=1),
        'eval_part=1 is no part of the Mixture, which has 1',
    ),
    'batch': (
        lambda: Mixture([LABELLED, OTHERS], per_batch=(4, 8)).batch_spec(16),
        r'per_batch=\(4, 8\) .* makes batches of 12 and batch_size is 16: make them equal',
    ),
    'small': (
        lambda: Mixture([LABELLED, OTHERS], weights=(0.9, 0.1)).batch_spec(8),
        'give part 1 less than one row of a batch of 8: raise its weight or batch_size',
    ),
    'lacking': (
        lambda: Mixture([LABELLED, classified(6, extra='boxes')], per_batch=(1, 1)).check(),
        "has the column 'boxes', but not in part 0: say what stands for it there, such as fill={'boxes': 0}",
    ),
    'unlike': (
        lambda: Mixture([LABELLED, classified(6, dtype=np.float32)], per_batch=(1, 1)).check(),
        r"'what' of the Mixture is int32 \(\) at first and float32 \(\) in part 1: make them alike",
    ),
    'fill': (
        lambda: Mixture([LABELLED, OTHERS], per_batch=(1, 1), fill={'labels': 0}).check(),
        "names 'labels', a column that no part has; did you mean 'label'",
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_answered_in_a_sentence(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value)
