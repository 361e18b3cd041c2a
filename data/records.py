"""One split of a data set: its records as batches of host arrays."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from longview.data import keyed
from longview.data.column import Column, exact
from longview.data.columns import channels_of
from longview.data.decoding import Record, sized
from longview.data.features import check_features
from longview.data.geometry import Geometry, Size
from longview.data.images import Crop
from longview.data.indexed import Examples, Indexed
from longview.data.source import HostBatch, Source, Spec, in_threads

# Splits whose columns (single numbers apart) fill no more than this many bytes are kept in memory unless the config
# says otherwise.
SMALL = 1 << 30


@runtime_checkable
class HostCrop(Protocol):
    """How a record becomes an image; data/images.py says what each member means."""

    draws: int
    keyed_read: bool

    def read(self, data: Record, size: int | Size, channels: int, draws: np.ndarray) -> np.ndarray:
        """One record -> (height, width, channels)."""
        ...

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """(B, height, width, C) -> the same shape."""
        ...


class Split(Source):
    """Random access to the examples of a split.

    Args:
        builder: a prepared TFDS builder, or data/indexed.py:Indexed.
        name: the split, slices allowed.
        columns: what is read of each record.
        crop: what makes a record's image one of the size wanted.
        size: (height, width) of the finished images; None where there are none.
        in_memory: keep all examples as they are before the crop's `adjust`; None: when they are small and the crop's
            reading is not random.
        threads: how many read and decode.
        padded: give the column `image_valid`.

    Raises:
        ValueError: the data set has no such split, or a column does not fit it.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder | Indexed,
        name: str,
        columns: Mapping[str, Column],
        crop: HostCrop,
        size: Size | None,
        in_memory: bool | None,
        threads: int,
        padded: bool = False,
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
        self._builder, self._name, self._columns, self._size = builder, name, columns, size
        self._places = check_features(builder.info.features, builder.name, columns, crop, size)
        if padded and not isinstance(crop, Crop):
            raise ValueError(
                f'image_valid says where the image is, and {crop} does not: make it a Crop of data/images.py.'
            )
        self._padded = padded
        self._follows = padded or any(column.follows for name, column in columns.items() if name != 'image')
        self.in_memory = in_memory
        if in_memory is None:
            values = [x for x in self._kept.values() if x.shape]
            size_in_bytes = self.size * sum(math.prod(x.shape) * x.dtype.itemsize for x in values)
            self.in_memory = not crop.keyed_read and size_in_bytes <= SMALL
        self._threads, self.threads = threads, 0 if self.in_memory else threads

    @functools.cached_property
    def spec(self) -> Spec:
        """See `Source`."""
        return self._specs('spec')

    @functools.cached_property
    def _kept(self) -> Spec:
        """What is read of one example, before the crop's `adjust`."""
        return self._specs('kept')

    @functools.cached_property
    def _own(self) -> dict[str, list[str]]:
        """What is read for each column."""
        return {name: list(column.kept(self._places[name])) for name, column in self._columns.items()}

    def _specs(self, which: str) -> Spec:
        parts = [getattr(column, which)(self._places[name]) for name, column in self._columns.items()]
        if self._padded:
            parts.append({'image_valid': jax.ShapeDtypeStruct(self._size, np.dtype(np.bool_))})
        names = list(itertools.chain.from_iterable(parts))
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f'Two columns of the data set {self._builder.name!r} give {twice[0]!r}: rename one.')
        return {name: x for part in parts for name, x in part.items()}

    @property
    def num_classes(self) -> int | None:
        """Classes of the column `label`, else of `map`, else of `boxes`, else of the first that has any."""
        first = ('label', 'map', 'boxes')
        in_order = sorted(self._columns, key=lambda name: (first.index(name) if name in first else len(first), name))
        names = ['label'] if 'label' in self._columns else in_order
        classes = (self._columns[name].num_classes_at(self._places[name]) for name in names)
        return next((number for number in classes if number is not None), None)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `Source`; of the column `label`."""
        return self._places['label'].field.class_names if 'label' in self._columns else None

    @functools.cached_property
    def _source(self) -> Any:
        described = self._builder.info.features
        files = [name for name, feature in described.items() if isinstance(feature, tfds.features.Image)]
        decoders = {name: tfds.decode.SkipDecoding() for name in files}
        return self._builder.as_data_source(self._name, decoders=decoders or None)

    def read(self, index: int, draws: np.ndarray) -> HostBatch:
        """Reads one example, as it is before the crop's `adjust`.

        Raises:
            ValueError: the record is damaged, or would be altered; the sentence names split and index.
        """
        example = {}
        try:
            example = self._source[index]
            return self._read(example, draws)
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            file = f', {_text(example["file_name"])},' if 'file_name' in example else ''
            raise ValueError(
                f'Example {index} of the split {self._name!r} in {self._builder.data_dir}{file} cannot '
                f'be read ({_first_line(error)}); mend it (and prepare the data set again), or leave the example '
                'out with a slice of the split.'
            ) from error

    def _read(self, example: Mapping[str, Any], draws: np.ndarray) -> HostBatch:
        read, geometry = {}, None
        if 'image' in self._columns:
            read['image'], geometry = self._read_image(example, draws)
        if self._padded:
            read['image_valid'] = geometry.valid()
        for name, column in self._columns.items():
            if name != 'image':
                read |= column.read(self._places[name], example, geometry)
        for name, value in read.items():
            want = self._kept[name]
            if (value.shape, value.dtype) != (want.shape, want.dtype):
                what = f'{self.crop} makes it' if name == 'image' else f'its {name} is'
                raise ValueError(f'{what} {value.dtype} {value.shape}, wanted {want.dtype} {want.shape}')
        return read

    def _read_image(self, example: Mapping[str, Any], draws: np.ndarray) -> tuple[np.ndarray, Geometry | None]:
        """The image, and the geometry that the crop has drawn for it, where somebody follows it."""
        place, geometry = self._places['image'], None
        record, channels = self._columns['image'].record(place, example), channels_of(place.field)
        if self._follows:
            record, source = sized(record, channels)
            geometry = self.crop.geometry(source, self._size, draws)
        height, width = self._size
        return self.crop.read(record, height if height == width else self._size, channels, draws), geometry

    def _read_many(self, indices: range) -> list[HostBatch]:
        """Several at once, 4 times as fast for tiny images; one by one on failure, to say where."""
        draws = np.zeros(self.crop.draws)
        try:
            return [self._read(example, draws) for example in self._source.__getitems__(list(indices))]
        except (ValueError, OSError, RuntimeError, IndexError):
            return [self.read(index, draws) for index in indices]

    @functools.cached_property
    def memory(self) -> HostBatch:
        """All examples as they are before the crop's `adjust`, (N, ...), read once."""
        memory = {name: np.empty((self.size, *x.shape), x.dtype) for name, x in self._kept.items()}
        # Tiny images: threads would only fight for the interpreter's lock.
        threads = self._threads if self._size is not None and self._size[0] >= 64 else 1
        chunks = [range(start, min(start + 512, self.size)) for start in range(0, self.size, 512)]
        read = grain.MapDataset.source(chunks).map(self._read_many)
        with closing(iter(read.to_iter_dataset(in_threads(threads)))) as examples:
            for index, example in enumerate(itertools.chain.from_iterable(examples)):
                for name, value in example.items():
                    memory[name][index] = value
        return memory

    def check(self) -> None:
        """See `Source`; of a split kept in memory, too, one example alone is read."""
        self.read(0, np.full(self.crop.draws, 0.5))

    def labels(self) -> np.ndarray:
        """See `Source`; no image is decoded for it."""
        column, place = self._columns.get('label'), self._places.get('label')
        if column is None or column.follows:
            return super().labels()
        if self.in_memory:
            return self.memory['label']
        if isinstance(self._source, Examples) and place.field.path == 'label':
            return exact('label', self._source.labels, self.spec['label'].dtype)
        labels = (column.read(place, self._source[index], None)['label'] for index in range(self.size))
        return np.stack(list(labels))

    def rows(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> HostBatch:
        """See `Source`."""
        draws = keyed.uniforms(seed, epoch, index, self.crop.draws)
        if self.in_memory:
            read = {name: array[index] for name, array in self.memory.items()}
        else:
            examples = [self.read(*row) for row in zip(index.tolist(), draws)]
            read = {name: np.stack([example[name] for example in examples]) for name in self._kept}
        return self._finish(read, draws)

    def _finish(self, read: HostBatch, draws: np.ndarray) -> HostBatch:
        """What `read` returned, a batch of it, as the columns."""
        finished, moves = {}, self.crop.moves(draws) if self._follows else None
        if 'image' in self._columns:
            read['image'] = self.crop.adjust(read['image'], draws)
        if self._padded:
            valid = read['image_valid']
            finished['image_valid'] = valid if moves is None else moves.pixels(valid, False)
        for name, column in self._columns.items():
            own = {key: read[key] for key in self._own[name]}
            finished |= column.finish(self._places[name], own, None if name == 'image' else moves)
        return finished


def _text(name: bytes | str) -> str:
    return name.decode(errors='replace') if isinstance(name, bytes) else name


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
