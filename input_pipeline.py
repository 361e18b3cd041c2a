"""Data sets as batches on the mesh.

A config names one object, `{'fn': 'input_pipeline:Images', 'dataset': 'digits', ...}`; train.py
asks it for batches. Reading is TFDS's (array_record, no TensorFlow). The order is a pure function
of (seed, step) and every host-side augmentation of (seed, epoch, index), so a run resumes from its
step number alone and the global batch is the same for any number of processes and any mesh. Nothing
else is stored, and nothing has to be fast-forwarded.

Batches are dicts of global arrays whose leading axis is laid out by the sharding that the caller
gives:
    image (B, H, W, C) of the type that is stored, most often uint8; label (B,), int32 or, where it is
    measured, float32; epoch int32 (B,), index int32 (B,); evaluation adds mask bool (B,).
Of `Words`, words int32 (B, T) and label int32 (B, T) in place of the first two. docs/data.md says what
may be read and what is refused.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from longview.data import features, keyed
from longview.data.arrays import Made
from longview.data.folder import ImageFolder
from longview.data.images import Resize
from longview.data.prepare import open_dataset
from longview.data.records import HostCrop, Split
from longview.data.source import HostBatch, Source
from longview.names import check

check(__name__)

Batch = dict[str, jax.Array]

_ENDLESS = 2**40  # steps


class DataSet(abc.ABC):
    """A training and an evaluation split as batches. A data set says where its splits come from; the rest is here.

    Attributes:
        prefetch: batches prepared ahead and put on the devices by a background thread; 0 does all
            in the caller's.
        whole: the data set is ONE example, such as a graph: a batch is that example, of `batch_size` 1, and every
            device holds all of it. Its sharding is the replicated one.
    """

    prefetch: int
    whole: bool = False

    @property
    @abc.abstractmethod
    def _train(self) -> Source:
        """The training split; looked up often, so a cached_property."""

    @property
    @abc.abstractmethod
    def _eval(self) -> Source:
        """The evaluation split, likewise."""

    def source(self, train: bool = True) -> Source:
        """The split that the batches come from, to make another data set of."""
        return self._train if train else self._eval

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels have, which heads and transforms follow; None: they are numbers."""
        return self._train.num_classes

    @property
    def num_train(self) -> int:
        """Examples in the training split."""
        return self._train.size

    @property
    def num_eval(self) -> int:
        """Examples in the evaluation split."""
        return self._eval.size

    def check(self) -> None:
        """Reads one example of each split, or says in one raised sentence what prevents it."""
        for split in (self._train, self._eval):
            split.check()

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a global batch, to compile before the first one is read."""
        one = {'epoch': np.int32, 'index': np.int32} | ({} if train else {'mask': np.bool_})
        spec = self.source(train).spec | {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in one.items()}
        return {name: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype) for name, x in spec.items()}

    def train(
        self, sharding: jax.sharding.Sharding, batch_size: int, seed: int, start_step: int = 0
    ) -> Iterator[Batch]:
        """Global batches without end, from `start_step` on.

        The training examples are one stream: epoch 0 shuffled, then epoch 1, and so on, cut into
        batches. Every example appears exactly once per epoch, none is dropped, and a batch may
        straddle two epochs: each row of it carries its own.

        Args:
            sharding: layout of the leading axis, such as NamedSharding(mesh, P(('data', 'fsdp'))).
            batch_size: rows of the global batch.
            seed: 0 <= seed < 2**32; with the step it decides the examples.
            start_step: the first batch's number; seeking costs nothing.

        Returns:
            An iterator with `close()`, which stops the reading threads.

        Raises:
            ValueError: the batch does not divide over the mesh, or the seed is out of range; later,
                from `next`, an image that cannot be read.
        """
        if not 0 <= seed < 2**32:
            raise ValueError(f'seed={seed} is out of range; use 0 <= seed < 2**32.')
        own = local_rows(sharding, batch_size)
        hosts = self.host_train(own, batch_size, seed, start_step)
        return _placed(hosts, sharding, batch_size, own, self.prefetch)

    def evaluate(self, sharding: jax.sharding.Sharding, batch_size: int) -> Iterator[Batch]:
        """The whole evaluation split once, in order.

        The last batch is filled up with copies of the last example, where `mask` is False.
        """
        own = local_rows(sharding, batch_size)
        hosts = self.host_evaluate(own, batch_size)
        return _placed(hosts, sharding, batch_size, own, self.prefetch)

    def host_train(self, own: np.ndarray, batch_size: int, seed: int, start_step: int) -> grain.IterDataset:
        """Rows `own` of the global batches of `train`, as host arrays."""

        def selection(step: int) -> HostBatch:
            start = step * batch_size
            epoch, index = keyed.stream(seed, start, start + batch_size, self.num_train)
            return {'epoch': epoch[own], 'index': index[own]}

        return self._train.batches(selection, range(start_step, _ENDLESS), seed)

    def host_evaluate(self, own: np.ndarray, batch_size: int) -> grain.IterDataset:
        """Rows `own` of the global batches of `evaluate`, as host arrays."""
        last = self.num_eval - 1

        def selection(step: int) -> HostBatch:
            place = step * batch_size + own
            return {'epoch': np.zeros_like(place), 'index': np.minimum(place, last), 'mask': place <= last}

        return self._eval.batches(selection, range(math.ceil(self.num_eval / batch_size)), 0)


@dataclasses.dataclass(frozen=True)
class Arrays(DataSet):
    """Arrays that functions make, of any names, whose first axis is the example.

    Attributes:
        train_split, eval_split: return the columns by name; data/arrays.py says which types a batch holds. They are
            called once, when the split is first needed.
        num_classes: of the column `label`, whose integers are below it; None: there are no classes.
        whole: the functions return the columns of one example, without an axis of examples; see `DataSet`.
        prefetch: see `DataSet`.
    """

    train_split: Callable[[], HostBatch]
    eval_split: Callable[[], HostBatch]
    num_classes: int | None = None
    whole: bool = False
    prefetch: int = 2

    @functools.cached_property
    def _train(self) -> Made:
        return Made(self.train_split, self.num_classes, self.whole)

    @functools.cached_property
    def _eval(self) -> Made:
        return Made(self.eval_split, self.num_classes, self.whole)


@dataclasses.dataclass(frozen=True)
class Words(DataSet):
    """Sequences of words that a function makes, with the word to be said at each place.

    Attributes:
        train_split, eval_split: return `words` and `label`, int32 (N, T), such as data/mqar.py.
        vocabulary: number of words, which are the classes.
        prefetch: see `DataSet`.
    """

    train_split: Callable[[], HostBatch]
    eval_split: Callable[[], HostBatch]
    vocabulary: int
    prefetch: int = 2

    @functools.cached_property
    def _train(self) -> Made:
        return Made(lambda: _words(self.train_split(), self.vocabulary), self.vocabulary)

    @functools.cached_property
    def _eval(self) -> Made:
        return Made(lambda: _words(self.eval_split(), self.vocabulary), self.vocabulary)


def _words(arrays: HostBatch, vocabulary: int) -> HostBatch:
    """The arrays, all of them words of the vocabulary; what is negative is no word, and ignored."""
    for name, array in arrays.items():
        if array.dtype.kind not in 'iu':
            raise ValueError(f'The {name} of the data are {array.dtype}; Words reads integers: make them int32.')
    most = max(array.max() for array in arrays.values())
    if most >= vocabulary:
        raise ValueError(f'The data has the word {most} and vocabulary is {vocabulary}: raise it.')
    return arrays


@dataclasses.dataclass(frozen=True)
class Images(DataSet):
    """Labelled images of a TFDS data set, or of a folder with a folder for each class.

    Attributes:
        dataset: 'digits', 'fashion_mnist', 'fake_imagenet' (ours, prepared when missing), any
            prepared TFDS name, or the path of a folder SPLIT/CLASS/IMAGE, which begins with '/',
            '~/', './' or '../' (data/folder.py).
        data_dir: the TFDS folder; None is TFDS_DATA_DIR or ~/tensorflow_datasets.
        train_split: a TFDS split, slices such as 'train[:90%]' too.
        eval_split: likewise; ImageNet calls it 'validation'.
        image_size: side of the square images; None keeps the stored size, which must then be fixed
            and square.
        train_crop: a crop of data/images.py.
        eval_crop: likewise; it may not draw random numbers.
        in_memory: keep the split decoded in memory; None does so when it fits in a GiB and the crop
            allows it.
        threads: threads that read and decode images not kept in memory; None is one per core.
            Changes no number.
        prefetch: batches prepared ahead and put on the devices by a background thread; 0 does all
            in the caller's.
    """

    dataset: str
    data_dir: str | None = None
    train_split: str = 'train'
    eval_split: str = 'test'
    image_size: int | None = None
    train_crop: HostCrop = Resize()
    eval_crop: HostCrop = Resize()
    in_memory: bool | None = None
    threads: int | None = None
    prefetch: int = 2

    def __post_init__(self) -> None:
        if self.eval_crop.draws:
            raise ValueError(
                f'eval_crop={self.eval_crop} draws random numbers; evaluation wants a fixed one: CenterCrop or Resize.'
            )
        if self.in_memory and self.train_crop.keyed_read:
            raise ValueError(
                f'in_memory=True does not go with train_crop={self.train_crop}, which reads each '
                'image anew in every epoch; leave in_memory out.'
            )

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder | ImageFolder:
        builder = open_dataset(self.dataset, self.data_dir)
        features.check_features(builder.info.features, self.dataset)
        return builder

    def _split(self, name: str, crop: HostCrop) -> Split:
        return Split(
            self._builder,
            name,
            crop,
            self.image_shape,
            self.in_memory,
            self.threads or os.cpu_count() or 1,
        )

    @functools.cached_property
    def _train(self) -> Split:
        return self._split(self.train_split, self.train_crop)

    @functools.cached_property
    def _eval(self) -> Split:
        return self._split(self.eval_split, self.eval_crop)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the batches' images."""
        image = self._builder.info.features['image']
        height, width, _ = image.shape
        channels = features.image_channels(image)
        if self.image_size is not None:
            return self.image_size, self.image_size, channels
        if height is None or height != width:
            raise ValueError(
                f'The images of {self.dataset!r} are stored as {height} x {width} (None: it varies); set image_size.'
            )
        return height, width, channels


def local_rows(
    sharding: jax.sharding.Sharding, batch_size: int, devices: Iterable[jax.Device] | None = None
) -> np.ndarray:
    """The rows of a global batch that live on `devices` (None: this process's), sorted, int64 (b,).

    Raises:
        ValueError: the batch does not divide over the mesh axes of its leading axis.
    """
    try:
        sharding.shard_shape((batch_size,))
    except ValueError:
        shards = math.prod(sharding.mesh.shape[axis] for axis in jax.tree.leaves(tuple(sharding.spec)))
        raise ValueError(
            f'A batch of {batch_size} does not divide over the {shards} shards of the mesh axes '
            f'{sharding.spec[0]}; make batch_size a multiple of {shards}.'
        ) from None
    slices = sharding.devices_indices_map((batch_size,))
    devices = sharding.addressable_devices if devices is None else devices
    return np.unique(np.concatenate([np.arange(batch_size)[slices[device]] for device in devices]))


def to_global(host: HostBatch, sharding: jax.sharding.Sharding, batch_size: int, own: np.ndarray) -> Batch:
    """Rows `own` (see `local_rows`) held by this process -> arrays over the whole mesh."""

    def place(array: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...]) -> np.ndarray:
            return array[find(index[0], own)]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, shard)

    return {name: place(array) for name, array in host.items()}


def find(shard: slice, own: np.ndarray) -> slice:
    """Where a device's slice of the global rows lies among the sorted rows `own`."""
    start, stop = (0 if shard.start is None else shard.start), shard.stop
    first = int(np.searchsorted(own, start))
    return slice(first, None if stop is None else first + stop - start)


def _placed(
    hosts: grain.IterDataset, sharding: jax.sharding.Sharding, batch_size: int, own: np.ndarray, ahead: int
) -> Iterator[Batch]:
    """Host batches as global arrays, made and put on the devices by a thread, `ahead` of them."""
    batches = hosts.map(lambda host: to_global(host, sharding, batch_size, own))
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=ahead))
