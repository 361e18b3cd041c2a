"""Multi-query associative recall against the published generator's own numbers, and what it refuses."""

import numpy as np
import pytest

from longview.data import mqar
from tests import goldens


@pytest.mark.parametrize('name', ['mqar_v128_l64_kv4', 'mqar_v128_l64_kv4_random', 'mqar_v64_l62_kv4'])
def test_the_numbers_are_the_published_ones(name):
    golden = goldens.read(goldens.FOLDER / f'{name}.json.gz')
    config = golden['config']
    ours = mqar.mqar(
        vocabulary=config['vocab_size'],
        examples=config['num_examples'],
        length=config['input_seq_len'],
        pairs=config['num_kv_pairs'],
        seed=golden['seed'],
        filler_seed=golden['torch_seed'],
    )
    np.testing.assert_array_equal(ours['words'], golden['inputs'])
    np.testing.assert_array_equal(ours['label'], golden['labels'])


def test_every_question_is_answered_by_its_pair():
    data = mqar.mqar(vocabulary=64, examples=20, length=32, pairs=5, seed=3)
    for words, label in zip(data['words'], data['label']):
        pairs = dict(zip(words[0:10:2].tolist(), words[1:10:2].tolist()))
        asked = label != mqar.IGNORED
        assert asked.sum() == len(pairs) == 5 and not asked[:10].any()
        assert [pairs[word] for word in words[asked].tolist()] == label[asked].tolist()


def test_a_power_of_one_spreads_the_questions_evenly_and_a_small_one_keeps_them_near():
    places = [
        np.argwhere(
            mqar.mqar(vocabulary=64, examples=300, length=48, pairs=2, seed=0, power=power)['label'] != mqar.IGNORED
        )[:, 1]
        for power in (1.0, 0.01)
    ]
    assert places[0].mean() > 23 and places[1].mean() < 17


def test_a_run_s_seed_gives_other_seeds_to_training_and_test():
    train, test = mqar.segment_seeds(123)
    assert train.tolist() == [843828734] and test.tolist() == [3062119789]


@pytest.mark.parametrize(
    'change, message',
    [
        ({'length': 15}, 'length is 15 and vocabulary 32: the length must be even'),
        ({'vocabulary': 16}, 'length is 16 and vocabulary 16'),
        ({'pairs': 5}, '5 pairs and their questions need 20 words and length is 16'),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mqar.mqar(**{'vocabulary': 32, 'examples': 1, 'length': 16, 'pairs': 2, 'seed': 0} | change)
