"""What a data set is: two splits, cut into batches that lie on the mesh.

The order of the examples is a pure function of (seed, step), and what a row holds one of (seed, epoch, index): a run
resumes from its step number alone, and the global batch is the same for any number of processes and any mesh.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import ClassVar

import grain
import jax
import numpy as np

from longview.data import keyed
from longview.data.source import HostBatch, Source
from longview.layouts import of_rank

Batch = dict[str, jax.Array]

ENDLESS = 2**40  # steps

# What a data set decides of the order, and so what may be made of it: nothing but which examples there are (it may be
# arranged otherwise), which example each row has (it may still be mixed with others), or what a batch holds.
SHUFFLED, BY_ROWS, BY_BATCHES = 'shuffled', 'by rows', 'by batches'


class DataSet(abc.ABC):
    """A training and an evaluation split as batches. A subclass says where its splits come from.

    Attributes:
        prefetch: batches prepared ahead and put on the devices by a background thread; 0 does all
            in the caller's.
        whole: the data set is ONE example, such as a graph: a batch is that example, of `batch_size` 1, and every
            device holds all of it. Its sharding is the replicated one.
        sequences: the examples are sequences: the second axis of every column that has one is that of tokens, which a
            sharding may split too.
        arranged: SHUFFLED, BY_ROWS or BY_BATCHES.
    """

    prefetch: int
    whole: bool = False
    sequences: bool = False
    arranged: ClassVar[str] = SHUFFLED

    @property
    @abc.abstractmethod
    def _train(self) -> Source:
        """The training split; looked up often, so a cached_property."""

    @property
    @abc.abstractmethod
    def _eval(self) -> Source:
        """The evaluation split, likewise."""

    def source(self, train: bool = True) -> Source:
        """The split that the batches come from, for making another data set from it."""
        return self._train if train else self._eval

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the labels, which heads and transforms follow; None if labels are numbers."""
        return self._train.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of their numbers; None if they are not known."""
        return self._train.class_names

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The number of training examples of each class; reads all labels.

        Raises:
            ValueError: the labels are no classes.
        """
        if self.num_classes is None:
            raise ValueError('The data set has no classes to be counted: its labels are numbers, or there are none.')
        return tuple(np.bincount(self._train.labels()[self.members], minlength=self.num_classes).tolist())

    @property
    def num_train(self) -> int:
        """The number of training examples, which are the rows of an epoch, as schedules count it."""
        return self._train.size

    @property
    def num_examples(self) -> int:
        """The bound of every training `index`, even if training sees only a part: the length of a table by `index`."""
        return self._train.size

    @property
    def members(self) -> np.ndarray:
        """The numbers of the examples that training sees, sorted, int64 (N,)."""
        return np.arange(self._train.size)

    @property
    def num_eval(self) -> int:
        """The number of examples in the evaluation split."""
        return self._eval.size

    def check(self) -> None:
        """Reads one example of each split, or raises an error that says what prevents it."""
        for split in (self._train, self._eval):
            split.check()

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a global batch, for compiling before the first one is read."""
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
            sharding: layout of the leading axes, such as NamedSharding(mesh, P(('data', 'fsdp'))); columns with fewer
                axes take its first ones.
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

    def order(self, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples at places [start, stop) of the endless stream that training batches are cut from.

        Returns:
            (epoch, index): how often each example was seen before, and its number in the split; int64 (stop - start,).
        """
        return keyed.stream(seed, start, stop, self.num_train)

    def host_train(self, own: np.ndarray, batch_size: int, seed: int, start_step: int) -> grain.IterDataset:
        """Rows `own` of the global batches of `train`, as host arrays."""

        def selection(step: int) -> HostBatch:
            start = step * batch_size
            epoch, index = self.order(seed, start, start + batch_size)
            return {'epoch': epoch[own], 'index': index[own]}

        return self._train.batches(selection, range(start_step, ENDLESS), seed)

    def host_evaluate(self, own: np.ndarray, batch_size: int) -> grain.IterDataset:
        """Rows `own` of the global batches of `evaluate`, as host arrays."""
        last = self.num_eval - 1

        def selection(step: int) -> HostBatch:
            place = step * batch_size + own
            return {'epoch': np.zeros_like(place), 'index': np.minimum(place, last), 'mask': place <= last}

        return self._eval.batches(selection, range(math.ceil(self.num_eval / batch_size)), 0)


@dataclasses.dataclass(frozen=True)
class Wrapped(DataSet):
    """A data set that changes which training examples come when; everything else is that of the inner data set.

    Attributes:
        data: the data set in it.

    Raises:
        ValueError: that one decides its order itself, which would be lost, or is a single example.
    """

    data: DataSet

    def __post_init__(self) -> None:
        inner, outer = type(self.data).__name__, type(self).__name__
        if self.data.whole:
            raise ValueError(f'{outer} takes a data set of examples and {inner} is one example: leave {outer} out.')
        if self.data.arranged != SHUFFLED:
            raise ValueError(
                f'{outer} around {inner} would lose the order of {inner}: put {inner} around {outer}, or leave one out.'
            )

    @property
    def _train(self) -> Source:
        return self.data.source(train=True)

    @property
    def _eval(self) -> Source:
        return self.data.source(train=False)

    @property
    def prefetch(self) -> int:
        """See `DataSet`."""
        return self.data.prefetch

    @property
    def sequences(self) -> bool:
        """See `DataSet`."""
        return self.data.sequences

    @property
    def num_classes(self) -> int | None:
        """See `DataSet`."""
        return self.data.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `DataSet`."""
        return self.data.class_names

    @property
    def num_train(self) -> int:
        """See `DataSet`."""
        return len(self.members)

    @property
    def members(self) -> np.ndarray:
        """See `DataSet`."""
        return self.data.members


def local_rows(
    sharding: jax.sharding.Sharding, batch_size: int, devices: Iterable[jax.Device] | None = None
) -> np.ndarray:
    """The rows of a global batch that live on `devices` (None: this process's), sorted, int64 (b,).

    Raises:
        ValueError: the batch does not divide over the mesh axes of its leading axis.
    """
    sharding = of_rank(sharding, 1)
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
            return array[find(index[0], own), *index[1:]]

        layout = of_rank(sharding, array.ndim)
        return jax.make_array_from_callback((batch_size, *array.shape[1:]), layout, shard)

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
