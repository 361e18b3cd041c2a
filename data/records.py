"""One split of a TFDS data set: its records as batches of host arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
import functools
import itertools
import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds

from data import keyed
from data.images import Record

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


def ordered_map(function: Callable, items: Iterable, threads: int, ahead: int) -> Iterator:
    """`map` over a pool of threads: results in order, at most `ahead` of them begun before they are
    asked for.

    Closing the generator cancels what has not begun and waits for what has. (Grain's thread
    prefetch does the same at 6 times the overhead per example, and leaves its threads behind for a
    while.)
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix='images')
    try:
        items = iter(items)
        pending = deque(pool.submit(function, item) for item in itertools.islice(items, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
            raise ValueError(
                f'The data set {builder.name!r} has no split {name!r}; it has {", ".join(splits)}.'
            )
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
            return [
                self._finish(example, draws) for example in self._source.__getitems__(list(indices))
            ]
        except (ValueError, OSError, RuntimeError, IndexError):
            return [self.read(index, draws) for index in indices]

    @functools.cached_property
    def memory(self) -> tuple[np.ndarray, np.ndarray]:
        """All images uint8 (N, H, W, C) and labels int32 (N,), read once."""
        images = np.empty((self.size, *self._shape), np.uint8)
        labels = np.empty(self.size, np.int32)
        threads = (
            self._threads if self._shape[0] >= 64 else 1
        )  # tiny images: threads would only fight for the GIL
        chunks = [range(start, min(start + 512, self.size)) for start in range(0, self.size, 512)]
        for chunk, examples in zip(
            chunks, ordered_map(self._read_many, chunks, threads, 2 * threads)
        ):
            for index, (image, label) in zip(chunk, examples, strict=True):
                images[index], labels[index] = image, label
        return images, labels

    def batches(
        self, plan: Iterable[tuple[np.ndarray, np.ndarray]], seed: int
    ) -> Iterator[HostBatch]:
        """Batches of the planned rows.

        Args:
            plan: (epoch, index) of each batch, int (b,).
            seed: keys the augmentation, with epoch and index.

        Returns:
            A generator of dicts: image uint8 (b, H, W, C), label, epoch, index int32 (b,).
        """
        with closing(
            self._gathered(plan, seed) if self.in_memory else self._streamed(plan, seed)
        ) as batches:
            for images, labels, epoch, index, draws in batches:
                vectors = {'label': labels, 'epoch': epoch, 'index': index}
                yield {'image': self.crop.adjust(images, draws)} | {
                    name: np.asarray(values, np.int32) for name, values in vectors.items()
                }

    def _gathered(self, plan: Iterable, seed: int) -> Iterator[tuple]:
        images, labels = self.memory
        for epoch, index in plan:
            draws = keyed.uniforms(seed, epoch, index, self.crop.draws)
            yield images[index], labels[index], epoch, index, draws

    def _streamed(self, plan: Iterable, seed: int) -> Iterator[tuple]:
        drawn = ((*rows, keyed.uniforms(seed, *rows, self.crop.draws)) for rows in plan)
        ahead, now = itertools.tee(drawn)
        items = (item for _, index, draws in ahead for item in zip(index.tolist(), draws))
        with closing(
            ordered_map(lambda item: self.read(*item), items, self._threads, 16 * self._threads)
        ) as read:
            for epoch, index, draws in now:
                images, labels = zip(*itertools.islice(read, len(index)))
                yield np.stack(images), labels, epoch, index, draws


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
