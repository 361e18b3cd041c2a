"""How runs end before their last step, what they keep, and what a run that has ended does when it is started again."""

import json
import logging
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator

import jax
import pytest

from longview import train
from longview.engine import trainer
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
