"""One split of a TFDS data set: its records as batches of host arrays."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
import tensorflow_datasets as tfds

from longview.data import keyed
from longview.data.images import Record

HostBatch = dict[str, np.ndarray]

# Splits whose pixels fill no more than this many bytes are kept in memory unless the config says
# otherwise.
SMALL = 1 << 30


@runtime_checkable
class Crop(Protocol):
    """How a record becomes an image; data/images.py says what each member means."""

    draws: int
    keyed_read: bool

    def read(self, data: Record, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        """One record -> uint8 (size, size, channels)."""
        ...

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, C) -> the same shape."""
        ...


Rows = Callable[[int], HostBatch]

# Images that a thread reads at a time: Grain's overhead for an element is then nothing, and a batch
# is still spread over all threads.
_PIECE = 16


class Split:
    """Random access to the images and labels of a split.

    Args:
        builder: a prepared TFDS builder with the features 'image' and 'label'.
        name: the split, slices allowed.
        crop: what makes a record an image.
        shape: (H, W, C) of the finished images, H = W.
        in_memory: keep all finished images; None: when they are small and the crop's reading is not
            random.
        threads: how many read and decode.

    Raises:
        ValueError: the data set has no such split.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        name: str,
        crop: Crop,
        shape: tuple[int, int, int],
        in_memory: bool | None,
        threads: int,
    ) -> None:
        splits = builder.info.splits
        if name.split('[')[0] not in splits:
            raise ValueError(f'The data set {builder.name!r} has no split {name!r}; it has {", ".join(splits)}.')
        try:
            self.size = splits[name].num_examples
        except ValueError:
            raise ValueError(
                f"{name!r} is no slice of a split; write it like 'train[:90%]' or 'train[100:]'."
            ) from None
        self.crop = crop
        self.in_memory = in_memory
        if in_memory is None:
            self.in_memory = not crop.keyed_read and self.size * math.prod(shape) <= SMALL
        self._builder, self._name, self._shape, self._threads = builder, name, shape, threads

    @functools.cached_property
    def _source(self) -> Any:
        encoded = isinstance(self._builder.info.features['image'], tfds.features.Image)
        decoders = {'image': tfds.decode.SkipDecoding()} if encoded else None
        return self._builder.as_data_source(self._name, decoders=decoders)

    def read(self, index: int, draws: np.ndarray) -> tuple[np.ndarray, int]:
        """Reads one example: image uint8 `shape` and label.

        Raises:
            ValueError: the record is damaged; the sentence names split and index.
        """
        try:
            return self._finish(self._source[index], draws)
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            raise ValueError(
                f'Example {index} of the split {self._name!r} in {self._builder.data_dir} cannot '
                f'be read ({_first_line(error)}); prepare the data set again, or leave the example '
                'out with a slice of the split.'
            ) from error

    def _finish(self, example: dict, draws: np.ndarray) -> tuple[np.ndarray, int]:
        size, _, channels = self._shape
        return self.crop.read(example['image'], size, channels, draws), example['label']

    def _read_many(self, indices: range) -> list[tuple[np.ndarray, int]]:
        """Several at once, 4 times as fast for tiny images; one by one on failure, to say where."""
        draws = np.zeros(self.crop.draws)
        try:
            return [self._finish(example, draws) for example in self._source.__getitems__(list(indices))]
        except (ValueError, OSError, RuntimeError, IndexError):
            return [self.read(index, draws) for index in indices]

    @functools.cached_property
    def memory(self) -> tuple[np.ndarray, np.ndarray]:
        """All images uint8 (N, H, W, C) and labels int32 (N,), read once."""
        images = np.empty((self.size, *self._shape), np.uint8)
        labels = np.empty(self.size, np.int32)
        threads = self._threads if self._shape[0] >= 64 else 1  # tiny images: threads would only fight for the GIL
        chunks = [range(start, min(start + 512, self.size)) for start in range(0, self.size, 512)]
        read = grain.MapDataset.source(chunks).map(self._read_many)
        with closing(iter(read.to_iter_dataset(_in_threads(threads)))) as examples:
            for index, (image, label) in enumerate(itertools.chain.from_iterable(examples)):
                images[index], labels[index] = image, label
        return images, labels

    def batches(self, rows: Rows, steps: range, seed: int) -> grain.IterDataset:
        """Batches of the rows planned for each step.

        Args:
            rows: step -> vectors of the batch's rows, epoch and index among them, int (b,), b the
                same for all steps.
            steps: which batches.
            seed: keys the augmentation, with epoch and index.

        Returns:
            Dicts: image uint8 (b, H, W, C), label, epoch, index int32 (b,), and whatever else
            `rows` gave. Iterators have `close()`, which ends the reading threads.
        """
        read = self._gathered if self.in_memory else self._streamed
        return read(rows, steps, seed).map(self._finished)

    def _gathered(self, rows: Rows, steps: range, seed: int) -> grain.IterDataset:
        def gather(step: int) -> HostBatch:
            images, labels = self.memory
            batch = rows(step)
            index = batch['index']
            draws = keyed.uniforms(seed, batch['epoch'], index, self.crop.draws)
            return batch | {'image': images[index], 'label': labels[index], 'draws': draws}

        # In the caller's thread: several would only fight for the interpreter's lock.
        return grain.MapDataset.source(steps).map(gather).to_iter_dataset(_in_threads(0))

    def _streamed(self, rows: Rows, steps: range, seed: int) -> grain.IterDataset:
        rows = functools.lru_cache(maxsize=8)(rows)  # the pieces of a batch share its plan
        size = len(rows(steps[0])['index'])
        pieces = math.ceil(size / _PIECE)

        def read(number: int) -> HostBatch:
            step, piece = divmod(number, pieces)
            own = slice(piece * _PIECE, (piece + 1) * _PIECE)
            batch = {name: vector[own] for name, vector in rows(steps[step]).items()}
            draws = keyed.uniforms(seed, batch['epoch'], batch['index'], self.crop.draws)
            images, labels = zip(*map(self.read, batch['index'].tolist(), draws))
            return batch | {'image': np.stack(images), 'label': np.array(labels), 'draws': draws}

        numbers = grain.MapDataset.source(range(len(steps) * pieces))
        read_ahead = numbers.map(read).to_iter_dataset(_in_threads(self._threads))
        return read_ahead.batch(pieces, batch_fn=_joined)

    def _finished(self, batch: HostBatch) -> HostBatch:
        vectors = {name: x for name, x in batch.items() if name not in ('image', 'draws')}
        vectors = {name: x if x.dtype == bool else x.astype(np.int32) for name, x in vectors.items()}
        return {'image': self.crop.adjust(batch['image'], batch['draws'])} | vectors


def _in_threads(threads: int) -> grain.ReadOptions:
    """Elements made by so many threads, twice as many begun ahead; 0 is in the caller's."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _joined(pieces: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
