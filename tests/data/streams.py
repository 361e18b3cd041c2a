"""Data sets made of arrays, and their batches on the host."""

import contextlib
import itertools
from collections.abc import Iterable

import grain
import jax
import numpy as np

from longview.data.dataset import DataSet
from longview.input_pipeline import Arrays

Batches = list[dict[str, np.ndarray]]


def classified(*sizes: int, start: int = 0, extra: str | None = None, dtype: type = np.int32) -> Arrays:
    """Examples of classes of these sizes, class by class; the column `what` numbers them from `start` on.

    The evaluation split has three of each class that has examples.
    """

    def split(counts: Iterable[int]) -> dict[str, np.ndarray]:
        label = np.repeat(np.arange(len(sizes)), list(counts)).astype(np.int32)
        arrays = {'what': np.arange(start, start + len(label)).astype(dtype), 'label': label}
        return arrays | ({extra: np.ones((len(label), 2), np.float32)} if extra else {})

    return Arrays(lambda: split(sizes), lambda: split(3 * bool(n) for n in sizes), num_classes=len(sizes), prefetch=0)


def first(
    data: DataSet, count: int, batch_size: int, seed: int = 0, start: int = 0, own: np.ndarray | None = None
) -> Batches:
    """The first batches of training from a step on; `own` are the rows of a process."""
    rows = np.arange(batch_size) if own is None else own
    return _listed(data.host_train(rows, batch_size, seed, start), count)


def evaluation(data: DataSet, batch_size: int, own: np.ndarray | None = None) -> Batches:
    """All batches of an evaluation."""
    return _listed(data.host_evaluate(np.arange(batch_size) if own is None else own, batch_size), None)


def _listed(hosts: grain.IterDataset, count: int | None) -> Batches:
    with contextlib.closing(iter(hosts)) as batches:
        return list(itertools.islice(batches, count))


def joined(batches: Batches) -> dict[str, np.ndarray]:
    """The rows of batches, one behind the other."""
    return jax.tree.map(lambda *x: np.concatenate(x), *batches)
