"""Runs a program over all examples of an evaluation split, and collects its answers on the host, in order."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from longview.engine.programs import columns, forward
from longview.methods.task import Batch, Rows, Transform, Variables
from longview.runtime.evaluation import cut, joined
from longview.runtime.mesh import batch_sharding, replicated


class Gather:
    """Compiles a program once, and runs it over a split as often as it is called.

    Args:
        program: ``(variables, batch) -> arrays by name``, one row an example.
        transform: what batches pass before.
        mesh: the devices.
        places: where the variables lie.
        data: the data set; its evaluation split is gone over.
        batch_size: rows of a batch.
    """

    def __init__(
        self,
        program: Callable[[Variables, Batch], Rows],
        transform: Transform,
        mesh: jax.sharding.Mesh,
        places: Any,
        data: Any,
        batch_size: int,
    ):
        def of_batch(v: Variables, batch: Batch, rng: jax.Array) -> tuple[Rows, jax.Array]:
            seen = {name: column for name, column in batch.items() if name != 'mask'}
            return program(v, transform(seen, rng)), batch['mask']

        self._data, self._batch_size = data, batch_size
        self._batches = batch_sharding(mesh, data.whole, data.sequences)
        self._run = forward(of_batch, mesh, places, columns(mesh, data, batch_size), replicated(mesh))

    def check(self, variables: Variables) -> None:
        """Traces the program, so that its errors appear now; only the shapes of the variables matter."""
        spec = self._data.batch_spec(self._batch_size, train=False)
        self._run.trace(variables, spec, jax.eval_shape(jax.random.key, 0))

    def __call__(self, variables: Variables, rng: jax.Array) -> dict[str, np.ndarray]:
        """Returns the rows of all examples, the same on every process."""
        with contextlib.closing(self._data.evaluate(self._batches, self._batch_size)) as split:
            return joined([cut(*jax.device_get(self._run(variables, batch, rng))) for batch in split])
