"""Orders of examples that follow from a run's own state (methods/order.py): when they are made, and what is saved."""

import math

import jax
import numpy as np
from jax.experimental import multihost_utils

from longview.data.permuted import Permuted
from longview.engine.gather import Gather
from longview.methods.task import Variables, chain
from longview.runtime.mesh import replicated
from longview.runtime.plan import Run


class Orders:
    """The data of a run, as each of its steps sees them.

    Args:
        run: with an `order` or without.
        mesh: the devices.
        variables: their shapes, with their places.
        saved: what a checkpoint holds of it, if the run goes on; see `saved`.
    """

    def __init__(self, run: Run, mesh: jax.sharding.Mesh, variables: Variables, saved: dict[str, np.ndarray] | None):
        self.data, self.saved = run.data, None
        self._run, self._mesh = run, mesh
        if run.order is None:
            return
        if run.order.data.num_eval != run.data.num_train:
            raise ValueError(
                f'config.order.data has {run.order.data.num_eval} examples in its evaluation split and the run trains '
                f'on {run.data.num_train}: give the same data with the training split as eval_split.'
            )
        look = lambda v, batch: run.order.look(run.task, v, batch)
        size = run.eval_batch_size or run.batch_size
        places = jax.tree.map(lambda shape: shape.sharding, variables)
        self._gather = Gather(look, chain(run.eval_transforms), mesh, places, run.order.data, size)
        self._gather.check(variables)
        if saved is not None and int(saved['step']) > 0:
            self._use(np.asarray(saved['permutation']), int(saved['step']))
        else:
            self._note(np.arange(run.data.num_train), 0)

    def due(self, step: int) -> bool:
        """Whether another order begins with this step."""
        return self._run.order is not None and step > 0 and step % self._run.order.every == 0

    def renew(self, step: int, variables: Variables, rng: jax.Array) -> None:
        """Makes the order that begins with this step; all processes take that of the first one."""
        rows = self._gather(variables, rng)
        arranged = self._run.order.arrange(rows, np.random.default_rng((self._run.seed, step)))
        self._use(np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(arranged, np.int32))), step)

    def _use(self, permutation: np.ndarray, step: int) -> None:
        size, count, every = self._run.batch_size, self._run.data.num_train, self._run.order.every
        passes = math.ceil(every * size / count)
        self.data = Permuted(self._run.data, permutation, step * size, step // every * passes)
        self._note(permutation, step)

    def _note(self, permutation: np.ndarray, step: int) -> None:
        tree = {'permutation': permutation.astype(np.int32), 'step': np.int32(step)}
        self.saved = jax.device_put(tree, replicated(self._mesh))
