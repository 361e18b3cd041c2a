"""A split that is made rather than read: arrays whose first axis is the example, as batches."""

from __future__ import annotations

import functools
from collections.abc import Callable

import grain
import numpy as np

HostBatch = dict[str, np.ndarray]


class Made:
    """Random access to arrays that a function makes when they are first needed.

    Args:
        make: returns arrays by name, of equal length.
    """

    def __init__(self, make: Callable[[], HostBatch]) -> None:
        self._make = make

    @functools.cached_property
    def memory(self) -> HostBatch:
        """All arrays.

        Raises:
            ValueError: they differ in length, or there are none.
        """
        arrays = self._make()
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f'the arrays have lengths {sizes}; wanted one length, the number of examples.')
        return arrays

    @property
    def size(self) -> int:
        """Examples."""
        return len(next(iter(self.memory.values())))

    def batches(self, selection: Callable[[int], HostBatch], steps: range, seed: int) -> grain.IterDataset:
        """Batches of the examples selected for each step, as `Split.batches` of data/records.py."""
        del seed

        def gather(step: int) -> HostBatch:
            batch = selection(step)
            found = {name: array[batch['index']] for name, array in self.memory.items()}
            kinds = {name: bool if x.dtype == bool else np.int32 for name, x in batch.items()}
            return found | {name: x.astype(kinds[name]) for name, x in batch.items()}

        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        return grain.MapDataset.source(steps).map(gather).to_iter_dataset(options)
