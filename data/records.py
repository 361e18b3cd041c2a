"""One split of a data set: its records as batches of host arrays."""

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
from numpy.typing import ArrayLike

from longview.data import features, keyed
from longview.data.decoding import Record, decode
from longview.data.folder import ImageFolder

HostBatch = dict[str, np.ndarray]

# Splits whose pixels fill no more than this many bytes are kept in memory unless the config says
# otherwise.
SMALL = 1 << 30


@runtime_checkable
class HostCrop(Protocol):
    """How a record becomes an image; data/images.py says what each member means."""

    draws: int
    keyed_read: bool

    def read(self, data: Record, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        """One record -> (size, size, channels)."""
        ...

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """(B, size, size, C) -> the same shape."""
        ...


# Step -> which examples its batch holds: vectors, epoch and index among them.
Selection = Callable[[int], HostBatch]

# Images that a thread reads at a time: Grain's overhead for an element is then nothing, and a batch
# is still spread over all threads.
_PIECE = 16


class Split:
    """Random access to the images and labels of a split.

    Args:
        builder: a prepared TFDS builder, or data/folder.py:ImageFolder, with features that
            data/features.py does not refuse.
        name: the split, slices allowed.
        crop: what makes a record an image.
        shape: (H, W, C) of the finished images, H = W.
        in_memory: keep all finished images; None: when they are small and the crop's reading is not
            random.
        threads: how many read and decode.

    Attributes:
        size: examples.
        image_type, label_type: of the arrays; the type that is stored, and int32 or float32.

    Raises:
        ValueError: the data set has no such split.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder | ImageFolder,
        name: str,
        crop: HostCrop,
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
        described = builder.info.features
        self.image_type = np.dtype(described['image'].np_dtype)
        self.label_type = features.label_type(described['label'])
        self.crop = crop
        self.in_memory = in_memory
        if in_memory is None:
            size_in_bytes = self.size * math.prod(shape) * self.image_type.itemsize
            self.in_memory = not crop.keyed_read and size_in_bytes <= SMALL
        self._builder, self._name, self._shape, self._threads = builder, name, shape, threads

    @functools.cached_property
    def _source(self) -> Any:
        encoded = features.is_encoded(self._builder.info.features['image'])
        decoders = {'image': tfds.decode.SkipDecoding()} if encoded else None
        return self._builder.as_data_source(self._name, decoders=decoders)

    def read(self, index: int, draws: np.ndarray) -> tuple[np.ndarray, np.number]:
        """Reads one example: image `shape` and label.

        Raises:
            ValueError: the record is damaged, or would be altered; the sentence names split and index.
        """
        example = {}
        try:
            example = self._source[index]
            return self._finish(example, draws)
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            file = f', {_text(example["file_name"])},' if 'file_name' in example else ''
            raise ValueError(
                f'Example {index} of the split {self._name!r} in {self._builder.data_dir}{file} cannot '
                f'be read ({_first_line(error)}); mend it (and prepare the data set again), or leave the example '
                'out with a slice of the split.'
            ) from error

    def _finish(self, example: dict, draws: np.ndarray) -> tuple[np.ndarray, np.number]:
        size, _, channels = self._shape
        record = example['image']
        if self.image_type != np.uint8:  # files that a crop does not decode by itself
            record = decode(record, channels, dtype=self.image_type)
        image = self.crop.read(record, size, channels, draws)
        if (image.shape, image.dtype) != (self._shape, self.image_type):
            raise ValueError(
                f'{self.crop} makes it {image.dtype} {image.shape}, wanted {self.image_type} {self._shape}'
            )
        return image, _exact(example['label'], self.label_type)

    def _read_many(self, indices: range) -> list[tuple[np.ndarray, np.number]]:
        """Several at once, 4 times as fast for tiny images; one by one on failure, to say where."""
        draws = np.zeros(self.crop.draws)
        try:
            return [self._finish(example, draws) for example in self._source.__getitems__(list(indices))]
        except (ValueError, OSError, RuntimeError, IndexError):
            return [self.read(index, draws) for index in indices]

    @functools.cached_property
    def memory(self) -> tuple[np.ndarray, np.ndarray]:
        """All images (N, H, W, C) and labels (N,), read once."""
        images = np.empty((self.size, *self._shape), self.image_type)
        labels = np.empty(self.size, self.label_type)
        threads = self._threads if self._shape[0] >= 64 else 1  # tiny images: threads would only fight for the GIL
        chunks = [range(start, min(start + 512, self.size)) for start in range(0, self.size, 512)]
        read = grain.MapDataset.source(chunks).map(self._read_many)
        with closing(iter(read.to_iter_dataset(_in_threads(threads)))) as examples:
            for index, (image, label) in enumerate(itertools.chain.from_iterable(examples)):
                images[index], labels[index] = image, label
        return images, labels

    def batches(self, selection: Selection, steps: range, seed: int) -> grain.IterDataset:
        """Batches of the examples selected for each step.

        Args:
            selection: step -> vectors, epoch and index of the batch's examples among them, int (b,), b the
                same for all steps.
            steps: which batches.
            seed: keys the augmentation, with epoch and index.

        Returns:
            Dicts: image (b, H, W, C) and label (b,) of `image_type` and `label_type`, epoch, index
            int32 (b,), and whatever else `selection` gave. Iterators have `close()`, which ends the reading threads.
        """
        read = self._gathered if self.in_memory else self._streamed
        return read(selection, steps, seed).map(self._finished)

    def _gathered(self, selection: Selection, steps: range, seed: int) -> grain.IterDataset:
        def gather(step: int) -> HostBatch:
            images, labels = self.memory
            batch = selection(step)
            index = batch['index']
            draws = keyed.uniforms(seed, batch['epoch'], index, self.crop.draws)
            return batch | {'image': images[index], 'label': labels[index], 'draws': draws}

        # In the caller's thread: several would only fight for the interpreter's lock.
        return grain.MapDataset.source(steps).map(gather).to_iter_dataset(_in_threads(0))

    def _streamed(self, selection: Selection, steps: range, seed: int) -> grain.IterDataset:
        selection = functools.lru_cache(maxsize=8)(selection)  # the pieces of a batch share it
        size = len(selection(steps[0])['index'])
        pieces = math.ceil(size / _PIECE)

        def read(number: int) -> HostBatch:
            step, piece = divmod(number, pieces)
            own = slice(piece * _PIECE, (piece + 1) * _PIECE)
            batch = {name: vector[own] for name, vector in selection(steps[step]).items()}
            draws = keyed.uniforms(seed, batch['epoch'], batch['index'], self.crop.draws)
            images, labels = zip(*map(self.read, batch['index'].tolist(), draws))
            return batch | {'image': np.stack(images), 'label': np.array(labels, self.label_type), 'draws': draws}

        numbers = grain.MapDataset.source(range(len(steps) * pieces))
        read_ahead = numbers.map(read).to_iter_dataset(_in_threads(self._threads))
        return read_ahead.batch(pieces, batch_fn=_joined)

    def _finished(self, batch: HostBatch) -> HostBatch:
        images, draws, labels = (batch[name] for name in ('image', 'draws', 'label'))
        vectors = {name: x for name, x in batch.items() if name not in ('image', 'draws', 'label')}
        vectors = {name: x if x.dtype == bool else x.astype(np.int32) for name, x in vectors.items()}
        return {'image': self.crop.adjust(images, draws), 'label': labels} | vectors


def _in_threads(threads: int) -> grain.ReadOptions:
    """Elements made by so many threads, twice as many begun ahead; 0 is in the caller's."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _joined(pieces: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _exact(label: ArrayLike, dtype: np.dtype) -> np.number:
    """The label as `dtype`; a double is rounded to float32.

    Raises:
        ValueError: it is out of range.
    """
    label = np.asarray(label)
    limits = np.iinfo(dtype) if dtype.kind == 'i' else np.finfo(dtype)
    if not limits.min <= label <= limits.max and np.isfinite(label):
        raise ValueError(f'its label {label} does not fit into {dtype}')
    return label.astype(dtype)[()]


def _text(name: bytes | str) -> str:
    return name.decode(errors='replace') if isinstance(name, bytes) else name


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
