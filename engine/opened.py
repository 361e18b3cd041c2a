"""Finished runs, opened again: their task, their best variables, and programs over their data."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from longview.engine.gather import Gather
from longview.engine.programs import Programs, evaluations, modules_of, programs
from longview.kernels import dispatch
from longview.methods.objective import variables_of
from longview.methods.task import Batch, Network, Rows, Task, Variables, chain, read_given
from longview.runtime.checkpoint import Best
from longview.runtime.mesh import make_mesh, replicated, tree_shardings
from longview.runtime.plan import Plan, Run, read_run
from longview.runtime.workdir import check_given, recorded
from longview.trees import path_of


class OpenedRun:
    """A finished run; see `methods.computation.Opened`. To be used under ``jax.set_mesh`` of its mesh.

    Args:
        workdir: of the run.
        mesh: where its variables are put; None is the run's own, of the devices that are here.
        config: in the place of the one that the workdir holds, such as that one with another data set.
        last: take the last checkpoint and not the best one.

    Raises:
        FileNotFoundError: the workdir holds no run.
        ConfigError, ValueError: its config makes no run any more.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        mesh: jax.sharding.Mesh | None = None,
        config: Mapping[str, Any] | None = None,
        last: bool = False,
    ):
        self.workdir, config = workdir, recorded(workdir) if config is None else config
        self.run: Run = read_run(config, workdir.absolute().parent)[0]
        self.mesh = make_mesh(self.run.mesh) if mesh is None else mesh
        self.task: Task = self.run.task
        self.data = self.run.data
        self._read = Best(str(workdir), last)

    @functools.cached_property
    def variables(self) -> Variables:
        """See `methods.computation.Opened`; what never changes, such as a teacher, is read or made anew."""
        shapes = self._abstract.variables
        saved = self._read(_wanted(self._read))
        self._check(saved, shapes)
        prefix = 'variables/'
        place = lambda key_path, like: jax.make_array_from_callback(
            like.shape, like.sharding, functools.partial(np.ndarray.__getitem__, saved[prefix + path_of(key_path)])
        )
        kept = jax.tree_util.tree_map_with_path(place, {'params': shapes.params, 'state': shapes.state})
        return Variables(kept['params'], kept['state'], self._fixed())

    def _check(self, saved: Mapping[str, np.ndarray], shapes: Variables) -> None:
        """Raises ValueError where the config makes other variables than the checkpoint holds."""
        for key_path, like in jax.tree_util.tree_leaves_with_path({'params': shapes.params, 'state': shapes.state}):
            path = f'variables/{path_of(key_path)}'
            found = saved[path].shape if path in saved else 'absent'
            if found != like.shape:
                raise ValueError(
                    f'{path} is {found} in the checkpoint of {self.workdir} and {like.shape} by the config: leave the '
                    'task and the number of classes as they were.'
                )

    @property
    def step(self) -> int:
        """The number of steps after which the checkpoint was saved."""
        return self._read.step

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
    def _programs(self) -> Programs:
        plan = Plan.of(self.run, self.data.num_train)
        optimizer = self.run.optimizer(plan.steps, plan.steps_per_epoch, self.task.depth_of)
        with self._ways():
            return programs(self.run, optimizer.transform, self.mesh)

    def gives(self, name: str, axes: int) -> bool:
        """Whether the task predicts something of a name with so many axes, for batches of the evaluation split."""
        transform = chain(self.run.eval_transforms)
        spec = self.data.batch_spec(self.run.batch_size, train=False)
        predict = lambda v, batch, rng: self.task.predict(v, transform(batch, rng))
        key = jax.eval_shape(jax.random.key, 0)
        with self._ways():
            found = jax.eval_shape(predict, self._abstract.variables, spec, key)
        return name in found and found[name].ndim == axes

    def evaluate(self) -> dict[str, float]:
        """Returns the figures of all evaluations of the run."""
        with self._ways():
            found = {}
            for _, each in evaluations(self.run, self._programs, self.mesh):
                found |= each(self.variables, self._rng)
        return found

    @property
    def _abstract(self) -> Any:
        return self._programs.state

    def _fixed(self) -> Any:
        if not jax.tree.leaves(self._abstract.variables.fixed):
            return self._abstract.variables.fixed
        spec = self.data.batch_spec(self.run.batch_size, train=True)
        given = read_given(self.task, spec, chain(self.run.train_transforms), fixed_only=True)
        check_given(self.workdir, given._asdict())
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
