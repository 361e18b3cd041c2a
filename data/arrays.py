"""A split that is computed instead of read: arrays whose first axis is the example."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from longview.data.source import HostBatch, Source, Spec

# What a batch on the devices holds as it is.
TYPES = ('bool', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'float16', 'bfloat16', 'float32')


class Made(Source):
    """Random access to arrays that a function makes when they are first needed.

    Args:
        make: returns arrays by name, of equal length.
        num_classes: of the labels; None: there are no classes.
        whole: the arrays are those of a single example, and have no axis of examples.
    """

    def __init__(self, make: Callable[[], HostBatch], num_classes: int | None = None, whole: bool = False) -> None:
        self._make, self._num_classes, self._whole = make, num_classes, whole

    @functools.cached_property
    def memory(self) -> HostBatch:
        """All arrays, in the types of the batch.

        Raises:
            ValueError: they differ in length, there are none, or a batch would alter one.
        """
        arrays = {name: np.asarray(array) for name, array in self._make().items()}
        arrays = {name: array[None] if self._whole else array for name, array in arrays.items()}
        sizes = {name: len(array) if array.ndim else None for name, array in arrays.items()}
        if len(set(sizes.values())) != 1 or None in sizes.values() or 0 in sizes.values():
            raise ValueError(f'the arrays have lengths {sizes}; wanted one length, the number of examples, at least 1.')
        arrays = {name: carried(name, array) for name, array in arrays.items()}
        self._check_label(arrays.get('label'))
        return arrays

    def _check_label(self, label: np.ndarray | None) -> None:
        """Refuses a class that there is not; one below 0 is none, and ignored."""
        if label is not None and self._num_classes is not None and label.dtype.kind in 'iu':
            if label.max(initial=-1) >= self._num_classes:
                raise ValueError(
                    f'The data has the label {label.max()} and num_classes is {self._num_classes}: raise it.'
                )

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(next(iter(self.memory.values())))

    @property
    def spec(self) -> Spec:
        """See `Source`."""
        return {name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for name, array in self.memory.items()}

    @property
    def num_classes(self) -> int | None:
        """See `Source`."""
        return self._num_classes

    def rows(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> HostBatch:
        """See `Source`."""
        del seed, epoch
        return {name: array[index] for name, array in self.memory.items()}


def carried(name: str, array: np.ndarray) -> np.ndarray:
    """An array in the type that the batch holds it in: its own, or int32 for integers of 64 bits that all fit.

    NumPy makes integers of 64 bits where nothing else is said, and int32 holds most of them exactly. Doubles would be
    rounded, which is the data set's to decide.

    Raises:
        ValueError: a batch would alter it.
    """
    if array.dtype.name in TYPES:
        return array
    if array.dtype.kind in 'iu':
        limits = np.iinfo(np.int32)
        low, high = int(array.min(initial=0)), int(array.max(initial=0))
        if limits.min <= low and high <= limits.max:
            return array.astype(np.int32)
        raise ValueError(
            f'The column {name!r} of the data is {array.dtype} from {low} to {high}, which int32 does not hold: '
            'make it smaller, or floats.'
        )
    raise ValueError(
        f'The column {name!r} of the data is {array.dtype}, which a batch cannot hold: make it '
        f'{"float32" if array.dtype.kind == "f" else "one of " + ", ".join(TYPES)}.'
    )
