"""One training step gives the same loss and gradients however it is run.

Each case is a run of train.py with one step. Adam's first moment after it is a tenth of the gradient, so the
checkpoints hold the gradients; they are compared tensor by tensor, in float32, with every augmentation and stochastic
depth on.
"""

import pathlib
import socket

import pytest

from tests import runs

CONFIG = 'configs/vig_s.py:smoke'
ONE_STEP = (
    '--config.steps=1',
    '--config.log_every=1',
    '--config.batch_size=16',
    '--config.task.inner.backbone.drop_path=0.5',
    '--config.optimizer.schedule.warmup_epochs=0.0',
    '--config.optimizer.schedule.end=1e-3',
)
MESH = "--config.mesh.rules=(('qkv/kernel',(None,'tensor')),('block.*out/kernel',('tensor',None)))"


@pytest.fixture(scope='module')
def one_device(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp('one')
    runs.run(CONFIG, workdir, *ONE_STEP)
    return workdir


def gradients(workdir: pathlib.Path) -> dict:
    found = {k: v for k, v in runs.checkpoint(workdir, 1).items() if '/mu/' in k}
    assert len(found) > 20
    return found


def assert_same_step(one: pathlib.Path, other: pathlib.Path) -> None:
    ours, theirs = runs.rows(one)[0], runs.rows(other)[0]
    assert ours['train/loss'] == pytest.approx(theirs['train/loss'], rel=1e-5)
    assert ours['train/grad_norm'] == pytest.approx(theirs['train/grad_norm'], rel=1e-5)
    a, b = gradients(one), gradients(other)
    assert a.keys() == b.keys()
    for path in a:
        assert runs.relative(a[path], b[path]) < 1e-5, path


@pytest.mark.parametrize(
    'options',
    [
        pytest.param(('--config.mesh.data=8',), id='8x1x1'),
        pytest.param(('--config.mesh.data=2', '--config.mesh.fsdp=4', '--config.mesh.fsdp_min_size=1'), id='2x4x1'),
        pytest.param(
            (
                '--config.mesh.data=2',
                '--config.mesh.fsdp=2',
                '--config.mesh.tensor=2',
                '--config.mesh.fsdp_min_size=1',
                MESH,
            ),
            id='2x2x2',
        ),
        pytest.param(('--config.accumulate=4',), id='accumulate'),
        pytest.param(('--config.task.inner.backbone.remat=True',), id='remat'),
        pytest.param(('--config.task.inner.backbone.scan=True',), id='scan'),
        pytest.param(
            (
                '--config.task.inner.backbone.remat=True',
                '--config.task.inner.backbone.scan=True',
                '--config.accumulate=2',
            ),
            id='all',
        ),
    ],
)
def test_one_process(one_device, tmp_path, options) -> None:
    devices = 8 if any('mesh' in option for option in options) else 1
    runs.run(CONFIG, tmp_path, *ONE_STEP, *options, devices=devices)
    assert_same_step(one_device, tmp_path)


def test_two_processes(one_device, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    joined = ('--coordinator', f'localhost:{port}', '--num_processes=2', '--config.mesh.fsdp=2')
    processes = [runs.start(CONFIG, tmp_path, *ONE_STEP, *joined, f'--process_id={i}', devices=2) for i in (0, 1)]
    for process in processes:
        runs.finish(process)
    assert_same_step(one_device, tmp_path)
