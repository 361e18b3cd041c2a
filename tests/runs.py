"""Starts train.py as a user does, and reads what runs leave behind."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests import goldens

ROOT = pathlib.Path(__file__).parents[1]
QUICK = [f'--{option}={str(value).lower()}' for option, value in goldens.QUICK.items()]


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Runs of this process compile nearly as quickly as those of `start`, and what is compiled once is kept."""
    options = {
        'jax_disable_most_optimizations': bool(goldens.QUICK),
        'jax_persistent_cache_min_compile_time_secs': 0.1,
    }
    before = {name: jax.config.values[name] for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def start(
    config: str,
    workdir: pathlib.Path,
    *overrides: str,
    devices: int = 1,
    program: Sequence[str] = ('train.py',),
    limits: Sequence[tuple[int, int]] = (),
) -> subprocess.Popen:
    """Starts a run in a process group of its own, so that whatever it starts dies with it.

    Args:
        program: what Python runs, and its own arguments: train.py or what stands for it.
        limits: resources and how much of them the process gets.
    """
    env = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.cache' / 'xla'),
        # Where writes fail, no compiled program is kept: it would be kept by half, for every later test.
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '1e9' if limits else '0.1',
        # Compiling is most of what these runs cost, and they compare with each other only.
        'XLA_FLAGS': ' '.join([f'--xla_force_host_platform_device_count={devices}', *QUICK]),
    }
    command = [sys.executable, *program, f'--config={config}', f'--workdir={workdir}', *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for kind, limit in limits:
        resource.prlimit(process.pid, kind, (limit, limit))
    return process


def start_together(
    config: str, workdir: pathlib.Path, *overrides: str, processes: int, **options: Any
) -> list[subprocess.Popen]:
    """Starts the processes of one run; `options` are those of `start`, for each."""
    if processes == 1:
        return [start(config, workdir, *overrides, **options)]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    together = (f'--coordinator=127.0.0.1:{port}', f'--num_processes={processes}')
    return [
        start(config, workdir, *overrides, *together, f'--process_id={index}', **options) for index in range(processes)
    ]


def command(*words: str, status: int = 0) -> tuple[str, str]:
    """Runs Python with these words, as a user at the command line does; returns what was printed."""
    env = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.cache' / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
        'XLA_FLAGS': ' '.join(QUICK),
    }
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=env,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return finish(process, status)


def finish(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    """Waits for the end and returns what was printed; kills what takes too long."""
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == status, f'status {process.returncode}\n{out}\n{err}'
    return out, err


def run(config: str, workdir: pathlib.Path, *overrides: str, status: int = 0, **options: Any) -> tuple[str, str]:
    """Starts a run and waits for its end; `options` are those of `start`."""
    return finish(start(config, workdir, *overrides, **options), status)


def rows(workdir: pathlib.Path, timings: bool = False) -> list[dict[str, Any]]:
    """The metrics, without what depends on the machine unless `timings` are wanted."""
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if timings or not k.startswith('time/')} for line in lines]


def saved(workdir: pathlib.Path, kind: str = 'checkpoints') -> list[int]:
    """The steps of the finished checkpoints."""
    return sorted(int(path.name) for path in (workdir / kind).iterdir() if path.name.isdigit())


def copy(workdir: pathlib.Path, to: pathlib.Path, step: int) -> None:
    """Makes a workdir as a run leaves it that is killed after the checkpoint of a step."""
    shutil.copytree(workdir, to, ignore=shutil.ignore_patterns('checkpoints', 'best'))
    kept = {'checkpoints': step, 'best': max((s for s in saved(workdir, 'best') if s <= step), default=None)}
    for kind, number in kept.items():
        (to / kind).mkdir()
        if number is not None:
            shutil.copytree(workdir / kind / str(number), to / kind / str(number))


def checkpoint(
    workdir: pathlib.Path, step: int, kind: str = 'checkpoints', item: str = 'default'
) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by path."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    path = (workdir / kind / str(step) / item).absolute()
    with ocp.StandardCheckpointer() as reader:
        saved = dict(reader.metadata(path).item_metadata.tree)
        target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), saved)
        tree = reader.restore(path, target)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator='/'): np.asarray(x) for k, x in leaves}


def assert_same_bits(one: pathlib.Path, other: pathlib.Path, step: int) -> None:
    """Parameters, optimizer, averages, meters and metrics, to the last bit."""
    ours, theirs = checkpoint(one, step), checkpoint(other, step)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for path, array in ours.items():
        assert array.tobytes() == theirs[path].tobytes(), path
    assert rows(one) == rows(other)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of the difference over that of `a`."""
    scale = np.sqrt(np.mean(np.square(a, dtype=np.float64)))
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))) / max(scale, 1e-30))
