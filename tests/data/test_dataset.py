"""What holds of every data set that is made of others, however it arranges them."""

import chex
import numpy as np
import pytest

from longview.data.balanced import Balanced
from longview.data.dataset import DataSet
from longview.data.episodes import Episodes
from longview.data.images import PadCrop
from longview.data.mixture import Mixture
from longview.data.subset import Subset
from longview.input_pipeline import Arrays, Images
from tests.data.folder import data_dir
from tests.data.streams import classified, evaluation, first


def _digits(in_memory: bool) -> Images:
    return Images('digits', data_dir=data_dir(), train_crop=PadCrop(padding=1), in_memory=in_memory, threads=2)


# The data set, and a batch size that is more than an epoch of some part of it.
DATA = {
    'per batch': (lambda: Mixture([classified(5, 4), classified(30, start=50)], per_batch=(4, 8)), 12),
    'weights': (lambda: Mixture([classified(7), classified(9, 8), classified(30)], weights=(1, 2, 0.5)), 12),
    'memory and stream': (lambda: Mixture([_digits(True), _digits(False)], per_batch=(4, 20)), 24),
    'subset': (lambda: Subset(classified(5, 6, 7), indices=(17, 3, 4, 8, 11)), 12),
    'balanced': (lambda: Balanced(classified(5, 1, 0, 9)), 12),
    'episodes': (lambda: Episodes(classified(5, 4, 0, 9), ways=2, shots=1, queries=2, episodes=3), 12),
    'some of each': (lambda: Mixture([Balanced(Subset(classified(9, 3), per_class=2)), classified(4)], (8, 4)), 12),
}


@pytest.fixture(params=DATA)
def made(request) -> tuple[DataSet, int]:
    make, batch_size = DATA[request.param]
    return make(), batch_size


def test_a_step_needs_none_before_it_and_a_process_no_row_but_its_own(made):
    data, size = made
    run = first(data, 5, size, seed=3)
    for step in (1, 4):
        chex.assert_trees_all_equal(first(data, 5 - step, size, seed=3, start=step), run[step:])
    for own in (np.arange(4), np.arange(4, size), np.arange(1, size, 3)):
        mine = [{name: x[own] for name, x in batch.items()} for batch in run]
        chex.assert_trees_all_equal(first(data, 5, size, seed=3, own=own), mine)
    whole = evaluation(data, size)
    own = np.arange(2, size, 5)
    mine = [{name: x[own] for name, x in batch.items()} for batch in whole]
    chex.assert_trees_all_equal(evaluation(data, size, own), mine)


def test_batches_are_what_is_announced_and_another_seed_gives_others(made):
    data, size = made
    data.check()
    for train in (True, False):
        batch = first(data, 1, size)[0] if train else evaluation(data, size)[0]
        spec = {name: (x.shape, x.dtype) for name, x in data.batch_spec(size, train).items()}
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == spec
    assert all(batch['index'].max() < data.num_examples for batch in first(data, 3, size))
    assert (first(data, 1, size, seed=1)[0]['index'] != first(data, 1, size)[0]['index']).any()


def test_a_step_far_away_is_reached_at_once(made):
    data, size = made
    (far,) = first(data, 1, size, start=10**8)
    assert far['epoch'].max() > 10**4 and len(far['index']) == size


@pytest.mark.parametrize('outer', [Subset, Balanced, Episodes, Mixture])
@pytest.mark.parametrize('inner', ['balanced', 'episodes', 'per batch'])
def test_an_order_that_would_be_lost_is_refused(outer, inner):
    data = DATA[inner][0]()
    fields = {'indices': (0,)} if outer is Subset else {}
    if outer is not Mixture:
        with pytest.raises(ValueError, match=f'{outer.__name__} around {type(data).__name__} would lose the order'):
            outer(data, **fields)
    elif inner != 'balanced':
        with pytest.raises(ValueError, match=f'Part 1 of the Mixture is a {type(data).__name__}, which decides'):
            Mixture([classified(3), data], per_batch=(1, 1))


@pytest.mark.parametrize('outer', [Subset, Balanced, Episodes, lambda data, **fields: Mixture([data], per_batch=(1,))])
def test_a_data_set_that_is_one_example_is_refused(outer):
    graph = Arrays(lambda: {'node': np.ones(3)}, lambda: {'node': np.ones(3)}, whole=True)
    with pytest.raises(ValueError, match='is one example'):
        outer(graph, **({'indices': (0,)} if outer is Subset else {}))
