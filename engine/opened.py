"""Finished runs, read again: what they trained, their best variables, and programs over their data."""

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from longview.engine.gather import Gather
from longview.engine.programs import modules_of, programs
from longview.kernels import dispatch
from longview.methods.objective import variables_of
from longview.methods.task import Batch, Network, Rows, Task, Variables, chain, read_given
from longview.runtime.checkpoint import Best
from longview.runtime.mesh import replicated, tree_shardings
from longview.runtime.plan import Plan, Run, read_run
from longview.trees import path_of


class OpenedRun:
    """A finished run; see `methods.computation.Opened`. To be used under ``jax.set_mesh(mesh)``.

    Args:
        workdir: of the run.
        mesh: where its variables are put.

    Raises:
        FileNotFoundError: the workdir holds no run.
        ConfigError, ValueError: its config makes no run any more.
    """

    def __init__(self, workdir: pathlib.Path, mesh: jax.sharding.Mesh):
        file = workdir / 'config.json'
        if not file.exists():
            raise FileNotFoundError(f'{workdir} holds no run (there is no config.json): name the workdir of one.')
        self.workdir, self.mesh = workdir, mesh
        self.run: Run = read_run(json.loads(file.read_text()), workdir.absolute().parent)[0]
        self.task: Task = self.run.task
        self.data = self.run.data

    @functools.cached_property
    def variables(self) -> Variables:
        """See `methods.computation.Opened`; what never changes, such as a teacher, is read or made anew."""
        shapes = self._abstract.variables
        read = Best(str(self.workdir))
        saved = {path: array for path, array in read(_wanted(read)).items()}
        prefix = 'variables/'
        place = lambda key_path, like: jax.make_array_from_callback(
            like.shape, like.sharding, functools.partial(np.ndarray.__getitem__, saved[prefix + path_of(key_path)])
        )
        kept = jax.tree_util.tree_map_with_path(place, {'params': shapes.params, 'state': shapes.state})
        return Variables(kept['params'], kept['state'], self._fixed())

    @functools.cached_property
    def networks(self) -> dict[str, Network]:
        """See `methods.computation.Opened`."""
        with self._ways():
            arrays = jax.jit(lambda v: variables_of(self.task.deployed(v)))(self.variables)
        modules = modules_of(self.task, self._abstract.variables)
        return {name: Network(modules[name], arrays[name]) for name in arrays}

    def gather(
        self, program: Callable[[Task, Variables, Batch], Rows], data: Any = None, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `methods.computation.Opened`."""
        data, size = data or self.data, batch_size or self.run.eval_batch_size or self.run.batch_size
        places = jax.tree.map(lambda array: array.sharding, self.variables)
        of_batch = lambda v, batch: program(self.task, v, batch)
        with self._ways():
            gather = Gather(of_batch, chain(self.run.eval_transforms), self.mesh, places, data, size)
            return gather(self.variables, self._rng)

    @functools.cached_property
    def _rng(self) -> jax.Array:
        return jax.jit(jax.random.key, out_shardings=replicated(self.mesh))(np.uint32(self.run.seed))

    @functools.cached_property
    def _programs(self) -> Any:
        plan = Plan.of(self.run, self.data.num_train)
        optimizer = self.run.optimizer(plan.steps, plan.steps_per_epoch, self.task.depth_of)
        with self._ways():
            return programs(self.run, optimizer.transform, self.mesh)

    @property
    def _abstract(self) -> Any:
        return self._programs.state

    def _fixed(self) -> Any:
        if not jax.tree.leaves(self._abstract.variables.fixed):
            return self._abstract.variables.fixed
        spec = self.data.batch_spec(self.run.batch_size, train=True)
        given = read_given(self.task, spec, chain(self.run.train_transforms), fixed_only=True)
        places = tree_shardings({**self._abstract._asdict(), 'given': given}, self.mesh, self.run.mesh)['given']
        part = lambda array, place: jax.make_array_from_callback(array.shape, place, lambda index: array[index])
        with self._ways():
            return jax.jit(lambda rng, given: self._programs.init(rng, given).variables.fixed)(
                self._rng, jax.tree.map(part, given, places)
            )

    def _ways(self) -> contextlib.ExitStack:
        """How the run computes: the precision of its products and its kernels."""
        stack = contextlib.ExitStack()
        stack.enter_context(jax.default_matmul_precision(self.run.matmul_precision))
        stack.enter_context(dispatch.prefer(**self.run.kernels))
        return stack


def _wanted(read: Best) -> set[str]:
    """Returns the paths of what a run has trained and of its state; not those of the optimizer."""
    return {path for path in read.shapes() if path.startswith(('variables/params/', 'variables/state/'))}
