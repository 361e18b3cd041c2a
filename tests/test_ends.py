"""How runs end before their last step, what they keep, and what a run that has ended does when it is started again."""

import contextlib
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from longview import train
from longview.configs import base
from longview.engine import trainer
from longview.runtime.checkpoint import Checkpoints
from longview.runtime.errors import RunError
from longview.runtime.metrics import Metrics
from longview.runtime.plan import Plan, read_run
from longview.runtime.preemption import Preempted, StopSignals
from longview.runtime.rows import best_step, evaluations_since_best, newest
from tests import runs, toys


@pytest.fixture(scope='module', autouse=True)
def quickly() -> Iterator[None]:
    with runs.quickly():
        yield


def still(**changes):
    """A run whose weights do not move, so that the first evaluation stays the best."""
    config = toys.config(eval_every=1, **changes)
    config.optimizer.schedule.peak = 1e-30
    return config


# A second evaluation, which is due after the last step only.
LATE = {'late': {'fn': 'runtime.plan:Eval', 'every': 100}}


@pytest.fixture(scope='module')
def stalled(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp('stalled')
    train.train(still(patience=2, evals=LATE), workdir)
    return workdir


@pytest.fixture
def copy(stalled, tmp_path) -> pathlib.Path:
    return shutil.copytree(stalled, tmp_path / 'copy')


@pytest.fixture
def traced(monkeypatch) -> list[str]:
    """What is built from here on: programs of runs."""
    made, programs = [], trainer.programs
    monkeypatch.setattr(trainer, 'programs', lambda *args: made.append('programs') or programs(*args))
    return made


def test_a_run_ends_when_its_patience_does(stalled):
    assert runs.saved(stalled) == [2, 3] and runs.saved(stalled, 'best') == [1]
    rows = runs.rows(stalled)
    assert [row['step'] for row in rows if 'eval/accuracy' in row] == [1, 2, 3]
    assert [row['step'] for row in rows if 'eval/late/accuracy' in row] == [3], 'the end leaves nothing unmeasured'


def test_a_run_that_has_ended_prints_its_scores_and_builds_nothing(copy, traced, capsys):
    before = (copy / 'metrics.jsonl').read_bytes()
    scores = train.train(still(patience=2, evals=LATE), copy)
    assert scores == newest(runs.rows(copy), 'eval/') and {'eval/accuracy', 'eval/late/accuracy'} <= scores.keys()
    out = capsys.readouterr().out
    assert f'ended before, after step 3 of 8:  eval/accuracy {scores["eval/accuracy"]:.4g}' in out
    assert not traced and (copy / 'metrics.jsonl').read_bytes() == before


def test_with_more_patience_a_run_goes_on_and_with_less_it_has_ended(copy, traced, capsys):
    train.train(still(patience=1, evals=LATE), copy)
    assert not traced
    train.train(still(patience=4, evals=LATE), copy)
    assert traced and runs.saved(copy) == [4, 5]
    assert 'no better eval/accuracy in 4 evaluations: the run ends after step 5' in capsys.readouterr().out


def test_a_run_that_has_ended_is_refused_to_another_config(copy, traced):
    with pytest.raises(RunError, match='config.seed was 0 and is now 1'):
        train.train(still(patience=2, evals=LATE, seed=1), copy)
    assert not traced


@pytest.mark.quick
@pytest.mark.parametrize(
    'values, mode, best, since',
    [
        ([0.5, 0.7, 0.7, 0.6], 'max', 2, 2),
        ([0.5, 0.7, 0.7, 0.4], 'min', 4, 0),
        ([float('nan'), 0.5, float('inf')], 'max', 2, 1),
        ([float('nan'), float('nan')], 'max', None, 2),
        ([], 'max', None, 0),
    ],
)
def test_evaluations_are_counted_from_the_best(values, mode, best, since):
    rows = [{'step': step, 'eval/accuracy': value} for step, value in enumerate(values, start=1)]
    rows.insert(1, {'step': 1, 'train/loss': 1.0})
    assert best_step(rows, 'eval/accuracy', mode) == best
    assert evaluations_since_best(rows, 'eval/accuracy', mode) == since


# --- a given time ---


class Timer:
    """A clock whose time is up when a test says so."""

    made: list['Timer'] = []

    def __init__(self, seconds: float, function: Callable[[], None]):
        self.seconds, self.function = seconds, function
        Timer.made.append(self)

    def start(self) -> None:
        pass

    cancel = start


def test_a_run_stops_when_its_time_is_up_and_goes_on_by_the_same_command(tmp_path, monkeypatch):
    write = Metrics.write

    def late(metrics, step, values):
        write(metrics, step, values)
        if step == 4:
            Timer.made[-1].function()

    with (
        monkeypatch.context() as patch,
        pytest.raises(Preempted, match='the end of 2.5 minutes came: step 4 of 8 is saved'),
    ):
        patch.setattr(threading, 'Timer', Timer)
        patch.setattr(Metrics, 'write', late)
        train.train(toys.config(), tmp_path / 'stopped', max_minutes=2.5)
    assert Timer.made[-1].seconds == 150
    train.train(toys.config(), tmp_path / 'stopped', max_minutes=60)
    train.train(toys.config(), tmp_path / 'undisturbed')
    runs.assert_same_bits(tmp_path / 'undisturbed', tmp_path / 'stopped', 8)


@pytest.mark.quick
def test_the_time_counts_from_the_start_and_no_longer_than_the_run():
    with StopSignals(1e-4) as signals:
        signals._timer.join(60)
        assert signals.came() == 'the end of 0.0001 minutes'
    with StopSignals(60) as signals:
        assert signals.came() is None
    signals._timer.join(60)
    assert not signals._timer.is_alive() and signals.came() is None


# --- checkpoints that stay ---


@pytest.mark.quick
def test_checkpoints_of_every_so_many_steps_stay(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path, keep=2, keep_every=3)) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, {'step': jax.device_put(np.int32(step))})
    assert runs.saved(tmp_path) == [3, 6, 7, 8]


@pytest.mark.quick
@pytest.mark.parametrize(
    'changes, words',
    [
        (
            {'keep_every': 3, 'save_every': 2},
            'config.keep_every is 3 and a checkpoint is saved every 2 steps: make it a mul',
        ),
        ({'keep_every': 0}, 'config.keep_every is 0: it must be at least 1, or None.'),
        ({'patience': 0}, 'config.patience is 0: it must be at least 1, or None.'),
    ],
)
def test_what_cannot_be_kept_or_waited_for_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Plan.of(read_run(toys.config(**changes).to_dict())[0], 1438)


# --- another length ---


def stairs(steps: int):
    """A run whose rates follow from epochs alone: it falls after 6 of 22 steps an epoch."""
    return toys.config(optimizer=base.sgd(base.staircase(0.05, (0.25,))), steps=steps)


def test_a_run_goes_on_for_longer_where_no_step_depends_on_the_length(tmp_path):
    longer = tmp_path / 'longer'
    train.train(stairs(4), longer)
    train.train(stairs(8), longer)
    train.train(stairs(8), tmp_path / 'at once')
    runs.assert_same_bits(tmp_path / 'at once', longer, 8)
    assert (longer / 'config.json').read_bytes() == (tmp_path / 'at once' / 'config.json').read_bytes()
    with pytest.raises(RunError, match='config.steps was 8 and is now 4; use that value'):
        train.train(stairs(4), longer)


def test_a_run_whose_rates_depend_on_the_length_keeps_it(tmp_path):
    train.train(toys.config(steps=2), tmp_path)
    before = (tmp_path / 'config.json').read_bytes()
    words = 'holds a run of 2 steps, whose learning rates follow from that number, and 4 are asked for: .*Start'
    with pytest.raises(RunError, match=words):
        train.train(toys.config(steps=4), tmp_path)
    with pytest.raises(RunError, match='config.steps was 2 and is now 1'):
        train.train(toys.config(steps=1), tmp_path)
    assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.heavy
def test_several_processes_end_together(tmp_path):
    flags = ('--config.eval_every=1', '--config.optimizer.schedule.peak=1e-30', '--config.patience=2')
    start = lambda *more: runs.start_together('tests/toys.py', tmp_path, *flags, *more, processes=2, devices=2)
    outs = [runs.finish(process)[0] for process in start()]
    assert runs.saved(tmp_path) == [2, 3]
    assert [out.count('the run ends after step 3') for out in outs] == [1, 0]
    assert [runs.finish(process)[0].count('ended before, after step 3 of 8') for process in start()] == [1, 0]
    outs = [runs.finish(process)[0] for process in start('--config.patience=5', '--max_minutes=0.0001')]
    assert all('came: step 4 of 8 is saved' in out for out in outs)
