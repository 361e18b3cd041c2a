"""Configs with stages: order, what they pass on, and that killing them changes nothing."""

import json
import pathlib
import random
import shutil
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from longview import train
from longview.runtime.errors import RunError
from longview.runtime.resolve import ConfigError
from longview.runtime.stages import located, ordered, reads
from tests import runs, toys

STAGES = ('teacher', 'losses', 'features', 'student', 'table')


def reading(*names):
    return {'runs': [{'stage': name} for name in names]}


# --- order and references ---


@pytest.mark.quick
def test_stages_come_after_those_that_they_read():
    stages = {'a': reading('c'), 'b': reading('a', 'c'), 'c': {}, 'd': {'file': {'stage': 'b', 'file': 'x.npy'}}}
    assert ordered(stages) == ('c', 'a', 'b', 'd')
    assert ordered({'b': {}, 'c': {}, 'a': reading('c')}) == ('b', 'c', 'a')
    assert ordered({'b': {}, 'c': {}, 'a': reading('c')}, ('c', 'a', 'b')) == ('c', 'a', 'b')
    assert reads(stages['b']) == ('a', 'c') and reads(stages['d']) == ('b',)


@pytest.mark.quick
@pytest.mark.parametrize(
    'stages, order, words',
    [
        ({'a': reading('b'), 'b': reading('c'), 'c': reading('a')}, None, 'read each other in a circle'),
        ({'a': reading('a')}, None, 'circle'),
        (
            {'techer': {}, 'a': reading('teacher')},
            None,
            "config.stages.a reads the stage 'teacher'; did you mean 'techer",
        ),
        ({'a': {}, 'b': {}}, ('a',), 'config.order is a, and the stages are a, b'),
        ({'a': {}, 'b': reading('a')}, ('b', 'a'), 'config.order has b before a, which it reads: put it behind'),
        ({'../a': {}}, None, "config.stages has the name '../a': use letters"),
        ({'lock': {}}, None, 'config.stages has the name lock, which a file of every workdir has'),
        (
            {'a': {}, 'b': {'x': {'stage': 'a', 'files': 'y'}}},
            None,
            r"b.x names the stage 'a' and 'files': give",
        ),
    ],
)
def test_an_order_that_cannot_be_is_refused(stages, order, words):
    with pytest.raises(ConfigError, match=words):
        ordered(stages, order)


@pytest.mark.quick
def test_a_stage_stands_for_its_workdir_and_a_file_in_it():
    node = {'a': {'stage': 'x'}, 'b': [{'stage': 'y', 'file': 'z.npy'}], 'c': {'stage': 3}, 'd': {'stage': 'x', 'e': 1}}
    found = located(node, pathlib.Path('/runs'))
    assert found == {'a': '/runs/x', 'b': ['/runs/y/z.npy'], 'c': {'stage': 3}, 'd': {'stage': 'x', 'e': 1}}
    with pytest.raises(ConfigError, match=r"config\.b\[0\] names the stage 'y', and this config has no stages"):
        located({'b': [{'stage': 'y'}]}, None)


@pytest.mark.quick
@pytest.mark.parametrize(
    'change, words',
    [
        (
            lambda c: c.stages.student.update(batchsize=3),
            r"config.stages.student.batchsize: .* did you mean 'batch_size'",
        ),
        (lambda c: c.stages.table.update(figure='x'), r"config.stages.table.figure: .* takes no 'figure'"),
        (lambda c: c.stages.losses.update(fn='methods.scores:Score'), "has no 'Score'; did you mean 'Scores'"),
        (lambda c: c.update(steps=3), "config.steps: .* takes no 'steps'"),
        (lambda c: setattr(c, 'stages', ConfigDict()), 'config.stages is empty'),
    ],
)
def test_what_is_wrong_in_a_late_stage_is_said_before_the_first_one_starts(change, words, tmp_path):
    config = toys.staged()
    change(config)
    with pytest.raises(ConfigError, match=words):
        train.train(config, tmp_path)
    assert not list(tmp_path.glob('*/*'))


# --- what stages do ---


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('staged')
    with runs.quickly():
        return workdir, train.train(toys.staged(), workdir)


def test_stages_pass_on_what_they_made(done, capsys):
    workdir, scores = done
    assert {name.split('/')[0] for name in scores} == {'teacher', 'student'}
    losses = np.load(workdir / 'losses' / 'scores.npy')
    assert losses.shape == (1438,) and losses.min() > 0 and len(np.unique(losses)) > 1000
    table = json.loads((workdir / 'table' / 'table.json').read_text())
    assert table['student']['eval/accuracy']['last'] == scores['student/eval/accuracy']
    assert '| student |' in (workdir / 'table' / 'table.md').read_text()
    # The student begins where the teacher was best, and stays there.
    assert scores['student/eval/accuracy'] == table['teacher']['eval/accuracy']['best']
    first = {name: runs.rows(workdir / name)[0]['train/loss'] for name in ('teacher', 'student')}
    assert first['student'] > scores['student/eval/loss'], 'it sees the examples of the largest losses'
    with runs.quickly():
        assert train.train(toys.staged(), workdir) == scores
    assert capsys.readouterr().out.splitlines() == [f'stage {name}: done before' for name in STAGES]


def test_workdirs_can_be_moved_together(done, tmp_path):
    moved = shutil.copytree(done[0], tmp_path / 'elsewhere')
    assert str(done[0]) not in (moved / 'student' / 'config.json').read_text()
    shutil.rmtree(moved / 'table')
    with runs.quickly():
        train.train(toys.staged(), moved)
    assert (moved / 'table' / 'table.json').read_bytes() == (done[0] / 'table' / 'table.json').read_bytes()


def test_a_stage_that_is_done_is_not_taken_for_another(done, tmp_path):
    workdir = shutil.copytree(done[0], tmp_path / 'copy')
    with pytest.raises(
        RunError, match=r'student holds a stage of another config: config.stages.student.steps was 8 and is now 9; use'
    ):
        train.train(toys.staged(steps=9), workdir)
    other = toys.staged()
    other.stages.losses.score = 'accuracy'
    with pytest.raises(
        RunError,
        match=r"losses holds a stage of another config: config.stages.losses.score was .* and is now 'accuracy'",
    ):
        train.train(other, workdir)


def test_a_stage_whose_earlier_one_has_changed_is_refused(done, tmp_path):
    workdir = shutil.copytree(done[0], tmp_path / 'copy')
    shutil.rmtree(workdir / 'teacher')
    other = toys.staged()
    other.stages.teacher.seed = 1
    with (
        runs.quickly(),
        pytest.raises(RunError, match=r'losses was made from another teacher than .*teacher now is: put'),
    ):
        train.train(other, workdir)
    # The same teacher once more is the same.
    shutil.rmtree(workdir / 'teacher')
    with runs.quickly():
        assert train.train(toys.staged(), workdir) == done[1]


def same_everywhere(one, other):
    """Whether all that two workdirs hold is the same to the last bit."""
    for name in ('teacher', 'student'):
        runs.assert_same_bits(one / name, other / name, 8)
        assert runs.saved(one / name, 'best') == runs.saved(other / name, 'best')
    for file in ('losses/scores.npy', 'features/sums.npy', 'table/table.json', 'table/table.md'):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    for name in STAGES:
        assert (one / name / 'stage.json').read_bytes() == (other / name / 'stage.json').read_bytes(), name


def test_progress_within_a_computation_is_gone_on_from(done, tmp_path):
    workdir = shutil.copytree(done[0], tmp_path / 'copy')
    record = json.loads((workdir / 'features' / 'stage.json').read_text())
    (workdir / 'features' / 'stage.json').write_text(json.dumps({'reads': record['reads']}))
    (workdir / 'features' / 'sums.npy').unlink()
    saved = runs.saved(workdir / 'features')
    assert saved == [3], 'only the newest progress is kept'
    for name in ('student', 'table'):
        shutil.rmtree(workdir / name)
    with runs.quickly():
        train.train(toys.staged(), workdir)
    same_everywhere(done[0], workdir)


def test_progress_of_another_computation_is_not_gone_on_from(done, tmp_path):
    workdir = shutil.copytree(done[0], tmp_path / 'copy')
    record = json.loads((workdir / 'features' / 'stage.json').read_text())
    (workdir / 'features' / 'stage.json').write_text(json.dumps({'reads': record['reads']}))
    other = toys.staged()
    other.stages.features.steps = 5
    with pytest.raises(
        RunError, match=r'features holds a stage of another config: config.stages.features.steps was None and is now 5'
    ):
        train.train(other, workdir)


def test_a_computation_that_failed_can_be_corrected(done, tmp_path):
    workdir = shutil.copytree(done[0], tmp_path / 'copy')
    shutil.rmtree(workdir / 'table')
    wrong = toys.staged()
    wrong.stages.table.figures = ['eval/acuracy']
    with pytest.raises(ValueError, match='has measured no eval/acuracy: take one of eval/accuracy'):
        train.train(wrong, workdir)
    with runs.quickly():
        train.train(toys.staged(), workdir)
    same_everywhere(done[0], workdir)


@pytest.mark.heavy
@pytest.mark.parametrize('devices, processes', [(1, 1), (8, 1), (4, 2)])
def test_stages_killed_at_random_moments_end_in_the_same_bits(devices, processes, tmp_path):
    config, undisturbed, killed = 'tests/toys.py:staged', tmp_path / 'undisturbed', tmp_path / 'killed'
    start = lambda workdir: runs.start_together(config, workdir, processes=processes, devices=devices)
    begin = time.monotonic()
    for process in start(undisturbed):
        runs.finish(process)
    length, moments = time.monotonic() - begin, random.Random(devices + processes)
    for _ in range(5):
        started = start(killed)
        time.sleep(moments.uniform(0.2, 0.8) * length)
        for process in started:
            process.kill()
            process.communicate()
    for process in start(killed):
        runs.finish(process)
    same_everywhere(undisturbed, killed)
