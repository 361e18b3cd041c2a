"""One evaluation of a run: a split is measured batch by batch, and its figures are computed once, on the host."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation split, and the programs that go over it.

    Attributes:
        prefix: of the figures' names, such as ``eval/``.
        data: its evaluation split is measured (input_pipeline.py).
        batch_size: rows of a batch.
        batches: how a batch lies on the devices.
        measure: ``(variables, batch, rng, ready) -> Measured`` (methods/evaluation.py).
        figures: ``(sums, rows) -> {name: value}``.
        prepare: ``(variables, gathered) -> ready``.
        support: its evaluation split is gathered from first; None for an evaluation that needs none.
        gather: ``(variables, batch, rng) -> (rows, mask)``.
    """

    prefix: str
    data: Any
    batch_size: int
    batches: jax.sharding.Sharding
    measure: Callable[..., Any]
    figures: Callable[..., dict[str, float]]
    prepare: Callable[..., Any]
    support: Any
    gather: Callable[..., Any]

    def __call__(self, variables: Any, rng: jax.Array) -> dict[str, float]:
        """Returns the figures of the whole split, and the number of its ``examples``."""
        ready = self.prepare(variables, self._gathered(variables, rng))
        sums, rows, count = None, [], 0
        with contextlib.closing(self.data.evaluate(self.batches, self.batch_size)) as batches:
            for batch in batches:
                measured = jax.device_get(self.measure(variables, batch, rng, ready))
                sums = added(sums, measured.sums)
                rows.append(cut(measured.rows, measured.mask))
                count += int(measured.mask.sum())
        return self._named({**self.figures(sums, joined(rows)), 'examples': count})

    def names(self, variables: Any, rng: jax.Array) -> list[str]:
        """Returns the names of the figures; nothing is computed on a device.

        Args:
            variables, rng: arrays or their shapes.
        """
        spec = self.data.batch_spec(self.batch_size, train=False)
        ready = jax.eval_shape(self.prepare, variables, self._gathered_shapes(variables, rng))
        shapes = jax.eval_shape(self.measure, variables, spec, rng, ready)
        sums = added(None, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes.sums))
        rows = {name: np.zeros((0, *s.shape[1:]), s.dtype) for name, s in shapes.rows.items()}
        with np.errstate(all='ignore'):
            return list(self._named(self.figures(sums, rows)))

    def _named(self, figures: dict[str, float]) -> dict[str, float]:
        return {f'{self.prefix}{name}': value for name, value in figures.items()}

    def _gathered(self, variables: Any, rng: jax.Array) -> dict[str, np.ndarray] | None:
        if self.support is None:
            return None
        rows = []
        with contextlib.closing(self.support.evaluate(self.batches, self.batch_size)) as batches:
            for batch in batches:
                rows.append(cut(*jax.device_get(self.gather(variables, batch, rng))))
        return joined(rows)

    def _gathered_shapes(self, variables: Any, rng: jax.Array) -> dict[str, jax.ShapeDtypeStruct] | None:
        if self.support is None:
            return None
        spec = self.support.batch_spec(self.batch_size, train=False)
        rows, _ = jax.eval_shape(self.gather, variables, spec, rng)
        count = self.support.num_eval
        return {name: jax.ShapeDtypeStruct((count, *s.shape[1:]), s.dtype) for name, s in rows.items()}


def added(total: Any, sums: Any) -> Any:
    """Returns `total`, None before the first batch, and the sums of a batch, in float64 and int64."""
    wide = jax.tree.map(lambda x: np.asarray(x, np.int64 if x.dtype.kind in 'iub' else np.float64), sums)
    return wide if total is None else jax.tree.map(np.add, total, wide)


def cut(rows: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the rows that are examples."""
    return {name: array[mask] for name, array in rows.items()}


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the rows of all batches as one array each."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
