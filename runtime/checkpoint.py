"""Checkpoints: saved asynchronously by Orbax, restored onto any mesh.

A workdir holds ``checkpoints/`` (the last few, to resume from) and ``best/`` (the one with the best score).
Orbax writes each into a temporary folder and renames it when every byte is there, so a run killed at any
moment, also during a save, finds only finished checkpoints. A checkpoint of another network, task or optimizer is
refused before anything is read.
"""

import dataclasses
import json
import logging
import pathlib
import sys
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from longview.runtime.errors import RunError
from longview.runtime.resolve import resolve
from longview.trees import by_path, path_of

# What is saved at a step, each in a folder of its own: the state, by Orbax's name for the only thing that is saved; the
# networks' arrays, and their modules as config nodes.
_STATE = 'default'
_DEPLOYED = 'deployed'
_MODULES = 'modules'
# The order of the training examples, where it follows from the run's own state.
_ORDER = 'order'


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
        workdir: made if missing.
        keep: how many of the last checkpoints stay.
        keep_every: those of every so many steps stay too; None for no others.

    Raises:
        RunError: the folder cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, keep: int = 2, keep_every: int | None = None):
        _quiet()
        self.workdir = workdir.absolute()
        self._last = _manager(self.workdir / 'checkpoints', keep, keep_every)
        self._best = _manager(self.workdir / 'best', 1)

    def latest(self) -> int | None:
        """The step of the last finished checkpoint, or None."""
        return self._last.latest_step()

    def save(self, step: int, state: Any, order: Any = None) -> None:
        """Starts saving `state` as the last checkpoint, and an order of examples; returns before it is written."""
        # A run that is killed goes on behind its last checkpoint, so the best one until then has to be there whole.
        self._wait(self._best)
        self._save(self._last, step, {_STATE: state} if order is None else {_STATE: state, _ORDER: order})

    def save_best(
        self, step: int, state: Any, networks: Mapping[str, Any] | None = None, modules: Mapping[str, Any] | None = None
    ) -> None:
        """Starts saving `state` as the best one so far, and beside it the networks alone.

        Args:
            step: number of steps done.
            state: of the run; None for what has only networks.
            networks: their variables, by name.
            modules: their modules as config nodes, by name (runtime/nodes.py), as far as there are such.
        """
        items = {} if state is None else {_STATE: state}
        if networks:
            items |= {_DEPLOYED: networks, _MODULES: {name: (modules or {}).get(name) for name in networks}}
        self._save(self._best, step, items)

    def restore(self, abstract: Any, step: int | None = None, best: bool = False) -> Any:
        """Returns the state at `step` (default: the last), placed as `abstract` says.

        Args:
            abstract: tree of ``jax.ShapeDtypeStruct`` with shardings; the mesh may differ from
                the one the checkpoint was saved on.
            best: read from ``best/`` instead.

        Raises:
            RunError: there is no checkpoint, or it is one of another config or of a version that kept less.
        """
        manager = self._best if best else self._last
        step = manager.latest_step() if step is None else step
        if step is None:
            raise RunError(f'{manager.directory} holds no finished checkpoint: train first, or name another --workdir.')
        self._check(manager, step, abstract)
        try:
            args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(abstract)})
            return manager.restore(step, args=args)[_STATE]
        except (ValueError, OSError, KeyError) as error:
            raise RunError(
                f'{manager.directory}/{step} cannot be read ({_first_line(error)}): remove that '
                'folder to resume from the one before it.'
            ) from error

    def order(self, step: int) -> dict[str, np.ndarray] | None:
        """Returns the order of examples that was saved at `step`, or None if there is none."""
        folder = self.workdir / 'checkpoints' / str(step) / _ORDER
        if not folder.is_dir():
            return None
        tree = _metadata(folder)
        return _restored(folder, tree, set(by_path(tree)))

    def wait(self) -> None:
        """Returns when everything started has been written.

        Raises:
            RunError: a save failed; earlier checkpoints are untouched.
        """
        for manager in (self._last, self._best):
            self._wait(manager)

    def close(self) -> None:
        """Waits and releases Orbax's threads."""
        self.wait()
        self._last.close()
        self._best.close()

    def _wait(self, manager: ocp.CheckpointManager) -> None:
        try:
            manager.wait_until_finished()
            manager.check_for_errors()
        except Exception as error:
            raise self._failed(manager, error) from error

    def _save(self, manager: ocp.CheckpointManager, step: int, items: dict[str, Any]) -> None:
        if jax.process_count() > 1:
            # Orbax numbers the barriers of all its saves together: of two at once, one process may wait at
            # the first one's while another waits at the second one's.
            self.wait()
        try:
            if step in manager.all_steps():
                # A run that was killed after its best score and before its next checkpoint reaches that score again,
                # and the state has the same bits.
                return
            kinds = {_MODULES: ocp.args.JsonSave}
            args = {name: kinds.get(name, ocp.args.StandardSave)(tree) for name, tree in items.items()}
            manager.save(step, args=ocp.args.Composite(**args), force=True)
        except Exception as error:
            raise self._failed(manager, error) from error

    def _failed(self, manager: ocp.CheckpointManager, error: Exception) -> RunError:
        steps = sorted(self._last.all_steps(read=True))
        kept = f'the checkpoint of step {steps[-1]} is still there' if steps else 'none was saved before'
        return RunError(
            f'a checkpoint could not be written to {manager.directory} ({_first_line(error)}); '
            f'{kept}: free some space or mend the folder, then run the same command again.'
        )

    def _check(self, manager: ocp.CheckpointManager, step: int, abstract: Any) -> None:
        saved = _shapes(manager.item_metadata(step)[_STATE].tree)
        wanted = _shapes(abstract)
        if saved == wanted:
            return
        for path in sorted(saved.keys() | wanted.keys()):
            if saved.get(path) != wanted.get(path):
                raise RunError(
                    f'{manager.directory}/{step} was saved by another config or version: {path} is '
                    f'{saved.get(path, "absent")} there and {wanted.get(path, "absent")} in this run; use that '
                    'one, or another --workdir.'
                )


@dataclasses.dataclass(frozen=True)
class Best:
    """The best checkpoint of another run, or its last one; as text, it is that run's workdir.

    Arrays go by their paths in the run's state, such as ``variables/params/head/kernel``. Those below ``deployed`` are
    the variables of the networks alone, as the run evaluates them, such as ``deployed/network/params/head/kernel``. A
    run of version 0.1 has one network and no name for it, ``deployed/params/head/kernel``; one before has none.

    Attributes:
        workdir: of that run.
        last: read the last checkpoint, which holds the state alone.
    """

    workdir: str
    last: bool = False

    def networks(self) -> tuple[str, ...]:
        """Returns the names of the networks that the run has saved; none for a run of an earlier version.

        Raises:
            FileNotFoundError: there is no checkpoint.
        """
        return tuple(self._modules())

    def module(self, name: str) -> Any:
        """Returns the module of a network, made anew from the config node that the run has kept.

        Raises:
            ValueError: the run has not kept it.
            FileNotFoundError: there is no checkpoint.
        """
        modules = self._modules()
        if modules and name not in modules:
            raise ValueError(f'{self.workdir} has no network {name!r}, but {", ".join(modules)}: name one of these.')
        node = modules.get(name)
        if node is None:
            raise ValueError(
                f'{self.workdir} has kept no description of the network {name}: describe it, backbone and head, and '
                'use methods.start:Trained, or methods.start:Start around the task.'
            )
        return resolve(node, f'the network {name} of {self.workdir}')

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of all arrays by path; the arrays themselves are not read.

        Raises:
            FileNotFoundError: there is no checkpoint.
        """
        trees = [(prefix, _metadata(folder)) for prefix, folder in self._items().items()]
        return {prefix + path: tuple(leaf.shape) for prefix, tree in trees for path, leaf in by_path(tree).items()}

    def __call__(self, paths: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Returns the arrays of some paths, reading no others; of all by default.

        Raises:
            FileNotFoundError: there is no checkpoint.
        """
        arrays = {}
        for prefix, folder in self._items().items():
            tree = _metadata(folder)
            wanted = {path for path in by_path(tree) if paths is None or prefix + path in paths}
            if wanted:
                arrays |= {prefix + path: array for path, array in _restored(folder, tree, wanted).items()}
        return arrays

    def _modules(self) -> dict[str, Any]:
        # The last checkpoint has none of its own; the best one describes the same networks.
        file = dataclasses.replace(self, last=False)._step() / _MODULES / 'metadata'
        return json.loads(file.read_text()) if file.exists() else {}

    def _items(self) -> dict[str, pathlib.Path]:
        """Returns the folders of what is saved together, by what the paths in each begin with."""
        folders = {'': self._step() / _STATE, f'{_DEPLOYED}/': self._step() / _DEPLOYED}
        return {prefix: folder for prefix, folder in folders.items() if folder.is_dir()}

    @property
    def step(self) -> int:
        """The number of steps after which it was saved.

        Raises:
            FileNotFoundError: there is no checkpoint.
        """
        return int(self._step().name)

    def _step(self) -> pathlib.Path:
        folder = pathlib.Path(self.workdir).absolute() / ('checkpoints' if self.last else 'best')
        steps = sorted(int(path.name) for path in folder.glob('*') if path.name.isdigit())
        if not steps:
            raise FileNotFoundError(
                f'{folder} holds no checkpoint: train that run first, or name the workdir of another.'
            )
        return folder / str(steps[-1])

    def __str__(self) -> str:
        return self.workdir


def _quiet() -> None:
    """Orbax logs each stage of what it does, and each failure of a thread, which it raises as well."""
    logging.getLogger('absl').setLevel(logging.CRITICAL)


def _metadata(folder: pathlib.Path) -> Any:
    _quiet()
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.metadata(folder).item_metadata.tree


def _restored(folder: pathlib.Path, tree: Any, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the `wanted` arrays of a saved tree, by path."""
    keep = lambda key_path, leaf: leaf if path_of(key_path) in wanted else ocp.PLACEHOLDER
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(
            folder,
            item=jax.tree_util.tree_map_with_path(keep, tree),
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree),
        )
    return {path: array for path, array in by_path(restored).items() if path in wanted}


def quiet_failed_writes() -> None:
    """Silences what libraries print after a write has failed, for a program that reports the failure itself.

    When the first write of a checkpoint fails, Orbax closes the event loop that the other writes still report to;
    TensorStore and asyncio then print a traceback for each of those, and Python a warning for each that had not begun.
    """
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':
            before(unraisable)

    sys.unraisablehook = hook


def _manager(folder: pathlib.Path, keep: int, keep_every: int | None = None) -> ocp.CheckpointManager:
    policies = [LatestN(keep)] if keep_every is None else [LatestN(keep), EveryNSteps(keep_every)]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies), cleanup_tmp_directories=True
    )
    try:
        # Registered at once so that the metadata of a checkpoint can be read before it is restored.
        handlers = {name: ocp.StandardCheckpointHandler() for name in (_STATE, _DEPLOYED, _ORDER)}
        handlers[_MODULES] = ocp.JsonCheckpointHandler()
        return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)
    except OSError as error:
        raise RunError(f'the workdir cannot be written ({error}): choose a --workdir where you may write.') from error


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(path): f'{leaf.dtype}{list(leaf.shape)}' for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
