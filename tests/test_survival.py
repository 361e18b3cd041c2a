"""Runs that are stopped, killed and moved end as if nothing had happened.

The config draws and remembers all that published recipes do: crops, erasing, mixup, cutmix, drop path, averaged
weights. `-m heavy` does the same with a published recipe and network, RandAugment included.
"""

import functools
import pathlib
import shutil
import signal

import pytest

from longview import train
from longview.configs import vig_s
from tests import runs, toys

CONFIGS = {
    'tests/toys.py:recipe': toys.recipe,
    'configs/vig_s.py:smoke': functools.partial(vig_s.get_config, 'smoke'),
}
STEPS = 12


@pytest.fixture(
    scope='module', params=['tests/toys.py:recipe', pytest.param('configs/vig_s.py:smoke', marks=pytest.mark.heavy)]
)
def config(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def undisturbed(config: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp('undisturbed')
    runs.run(config, workdir)
    return workdir


def test_a_run_stopped_and_killed_between_and_during_saves_ends_in_the_same_bits(config, undisturbed, tmp_path) -> None:
    stopped = lambda name, moment: ('tests/stopped.py', name, moment)
    out, _ = runs.run(config, tmp_path, program=stopped('SIGTERM', '6'))
    assert 'SIGTERM came: step 6 of 12 is saved' in out
    assert runs.saved(tmp_path) == [4, 6]
    runs.run(config, tmp_path, program=stopped('SIGKILL', '8'), status=-signal.SIGKILL)
    assert runs.rows(tmp_path)[-1]['step'] == 8
    assert runs.saved(tmp_path) == [4, 6]
    runs.run(config, tmp_path, program=stopped('SIGKILL', 'save'), status=-signal.SIGKILL)
    assert list(tmp_path.glob('*/*tmp*')), 'the kill came after the save'
    out, _ = runs.run(config, tmp_path)
    assert f'steps 6 to {STEPS}' in out
    runs.assert_same_bits(undisturbed, tmp_path, STEPS)


def test_a_run_moves_between_meshes(config, undisturbed, tmp_path) -> None:
    """From one device to eight, over which the state is split, and back."""
    moved = shutil.copytree(undisturbed, tmp_path / 'moved')
    on_eight = CONFIGS[config]()
    on_eight.mesh.update(data=4, fsdp=2, fsdp_min_size=1)
    on_eight.save_every = 1
    shutil.rmtree(moved / 'checkpoints' / '12')
    with runs.quickly():
        train.train(on_eight, moved)
    assert runs.saved(moved) == [11, 12]
    shutil.rmtree(moved / 'checkpoints' / '12')
    out, _ = runs.run(config, moved)
    assert f'steps 11 to {STEPS}' in out
    ours, theirs = runs.rows(undisturbed), runs.rows(moved)
    assert [(row['step'], row.keys()) for row in ours] == [(row['step'], row.keys()) for row in theirs]
    for one, other in zip(ours, theirs):
        for key in one.keys() & {'train/loss', 'eval/loss'}:
            assert one[key] == pytest.approx(other[key], rel=1e-4)
    a, b = runs.checkpoint(undisturbed, STEPS), runs.checkpoint(moved, STEPS)
    # Adam divides by the root of tiny second moments, which lends rounding errors weight.
    worst = max(runs.relative(a[path], b[path]) for path in a if path.startswith('variables/params'))
    assert worst < 2e-3
