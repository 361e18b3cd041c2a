"""One split of a data set: its records as batches of host arrays."""

from __future__ import annotations

import functools
import itertools
import math
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import ArrayLike

from longview.data import features, keyed
from longview.data.decoding import Record, decode
from longview.data.indexed import Indexed
from longview.data.source import HostBatch, Source, Spec, in_threads

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


class Split(Source):
    """Random access to the images and labels of a split.

    Args:
        builder: a prepared TFDS builder, or data/indexed.py:Indexed, with features that
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
        builder: tfds.core.DatasetBuilder | Indexed,
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
        self.threads = 0 if self.in_memory else threads
        self._builder, self._name, self._shape, self._threads = builder, name, shape, threads

    @property
    def spec(self) -> Spec:
        """See `Source`."""
        return {
            'image': jax.ShapeDtypeStruct(self._shape, self.image_type),
            'label': jax.ShapeDtypeStruct((), self.label_type),
        }

    @property
    def num_classes(self) -> int | None:
        """Classes of the label; None of a label that is a number."""
        return getattr(self._builder.info.features['label'], 'num_classes', None)

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
        with closing(iter(read.to_iter_dataset(in_threads(threads)))) as examples:
            for index, (image, label) in enumerate(itertools.chain.from_iterable(examples)):
                images[index], labels[index] = image, label
        return images, labels

    def check(self) -> None:
        """See `Source`; of a split kept in memory, too, one example alone is read."""
        self.read(0, np.full(self.crop.draws, 0.5))

    def rows(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> HostBatch:
        """See `Source`."""
        draws = keyed.uniforms(seed, epoch, index, self.crop.draws)
        if self.in_memory:
            images, labels = (array[index] for array in self.memory)
        else:
            images, labels = zip(*map(self.read, index.tolist(), draws))
            images, labels = np.stack(images), np.array(labels, self.label_type)
        return {'image': self.crop.adjust(images, draws), 'label': labels}


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
