"""A config with stages: runs and computations (methods/computation.py), one after the other, each in its own folder.

Stages that are done are not done again; the first one that is not goes on from where it was.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from longview.engine import trainer
from longview.engine.opened import OpenedRun
from longview.methods.computation import Made
from longview.runtime.checkpoint import Checkpoints
from longview.runtime.mesh import MeshConfig, make_mesh, replicated
from longview.runtime.metrics import newest, read
from longview.runtime.nodes import node_of
from longview.runtime.outputs import write
from longview.runtime.plan import Run, read_run, resumable
from longview.runtime.preemption import Preempted, StopSignals
from longview.runtime.resolve import ConfigError, call, check, check_arguments, resolve
from longview.runtime.stages import Record, digest_of_run, located, ordered, reads
from longview.runtime.workdir import alone, check_config, last_checkpoint, write_config
from longview.trees import by_path


@dataclasses.dataclass(frozen=True)
class Plan:
    """The top level of a config with stages, key for key.

    Attributes:
        stages: nodes by name: configs of runs (runtime/plan.py:Run), and computations.
        order: all names, each after those that it reads; None for an order that follows from what they read.
        mesh: the devices of the computations.
    """

    stages: Mapping[str, Any]
    order: Sequence[str] | None = None
    mesh: MeshConfig = MeshConfig()


def run(
    config: dict[str, Any], workdir: pathlib.Path, signals: StopSignals, span: tuple[int, int] | None = None
) -> dict[str, float]:
    """Runs the stages of a config that are not done yet; returns the last scores of all runs, as ``STAGE/eval/...``.

    Args:
        config: what `Plan` says, as plain mappings, lists and leaves.
        workdir: the stages' folders are made in it.
        signals: asked between steps and stages.
        span: first and last step to profile, of each run.

    Raises:
        ConfigError, ValueError, FileNotFoundError, RunError, Preempted: as `train.train`; of the names and arguments in
            all stages before the first one starts.
    """
    plan = _checked(config)
    digests: dict[str, str] = {}
    figures: dict[str, float] = {}
    with alone(workdir):
        for name in plan.order:
            node, folder = plan.stages[name], workdir / name
            folder.mkdir(exist_ok=True)
            trainer.stop_early(signals, folder)
            read_digests = {other: digests[other] for other in reads(node)}
            digests[name] = _do(node, folder, read_digests, plan.mesh, signals, span)
            if _is_run(node):
                scores = newest(read(folder / 'metrics.jsonl'), 'eval/')
                figures |= {f'{name}/{key}': value for key, value in scores.items()}
    return figures


def _checked(config: Mapping[str, Any]) -> Plan:
    """Returns the plan of a config, all names and arguments in its stages found to be right."""
    rest = {key: resolve(node, f'config.{key}') for key, node in config.items() if key != 'stages'}
    plan = call(Plan, {**rest, 'stages': dict(config['stages'])}, 'config')
    if not plan.stages:
        raise ConfigError('config.stages is empty: give at least one stage.')
    for name, node in plan.stages.items():
        path = f'config.stages.{name}'
        check(node, path)
        if _is_run(node):
            check_arguments(Run, node, path, complete=True)
    return dataclasses.replace(plan, order=ordered(plan.stages, plan.order))


def _is_run(node: Mapping[str, Any]) -> bool:
    return 'fn' not in node and 'partial' not in node


def _do(
    node: dict[str, Any],
    folder: pathlib.Path,
    read_digests: Mapping[str, str],
    mesh: MeshConfig,
    signals: StopSignals,
    span: tuple[int, int] | None,
) -> str:
    """Does a stage, or the rest of it, unless it is done; returns the digest of what it made.

    Raises:
        RunError: what was done of it belongs to another config, or an earlier stage has changed since.
    """
    record = Record(folder)
    record.check(read_digests)
    if not _is_run(node) and (record.digest is not None or last_checkpoint(folder) is not None):
        check_config(folder, node, begun=True)
    if record.digest is not None:
        if _is_run(node):
            _check_run(node, folder)
        trainer.say(f'stage {folder.name}: done before')
        return record.digest
    record.begin(read_digests)
    trainer.say(f'stage {folder.name}')
    if _is_run(node):
        trainer.run(node, folder, signals, span, folder.parent)
        return record.finish(digest_of_run(folder))
    with alone(folder):
        return record.finish(_compute(node, folder, mesh, signals))


def _check_run(node: dict[str, Any], folder: pathlib.Path) -> None:
    """Raises RunError if the config of a run that is done has changed since."""
    run, config = read_run(node, folder.parent)
    for data in run.data_sets:
        data.check()
    check_config(folder, config, resumable(False), begun=True)


def _compute(node: dict[str, Any], folder: pathlib.Path, mesh: MeshConfig, signals: StopSignals) -> str:
    path = f'config.stages.{folder.name}'
    write_config(folder, node, replace=True)
    devices = make_mesh(mesh)
    with jax.set_mesh(devices):
        work = _Work(devices, folder, signals)
        made = resolve(located(node, folder.parent, path), path)(work)
        work.close()
        if not isinstance(made, Made):
            raise TypeError(f'{path} returned a {type(made).__name__}, and a methods.computation.Made is wanted.')
        _save_networks(folder, made, devices)
    digest = hashlib.sha256()
    for name, content in sorted(made.files.items()):
        digest.update(write(folder, name, content))
    for name, network in sorted(made.networks.items()):
        for place, array in by_path(network.variables).items():
            digest.update(f'{name}/{place}'.encode() + np.asarray(jax.device_get(array)).tobytes())
    return digest.hexdigest()


def _save_networks(folder: pathlib.Path, made: Made, mesh: jax.sharding.Mesh) -> None:
    """Writes the networks as a run has them in its best checkpoint."""
    if not made.networks:
        return
    variables = {name: jax.device_put(network.variables, replicated(mesh)) for name, network in made.networks.items()}
    modules = {name: node_of(network.module, name) for name, network in made.networks.items()}
    checkpoints = Checkpoints(folder)
    checkpoints.save_best(0, None, variables, modules)
    checkpoints.close()


class _Work:
    """What a computation may use; see `methods.computation.Work`."""

    def __init__(self, mesh: jax.sharding.Mesh, folder: pathlib.Path, signals: StopSignals):
        self.mesh = mesh
        self._folder, self._signals = folder, signals
        self._checkpoints = Checkpoints(folder, keep=1)

    def open(self, workdir: str) -> OpenedRun:
        return OpenedRun(pathlib.Path(workdir), self.mesh)

    def metrics(self, workdir: str) -> list[dict[str, Any]]:
        return read(pathlib.Path(workdir) / 'metrics.jsonl')

    def save(self, step: int, tree: Any) -> None:
        self._checkpoints.save(step, jax.device_put(tree, replicated(self.mesh)))
        self._checkpoints.wait()
        name = self._signals.came(step)
        if name is not None:
            raise Preempted(
                f'{name} came: step {step} is saved in {self._folder}; the same command goes on from there.'
            )

    def restore(self, like: Any) -> tuple[int, Any]:
        step = self._checkpoints.latest()
        if step is None:
            return 0, like
        place = replicated(self.mesh)
        shape = lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jax.numpy.result_type(leaf), sharding=place)
        return step, self._checkpoints.restore(jax.tree.map(shape, like), step)

    def close(self) -> None:
        self._checkpoints.close()
