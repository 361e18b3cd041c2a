"""Runs that are killed, stopped and moved end as if nothing had happened.

The config is the published recipe on a few JPEGs: mixup, cutmix, RandAugment, random erasing, stochastic depth and
averaged weights are all on.
"""

import pathlib
import signal

import pytest

from tests import runs

CONFIG = 'configs/vig_s.py:smoke'
STEPS = 12


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp('undisturbed')
    runs.run(CONFIG, workdir)
    return workdir


def test_a_run_killed_between_and_during_saves_ends_in_the_same_bits(undisturbed, tmp_path) -> None:
    first = runs.start(CONFIG, tmp_path)
    runs.when(first, lambda: runs.last_step(tmp_path) >= 6, signal.SIGKILL)
    runs.finish(first, -signal.SIGKILL)
    assert runs.last_step(tmp_path) < STEPS
    during = runs.start(CONFIG, tmp_path, program='tests/kill_during_save.py')
    runs.finish(during, -signal.SIGKILL)
    assert list(tmp_path.glob('*/*tmp*')), 'the kill came after the save'
    runs.run(CONFIG, tmp_path)
    runs.assert_same_bits(undisturbed, tmp_path, STEPS)


def test_sigterm_saves_exits_with_0_and_resumes(undisturbed, tmp_path) -> None:
    process = runs.start(CONFIG, tmp_path)
    runs.when(process, lambda: runs.last_step(tmp_path) >= 4, signal.SIGTERM)
    out, _ = runs.finish(process, 0)
    assert 'SIGTERM came: step' in out
    assert runs.last_step(tmp_path) < STEPS
    runs.run(CONFIG, tmp_path)
    runs.assert_same_bits(undisturbed, tmp_path, STEPS)


def test_a_run_moves_between_meshes(undisturbed, tmp_path) -> None:
    moves = [(8, 4, ('--config.mesh.data=8',)), (1, 8, ()), (8, 12, ('--config.mesh.data=4', '--config.mesh.fsdp=2'))]
    for devices, stop, mesh in moves:
        process = runs.start(CONFIG, tmp_path, *mesh, devices=devices)
        if stop < STEPS:
            runs.when(process, lambda: (tmp_path / 'checkpoints' / str(stop)).exists(), signal.SIGKILL)
            runs.finish(process, -signal.SIGKILL)
        else:
            runs.finish(process)
    ours, theirs = runs.rows(undisturbed), runs.rows(tmp_path)
    assert [row['step'] for row in ours] == [row['step'] for row in theirs]
    for one, other in zip(ours, theirs):
        assert one['step'] == other['step'] and one.keys() == other.keys()
        for key in ('train/loss', 'eval/loss'):
            if key in one:
                assert one[key] == pytest.approx(other[key], rel=1e-4)
    a, b = runs.checkpoint(undisturbed, STEPS), runs.checkpoint(tmp_path, STEPS)
    # Adam divides by the root of tiny second moments, which lends rounding errors weight.
    worst = max(runs.relative(a[path], b[path]) for path in a if path.startswith('variables/params'))
    assert worst < 2e-3


def test_a_finished_run_does_nothing_more(undisturbed) -> None:
    before = (undisturbed / 'metrics.jsonl').read_bytes()
    out, _ = runs.run(CONFIG, undisturbed)
    assert f'steps {STEPS} to {STEPS}' in out
    assert (undisturbed / 'metrics.jsonl').read_bytes() == before
