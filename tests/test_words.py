"""Words as batches: the same order and masks as images have, resuming from a step, a run through train.py."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview import train
from longview.configs import mqar_zoology
from longview.data.mqar import mqar
from longview.input_pipeline import Words
from longview.runtime.mesh import MeshConfig, make_mesh
from tests import runs

SPLIT = {'vocabulary': 32, 'length': 16, 'pairs': 2}


def words(**changes) -> Words:
    made = lambda examples, seed: lambda: mqar(**SPLIT, examples=examples, seed=seed)
    return Words(**{'train_split': made(10, 0), 'eval_split': made(6, 1), 'vocabulary': 32} | changes)


def sharding() -> NamedSharding:
    return NamedSharding(make_mesh(MeshConfig()), PartitionSpec(('data', 'fsdp')))


@pytest.mark.quick
def test_every_example_comes_once_an_epoch_with_its_own_label_and_a_start_is_a_step():
    data, whole = words(), mqar(**SPLIT, examples=10, seed=0)
    batches = data.train(sharding(), 8, seed=3)
    rows = [jax.tree.map(np.asarray, next(batches)) for _ in range(5)]
    index = np.concatenate([row['index'] for row in rows])
    assert sorted(index[:10]) == sorted(index[10:20]) == list(range(10))
    np.testing.assert_array_equal(np.concatenate([row['words'] for row in rows]), whole['words'][index])
    np.testing.assert_array_equal(np.concatenate([row['label'] for row in rows]), whole['label'][index])
    again = next(data.train(sharding(), 8, seed=3, start_step=4))
    jax.tree.map(np.testing.assert_array_equal, again, rows[4])
    spec = data.batch_spec(8)
    assert {name: (x.shape, x.dtype) for name, x in spec.items()} == {k: (x.shape, x.dtype) for k, x in again.items()}


def test_the_last_batch_of_an_evaluation_is_filled_up_and_masked():
    (batch,) = words().evaluate(sharding(), 8)
    assert batch['mask'].tolist() == [True] * 6 + [False] * 2 and batch['words'].shape == (8, 16)


def test_mistakes_are_said_in_words():
    with pytest.raises(ValueError, match='The data has the word 3. and vocabulary is 16: raise it'):
        words(vocabulary=16).check()
    with pytest.raises(ValueError, match='The label of the data are float64; Words reads integers: make them int32'):
        words(eval_split=lambda: {'words': np.zeros((2, 4), int), 'label': np.full((2, 4), 0.5)}).check()
    with pytest.raises(ValueError, match=r"the arrays have lengths \{'words': 2, 'label': 3\}"):
        words(train_split=lambda: {'words': np.zeros((2, 4), int), 'label': np.zeros((3, 4), int)}).check()


def test_a_language_model_trains_through_train_py(tmp_path):
    config = mqar_zoology.get_config('smoke_based')
    with runs.quickly():
        scores = train.train(config, tmp_path)
    assert scores['eval/examples'] == 16 and scores['eval/loss'] < 3.5 and 0 <= scores['eval/accuracy'] <= 1
