"""Sessions: whose examples come when, which of them are kept, and that a step needs none before it."""

import chex
import numpy as np
import pytest

from longview.data.arrays import Made
from longview.data.balanced import Balanced
from longview.data.sessions import Sessions
from longview.data.subset import Subset
from tests.data.streams import classified, evaluation, first, joined

DATA = classified(5, 6, 7, 4, 0, 3)  # 25 examples; the class 4 has none
LABELS = np.repeat([0, 1, 2, 3, 5], [5, 6, 7, 4, 3])
PARTS = ((2, 0), (5,), (3, 4))  # and the class 1 never comes
STEPS, SIZE = (4, 3, 5), 8


def sessions(**fields) -> Sessions:
    return Sessions(DATA, **{'parts': PARTS, 'steps': STEPS} | fields)


KINDS = {
    'fine-tuning': {},
    'union': {'memory': 2},
    'replay': {'memory': 2, 'replay': 0.25},
    'total': {'memory_total': 7},
    'joint': {'cumulative': True},
    'later': {'memory': 2, 'first': 1},
    'drawn parts': {'parts': 3, 'seed': 1, 'memory': 1},
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_step_needs_none_before_it_and_a_process_no_row_but_its_own(kind):
    data = sessions(**KINDS[kind])
    data.check()
    run = first(data, 14, SIZE, seed=3)
    for step in (3, 4, 7, 13):
        chex.assert_trees_all_equal(first(data, 14 - step, SIZE, seed=3, start=step), run[step:])
    halves = [first(data, 14, SIZE, seed=3, own=own) for own in (np.arange(0, SIZE, 2), np.arange(1, SIZE, 2))]
    for whole, *parts in zip(run, *halves, strict=True):
        for name, column in whole.items():
            np.testing.assert_array_equal(np.stack([part[name] for part in parts], axis=1).ravel(), column)
    for train, batch in ((True, run[0]), (False, evaluation(data, SIZE)[0])):
        spec = {name: (x.shape, x.dtype) for name, x in data.batch_spec(SIZE, train).items()}
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == spec
    assert any((a['index'] != b['index']).any() for a, b in zip(run, first(data, 14, SIZE, seed=4), strict=True))


def test_columns_say_the_session_of_the_step_and_the_one_in_which_a_class_comes():
    data = sessions(memory=1)
    assert data.class_sessions == (0, -1, 0, 2, 2, 1) and data.num_sessions == 3
    run = first(data, 14, SIZE)
    assert [set(batch['session'].tolist()) for batch in run] == [{0}] * 4 + [{1}] * 3 + [{2}] * 7
    for batch in run:
        assert (batch['what'] == batch['index']).all() and (batch['label'] == LABELS[batch['index']]).all()
        assert (batch['arrives'] == np.array(data.class_sessions)[batch['label']]).all()
        assert 0 <= batch['arrives'].min() and batch['arrives'].max() == batch['session'][0]
    rows = joined(evaluation(data, 9))
    assert rows['arrives'].tolist() == [0] * 3 + [-1] * 3 + [0] * 3 + [2] * 3 + [1] * 3 + [1] * 3
    assert (rows['index'][rows['mask']] == np.arange(15)).all()


def test_examples_without_a_class_never_come():
    data = sessions()
    assert data._with_arrival({'label': np.array([2, -1, 5], np.int32)})['arrives'].tolist() == [0, -1, 1]


@pytest.mark.parametrize(
    ('fields', 'pools'),
    [
        ({}, [[12], [3], [4]]),
        ({'memory': 2}, [[12], [3 + 4], [4 + 4 + 2]]),
        ({'memory': 6}, [[12], [3 + 11], [4 + 11 + 3]]),
        ({'memory_total': 7}, [[12], [3 + 6], [4 + 6]]),
        ({'cumulative': True}, [[12], [3 + 12], [4 + 12 + 3]]),
        ({'memory': 2, 'replay': 0.25}, [[12], [3, 4], [4, 6]]),
    ],
)
def test_each_pass_has_every_example_of_its_session_once_and_no_epoch_comes_again(fields, pools):
    """With `replay`, new examples and exemplars are two streams of six rows and of two."""
    run, seen = first(sessions(steps=20, **fields), 60, SIZE, seed=1), {}
    for session, sizes in enumerate(pools):
        rows = joined(run[20 * session : 20 * session + 20])
        parts = [rows['index'] >= 0] if len(sizes) == 1 else [rows['arrives'] == session, rows['arrives'] < session]
        for mine, size in zip(parts, sizes, strict=True):
            epochs = rows['epoch'][mine] - rows['epoch'].min()
            assert (epochs == np.arange(mine.sum()) // size).all()
            passes = [rows['index'][mine][epochs == epoch] for epoch in range(mine.sum() // size)]
            assert all(len(set(each)) == size and set(each) == set(passes[0]) for each in passes)
            assert len(passes) > 1 and len({tuple(each) for each in passes}) > 1, 'each pass is shuffled anew'
        for key in zip(rows['epoch'].tolist(), rows['index'].tolist()):
            assert seen.setdefault(key, session) == session, 'an example would be augmented as before'


def test_exemplars_are_of_earlier_classes_and_the_same_in_all_steps():
    data = sessions(memory=2, steps=30)
    run = first(data, 90, SIZE, seed=5)
    for session in range(3):
        rows = joined(run[30 * session : 30 * session + 30])
        assert (rows['arrives'] <= session).all()
        kept = rows['index'][rows['arrives'] < session]
        assert set(kept) == set(data.exemplars(session).tolist())
    assert set(data.exemplars(1)) < set(data.exemplars(2)) and len(data.exemplars(0)) == 0
    assert np.bincount(LABELS[data.exemplars(2)], minlength=6).tolist() == [2, 0, 2, 0, 0, 2]


def test_exemplars_are_drawn_by_the_seed_as_a_subset_draws_them():
    drawn = [sessions(memory=2, seed=seed).exemplars(2).tolist() for seed in range(4)]
    assert len(set(map(tuple, drawn))) > 1 and sessions(memory=2, seed=2).exemplars(2).tolist() == drawn[2]
    assert set(drawn[3]) < set(Subset(DATA, per_class=2, seed=3).members)


def test_a_total_is_shared_and_classes_keep_fewer_and_fewer():
    data = Sessions(classified(9, 9, 9, 9), parts=((0,), (1,), (2,), (3,)), steps=1, memory_total=8)
    kept = [data.exemplars(session) for session in range(4)]
    assert [len(numbers) for numbers in kept] == [0, 8, 8, 6]
    of_the_first = [set(numbers[numbers < 9]) for numbers in kept]
    assert of_the_first[1] > of_the_first[2] > of_the_first[3]


def test_a_fixed_share_of_each_batch_is_replayed():
    run = first(sessions(memory=2, replay=0.4), 12, SIZE)
    assert [(batch['arrives'] < batch['session']).sum() for batch in run] == [0] * 4 + [3] * 8
    for batch in run[4:]:
        assert (batch['arrives'][:5] == batch['session'][:5]).all(), 'new examples come first'


def test_parts_of_a_number_are_equal_and_drawn_by_the_seed():
    drawn = [sessions(parts=2, steps=1, seed=seed).class_sessions for seed in range(8)]
    assert all(np.bincount(classes).tolist() == [3, 3] for classes in drawn) and len(set(drawn)) > 2


def test_joint_training_has_all_classes_so_far_and_of_a_subset_its_members():
    data = Sessions(Subset(DATA, indices=(0, 1, 11, 12, 22)), parts=PARTS[:2], steps=2, cumulative=True)
    run = first(data, 4, SIZE)
    assert set(joined(run[:2])['index']) == {0, 1, 11, 12} and set(joined(run[2:])['index']) == {0, 1, 11, 12, 22}
    assert (data.num_train, data.num_eval, data.num_classes, data.num_examples) == (5, 15, 6, 25)


def test_a_run_may_be_a_later_session_alone():
    whole, alone = sessions(memory=2), sessions(memory=2, first=1)
    chex.assert_trees_all_equal(first(whole, 8, SIZE, seed=2, start=4), first(alone, 8, SIZE, seed=2))


def test_scores_choose_the_exemplars(tmp_path):
    """As herding writes them: minus the place in a class's list, and -inf for what is in none."""
    scores = np.full(25, -np.inf, np.float32)
    scores[[3, 1, 4]], scores[[17, 12]], scores[22:25] = (0, -1, -2), (0, -1), (-1, -1, 0)
    path = str(tmp_path / 'scores.npy')
    np.save(path, scores)
    assert sessions(memory=2, scores=path).exemplars(2).tolist() == [1, 3, 12, 17, 22, 24]
    assert sessions(memory=3, scores=path).exemplars(1).tolist() == [1, 3, 4, 12, 17]
    scores[22:25] = -np.inf
    np.save(path, scores)
    alone = sessions(memory=2, scores=path, first=1)
    alone.check()
    assert set(joined(first(alone, 3, SIZE))['index']) == {1, 3, 12, 17, 22, 23, 24}
    with pytest.raises(ValueError, match='scores no example of the class 5, of which session 2 wants exemplars'):
        sessions(memory=2, scores=path, first=2).check()
    np.save(path, scores[1:])
    with pytest.raises(ValueError, match=r'are \(24,\), 0 of them no numbers; wanted \(25,\)'):
        sessions(memory=2, scores=path, first=1).check()


@pytest.mark.parametrize('memory', [{'memory_total': 3}, {'memory': 2, 'replay': 0.5}, {'cumulative': True}])
def test_one_session_is_the_data_set(memory):
    data = Sessions(DATA, parts=1, steps=2, **memory)
    data.check()
    assert set(joined(first(data, 4, 10))['index']) == set(range(25))


def test_labels_of_the_evaluation_split_are_not_read_for_it(monkeypatch):
    data = sessions()
    data.check()
    monkeypatch.setattr(Made, 'labels', lambda self: pytest.fail('all labels were read'))
    assert len(evaluation(data, 9)) == 2


MISTAKES = {
    'remainder': (lambda: sessions(parts=4, steps=1).check(), r'6 classes do not divide into parts=4 of equal size'),
    'none': (lambda: sessions(parts=0), 'parts=0: wanted at least one'),
    'twice': (lambda: sessions(parts=((1, 2), (1,)), steps=1).check(), 'name the class 1 twice: name each class once'),
    'unknown': (lambda: sessions(parts=((1, 6),), steps=1).check(), 'name the class 6 and there are 6, from 0'),
    'empty': (lambda: sessions(parts=((1,), (4,)), steps=1).check(), 'Session 1 has no training example'),
    'steps': (lambda: sessions(steps=(1, 2)), r'has 3 parts and steps=\(1, 2\): give one number above 0 for all, or'),
    'no steps': (lambda: sessions(steps=0), 'has 3 parts and steps=0: give one number above 0'),
    'first': (lambda: sessions(first=3), 'first=3 is none of the 3 sessions'),
    'memory': (lambda: sessions(memory=-1), 'memory=-1 and memory_total=None: give one of them'),
    'both': (lambda: sessions(memory=1, memory_total=9), 'memory=1 and memory_total=9: give one of them'),
    'total': (lambda: sessions(memory_total=2).check(), 'memory_total=2 of Sessions has to do for 3 classes'),
    'bound': (lambda: sessions(memory=1, cumulative=True), 'cumulative have all earlier examples: leave memory and'),
    'nothing to replay': (lambda: sessions(replay=0.5), 'replay=0.5 and no exemplars: set memory above 0'),
    'share': (lambda: sessions(memory=1, replay=1.0), 'replay=1.0 of Sessions is a share of the batch: it must be'),
    'row': (
        lambda: sessions(memory=1, replay=0.05).batch_spec(8),
        'replay=0.05 of a batch of 8 is 0 rows, and both new examples and exemplars want one',
    ),
    'order': (lambda: Sessions(Balanced(DATA), PARTS, 1), 'Sessions around Balanced would lose the order of Balanced'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_are_answered_in_a_sentence(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert '\n' not in str(caught.value)


def test_labels_that_are_no_classes_are_refused():
    measured = classified(4, 4)
    object.__setattr__(measured, 'num_classes', None)
    with pytest.raises(ValueError, match='Sessions are of classes, and the labels of the data set are numbers'):
        len(Sessions(measured, parts=2, steps=1).class_sessions)
