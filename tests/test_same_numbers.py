"""One training step gives the same loss and gradients however it is run.

Adam's first moment after the first step is a tenth of the gradient; gradients are compared tensor by tensor, in
float32, with augmentation, averaged weights and stochastic depth on: of a real network, whose heads and blocks are
split and rolled into loops, and under RandAugment and between processes of a toy. What is on at once there is on
alone under `-m heavy`.
"""

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from longview.configs import vig_s
from longview.engine.programs import programs
from longview.methods.task import TrainState
from longview.runtime.mesh import batch_sharding, make_mesh, replicated
from longview.runtime.plan import Plan, read_run
from longview.trees import by_path
from tests import goldens, runs, toys

ONE_STEP = {'steps': 1, 'log_every': 1, 'batch_size': 16, 'seed': 0}
SCHEDULE = {'warmup_epochs': 0.0, 'end': 1e-3}


@pytest.fixture(scope='module', autouse=True)
def quickly() -> Iterator[None]:
    with runs.quickly():
        yield


def vig(**backbone: Any) -> ConfigDict:
    config = vig_s.get_config('smoke')
    config.train_transforms = config.train_transforms[1:]  # all but RandAugment
    config.task.inner.backbone.update(width=16, drop_path=0.5, **backbone)
    return config


def toy() -> ConfigDict:
    config = toys.recipe(randaugment=True)
    config.task.inner.backbone.drop = 0.5
    return config


def after_one_step(config: ConfigDict, mesh: Mapping[str, Any], accumulate: int = 1) -> TrainState:
    """Returns the state after a step on as many devices as the axes of the mesh need."""
    config.update(ONE_STEP, accumulate=accumulate)
    config.optimizer.schedule.update(SCHEDULE)
    config.mesh.update({'fsdp_min_size': 1} | mesh)
    run, _ = read_run(config.to_dict())
    plan = Plan.of(run, run.data.num_train)
    optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
    size = run.mesh.data * run.mesh.fsdp * run.mesh.tensor
    devices = make_mesh(run.mesh, jax.devices()[:size])
    with jax.set_mesh(devices):
        made = programs(run, optimizer.transform, devices)
        rng = jax.device_put(jax.random.key(run.seed), replicated(devices))
        state = made.init.lower(rng).compile(goldens.QUICK)(rng)
        step = made.step.lower(made.state, made.batch, rng).compile(goldens.QUICK)
        with contextlib.closing(run.data.train(batch_sharding(devices), run.batch_size, run.seed)) as batches:
            state, _ = step(state, next(batches), rng)
    return jax.device_get(state)


@functools.cache
def on_one_device(network: Callable[..., ConfigDict]) -> TrainState:
    return after_one_step(network(), ONE)


def assert_same_gradients(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    a, b = ({path: array for path, array in arrays.items() if '/mu/' in path} for arrays in (ours, theirs))
    assert a.keys() == b.keys() and len(a) >= 4
    for path in a:
        assert runs.relative(a[path], b[path]) < 1e-5, path


ONE, DATA, FSDP = {'data': 1}, {'data': 8}, {'data': 2, 'fsdp': 4}
RULES = (('qkv/kernel', (None, 'tensor')), ('block.*out/kernel', ('tensor', None)))
TENSOR = {'data': 2, 'fsdp': 2, 'tensor': 2, 'rules': RULES}
LOOPS = {'remat': True, 'scan': True}
alone = functools.partial(pytest.param, marks=pytest.mark.heavy)


@pytest.mark.parametrize(
    'network, mesh, accumulate, backbone',
    [
        pytest.param(vig, TENSOR, 1, {}, id='2x2x2'),
        pytest.param(vig, DATA, 2, LOOPS, id='8x1x1 accumulate remat scan'),
        pytest.param(toy, FSDP, 4, {}, id='2x4x1 accumulate'),
        alone(vig, DATA, 1, {}, id='8x1x1'),
        alone(vig, FSDP, 1, {}, id='2x4x1'),
        alone(vig, ONE, 4, {}, id='accumulate'),
        alone(vig, ONE, 1, {'remat': True}, id='remat'),
        alone(vig, ONE, 1, {'scan': True}, id='scan'),
    ],
)
def test_one_process(network, mesh, accumulate, backbone) -> None:
    one, other = on_one_device(network), after_one_step(network(**backbone), mesh, accumulate)
    for name in ('loss', 'grad_norm'):
        assert one.meters[name] == pytest.approx(other.meters[name], rel=1e-5)
    assert_same_gradients(by_path(one), by_path(other))


def test_two_processes(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    options = ['--coordinator', f'localhost:{port}', '--num_processes=2']
    options += [f'--config.{key}={value}' for key, value in ONE_STEP.items()]
    options += [f'--config.optimizer.schedule.{key}={value}' for key, value in SCHEDULE.items()]
    options += ['--config.task.inner.backbone.drop=0.5', '--config.mesh.fsdp=2', '--config.mesh.fsdp_min_size=1']
    begin = functools.partial(runs.start, 'tests/toys.py:randaugment', tmp_path, *options, devices=2)
    for process in [begin(f'--process_id={i}') for i in (0, 1)]:
        runs.finish(process)
    one, row = on_one_device(toy), runs.rows(tmp_path)[0]
    for name in ('loss', 'grad_norm'):
        assert row[f'train/{name}'] == pytest.approx(one.meters[name], rel=1e-5)
    assert_same_gradients(by_path(one), runs.checkpoint(tmp_path, 1))
