"""Orders of the training examples that follow from a run's own state."""

import numpy as np
import pytest

from longview import train
from longview.data import permuted
from longview.input_pipeline import Images
from longview.methods.order import Neighbours, halved
from longview.runtime.plan import read_run
from tests import runs, toys

EVERY = 3


def ordered(**changes):
    config = toys.config(keep=8, **changes)
    data = config.data.to_dict()
    order = {'fn': 'methods.order:Neighbours', 'every': EVERY, 'size': 64, 'data': data | {'eval_split': 'train'}}
    config.order = order
    return config


@pytest.mark.quick
def test_groups_hold_what_is_alike():
    centres = np.array([[9.0, 0], [0, 9], [-9, 0], [0, -9]])
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat(np.arange(4), 8))
    features = centres[kind] + rng.normal(size=(32, 2)) / 10
    groups = halved(features, 8)
    assert sorted(np.concatenate(groups)) == list(range(32))
    assert [len(np.unique(kind[group])) for group in groups] == [1, 1, 1, 1]
    assert [len(group) for group in halved(rng.normal(size=(21, 3)), 8)].count(5) == 3  # 21 is 11 and 10, then 6 and 5s
    order = Neighbours(every=1, data=None, size=8).arrange({'feature': features}, np.random.default_rng(1))
    assert all(len(np.unique(kind[part])) == 1 for part in order.reshape(4, 8))
    assert not np.array_equal(order, np.concatenate(groups))


@pytest.mark.quick
def test_a_stream_goes_through_the_order_again_and_again():
    data = Images('digits')
    order = np.random.default_rng(0).permutation(data.num_train)
    made = permuted.Permuted(data, order, place=100, epoch=7)
    epoch, index = made.order(0, 100, 100 + 2 * data.num_train)
    assert (index == np.tile(order, 2)).all() and (epoch == np.repeat([7, 8], data.num_train)).all()
    assert all((one == other[50:60]).all() for one, other in zip(made.order(5, 150, 160), (epoch, index)))
    with pytest.raises(ValueError, match='the order has 2 numbers: give each of 0 to 1437 once'):
        permuted.Permuted(data, np.array([0, 1]), 0, 0)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('order')
    with runs.quickly():
        train.train(ordered(), workdir)
    return workdir


def test_the_order_changes_what_is_learned_from_the_step_on_where_it_is_due(undisturbed, tmp_path):
    with runs.quickly():
        train.train(toys.config(), tmp_path)
    ours, theirs = (runs.checkpoint(workdir, step) for workdir, step in ((undisturbed, 8), (tmp_path, 8)))
    assert any(not np.array_equal(ours[path], theirs[path]) for path in ours)
    losses = [
        [row['train/loss'] for row in runs.rows(workdir) if 'train/loss' in row] for workdir in (undisturbed, tmp_path)
    ]
    assert losses[0][0] == losses[1][0] and losses[0][1:] != losses[1][1:], 'steps 0 to 2 are as in any run'


@pytest.mark.parametrize('last', [4, 6], ids=['between two orders', 'where one is due'])
def test_a_run_goes_on_to_the_bit_within_its_order(undisturbed, tmp_path, last):
    runs.copy(undisturbed, tmp_path / 'part', last)
    with runs.quickly():
        train.train(ordered(), tmp_path / 'part')
    runs.assert_same_bits(undisturbed, tmp_path / 'part', 8)


def test_the_last_order_is_saved(undisturbed):
    saved = runs.checkpoint(undisturbed, 8, item='order')
    assert int(saved['step']) == 6 and sorted(saved['permutation']) == list(range(1438))


def test_an_order_of_other_examples_is_refused(tmp_path):
    config = ordered()
    config.order.data.eval_split = 'test'
    with runs.quickly(), pytest.raises(ValueError, match='config.order.data has 359 examples .* trains on 1438: give'):
        train.train(config, tmp_path)
    config.order.every = 0
    with pytest.raises(ValueError, match='Neighbours.every is 0: it is a number of steps, at least 1'):
        read_run(config.to_dict())
