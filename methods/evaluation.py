"""The programs of an evaluation: what a task measures, gathers and shows of one transformed batch.

runtime/evaluation.py goes over the split with them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Key

from longview.methods.task import Batch, Rows, Sums, Task, Transform, Variables


class Measured(NamedTuple):
    """What one batch gives to an evaluation.

    Attributes:
        sums: of `Task.measure`.
        rows: of `Task.rows`; those of padding are cut off on the host, by `mask`.
        mask: whether each row is an example.
    """

    sums: Sums
    rows: Rows
    mask: Bool[Array, ' b']


def make_measure(task: Task, transform: Transform) -> Callable[..., Measured]:
    """Returns ``(variables, batch, rng, ready=None) -> Measured``; `ready` is what `Task.prepare` returned."""

    def measure(v: Variables, batch: Batch, rng: Key[Array, ''], ready: Any = None) -> Measured:
        mask, batch = batch['mask'], transform({k: x for k, x in batch.items() if k != 'mask'}, rng)
        seen = {**batch, 'mask': mask}
        return Measured(task.measure(v, seen, ready, rng), task.rows(v, batch, ready), mask)

    return measure


def make_gather(task: Task, transform: Transform) -> Callable[..., tuple[Rows, Bool[Array, ' b']]]:
    """Returns ``(variables, batch, rng) -> (rows, mask)``, what `Task.gather` keeps of a batch."""

    def gather(v: Variables, batch: Batch, rng: Key[Array, '']) -> tuple[Rows, Bool[Array, ' b']]:
        return task.gather(v, transform({k: x for k, x in batch.items() if k != 'mask'}, rng)), batch['mask']

    return gather


def make_pictures(task: Task, transform: Transform) -> Callable[[Variables, Batch, Key[Array, '']], Rows]:
    """Returns ``(variables, batch, rng) -> pictures`` by name, one row per example."""
    return lambda v, batch, rng: task.pictures(v, transform({k: x for k, x in batch.items() if k != 'mask'}, rng))
