"""ListOps: the label is what the expression comes to, and splits share none."""

import statistics

import numpy as np
import pytest

from longview.data.drawn import SPLITS
from longview.data.listops import WORDS, listops

SMALL = {'lengths': (3, 12), 'depth': 3, 'most': 3}
MEANING = {'[MIN': min, '[MAX': max, '[MED': lambda x: int(statistics.median(x)), '[SM': lambda x: sum(x) % 10}


def evaluated(words: list[str]) -> tuple[int, int, int]:
    """Returns the value of an expression, its depth and the most members of a list, by a stack of open lists."""
    value, deepest, most, lists = None, 1, 0, []
    for word in words:
        assert value is None, 'words follow the end'
        if word.startswith('['):
            lists.append([word])
            continue
        deepest = max(deepest, len(lists) + 1)
        if word == ']':
            operator, *members = lists.pop()
            most, result = max(most, len(members)), MEANING[operator](members)
        else:
            result = int(word)
        if lists:
            lists[-1].append(result)
        else:
            value = result
    return value, deepest, most


def spelled(row: np.ndarray) -> list[str]:
    return [WORDS[word] for word in row]


@pytest.mark.quick
def test_the_evaluation_is_that_of_the_papers():
    assert evaluated('[MAX 4 [MIN 7 2 ] [SM 9 8 ] 1 ]'.split()) == (7, 3, 4)
    assert evaluated('[MED 1 4 ]'.split())[0] == 2


@pytest.mark.parametrize('sizes', [{}, SMALL], ids=['published', 'small'])
def test_the_label_is_what_the_expression_comes_to(sizes):
    low, high = sizes.get('lengths', (500, 2000))
    made = listops(split='train', examples=40, **sizes)
    assert made['words'].shape == made['words_valid'].shape == (40, high)
    assert made['words'].dtype == made['label'].dtype == np.int32
    depths, members = set(), set()
    for words, valid, label in zip(made['words'], made['words_valid'], made['label']):
        length = valid.sum()
        assert low < length < high and valid[:length].all() and not words[length:].any()
        value, depth, most = evaluated(spelled(words[:length]))
        assert value == label
        depths.add(depth)
        members.add(most)
    assert max(depths) == sizes.get('depth', 10) and max(members) == sizes.get('most', 10)
    assert len(set(made['label'])) > 5 and set(WORDS) == set(spelled(np.unique(made['words'])))


def test_splits_share_no_expression_and_fewer_are_the_first_of_more():
    # There are 400 such expressions, so that a split repeats itself.
    sizes = {'lengths': (3, 5), 'depth': 2, 'most': 2}
    made = {split: listops(split=split, examples=60, **sizes) for split in SPLITS}
    found = {split: {row.tobytes() for row in part['words']} for split, part in made.items()}
    assert len(found['train']) < 60
    assert not found['train'] & found['test'] and not found['train'] & found['validation']
    assert not found['validation'] & found['test']
    fewer, other = (listops(split='test', examples=7, seed=seed, **sizes) for seed in (0, 1))
    assert all(np.array_equal(fewer[name], made['test'][name][:7]) for name in fewer)
    assert not np.array_equal(fewer['words'], other['words'])


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'split': 'eval'}, "no split 'eval': use one of train, validation, test"),
        ({'examples': 0}, 'examples is 0: draw at least 1'),
        ({'depth': 1}, 'depth is 1 and most is 3: a list needs a depth of 2'),
        ({'lengths': (17, 40)}, r'lengths is \(17, 40\): expressions have 4 to 17 words here'),
        ({'lengths': (5, 6)}, r'lengths is \(5, 6\)'),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(changes, words):
    with pytest.raises(ValueError, match=words):
        listops(**{'split': 'train', 'examples': 2} | SMALL | changes)
