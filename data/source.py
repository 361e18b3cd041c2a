"""A split as a data set sees it: examples by number, each with a value for every column, read as batches."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence

import grain
import jax
import numpy as np

HostBatch = dict[str, np.ndarray]

# Column -> shape and type of one example.
Spec = dict[str, jax.ShapeDtypeStruct]

# Step -> which examples its batch holds: vectors, `epoch` and `index` among them.
Selection = Callable[[int], HostBatch]

# Examples that a thread reads at a time: Grain's overhead for an element is then nothing, and a batch is still spread
# over all threads.
_PIECE = 16


class Source(abc.ABC):
    """A split. A subclass says what its rows are; this class makes batches of them.

    Attributes:
        size: number of examples.
        threads: how many read ahead, a piece of a batch each; 0 reads whole batches in the caller's thread, which is
            the fastest where all that is done is to pick rows of arrays in memory.
    """

    size: int
    threads: int = 0

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """The columns, and the shape and type of one example's value in each."""

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the labels; None if there are no classes."""
        return None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of their numbers; None if they are not known."""
        return None

    @abc.abstractmethod
    def rows(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> HostBatch:
        """Reads examples; a pure function, called from several threads.

        Args:
            seed: keys the augmentation, with epoch and index (data/keyed.py).
            epoch: int (b,), how often each example was seen before.
            index: int (b,), its number, below `size`.

        Returns:
            The columns of `spec`, each (b, ...).

        Raises:
            ValueError: an example cannot be read; the sentence names it.
        """

    def labels(self) -> np.ndarray:
        """The labels of all examples, (size, ...); a source that finds them without reading all else says how.

        Raises:
            ValueError: it has none.
        """
        if 'label' not in self.spec:
            raise ValueError(f'The data set has no column label, only {", ".join(self.spec)}.')
        starts = range(0, self.size, 1024)
        chunks = [np.arange(start, min(start + 1024, self.size)) for start in starts]
        return np.concatenate([self.rows(0, np.zeros_like(chunk), chunk)['label'] for chunk in chunks])

    def check(self) -> None:
        """Reads the first example, or raises an error that says what prevents it."""
        first = np.zeros(1, np.int64)
        self.rows(0, first, first)

    def batches(self, selection: Selection, steps: range, seed: int) -> grain.IterDataset:
        """Batches of the examples selected for each step.

        Args:
            selection: step -> vectors (b,), epoch and index of the batch's examples among them, b the same for all
                steps.
            steps: which batches.
            seed: see `rows`.

        Returns:
            Host batches: the columns, and the vectors of `selection`, integers among them as int32. Iterators have
            `close()`, which ends the reading threads.
        """

        def read(vectors: HostBatch) -> HostBatch:
            rows = self.rows(seed, vectors['epoch'], vectors['index'])
            return rows | {name: _narrow(vector) for name, vector in vectors.items()}

        if not self.threads:
            whole = grain.MapDataset.source(steps).map(lambda step: read(selection(step)))
            return whole.to_iter_dataset(in_threads(0))
        selection = functools.lru_cache(maxsize=8)(selection)  # the pieces of a batch share it
        pieces = math.ceil(len(selection(steps[0])['index']) / _PIECE)

        def read_piece(number: int) -> HostBatch:
            step, piece = divmod(number, pieces)
            part = slice(piece * _PIECE, (piece + 1) * _PIECE)
            return read({name: vector[part] for name, vector in selection(steps[step]).items()})

        numbers = grain.MapDataset.source(range(len(steps) * pieces))
        ahead = numbers.map(read_piece).to_iter_dataset(in_threads(self.threads))
        return ahead.batch(pieces, batch_fn=_joined)


def in_threads(threads: int) -> grain.ReadOptions:
    """Yields elements made by several threads, twice as many of them begun ahead; with 0, by the caller's thread."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _narrow(vector: np.ndarray) -> np.ndarray:
    return vector.astype(np.int32) if vector.dtype.kind in 'iu' else vector


def _joined(pieces: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
