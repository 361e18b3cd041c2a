"""Data sets as batches on the mesh.

A config names one object, `{'fn': 'input_pipeline:Images', 'dataset': 'digits', ...}`; train.py asks it for batches.
Reading is TFDS's (array_record, no TensorFlow). The order is a pure function of (seed, step) and every host-side
augmentation of (seed, epoch, index), so a run resumes from its step number alone and the global batch is the same for
any number of processes and any mesh. Nothing else is stored, and nothing has to be fast-forwarded.

Batches are dicts of global arrays whose leading axes are laid out by the sharding that the caller gives:
    epoch, index  int32 (B,)
    mask          bool (B,), in evaluation
and the data set's columns, of labelled images
    image         (B, H, W, C), of the type that is stored, most often uint8
    label         (B,), int32 or, where it is measured, float32
docs/data.md says what may be read, which kinds of columns there are, and what is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import ClassVar

import tensorflow_datasets as tfds

from longview.data.arrays import Made
from longview.data.column import Column
from longview.data.column import find as find_feature
from longview.data.columns import LABELLED, channels_of
from longview.data.dataset import DataSet
from longview.data.dataset import find as find
from longview.data.dataset import local_rows as local_rows
from longview.data.features import check_features
from longview.data.geometry import pair
from longview.data.images import FILTERS, Resize
from longview.data.indexed import Indexed
from longview.data.prepare import open_dataset
from longview.data.records import HostCrop, Split
from longview.data.source import HostBatch
from longview.names import check

check(__name__)


@dataclasses.dataclass(frozen=True)
class Arrays(DataSet):
    """Arrays that functions make, of any names, whose first axis is the example.

    Attributes:
        train_split, eval_split: return the columns by name; data/arrays.py says which types a batch holds. They are
            called once, when the split is first needed.
        num_classes: of the column `label`, whose integers are below it; None: there are no classes.
        whole: the functions return the columns of one example, without an axis of examples; see `DataSet`.
        prefetch: see `DataSet`.
        sequences: the second axis of every column that has one is that of tokens; see `DataSet`.
    """

    train_split: Callable[[], HostBatch]
    eval_split: Callable[[], HostBatch]
    num_classes: int | None = None
    whole: bool = False
    prefetch: int = 2
    sequences: bool = False

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
    sequences: ClassVar[bool] = True

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
    """Records of a TFDS data set, or of a folder with a folder for each class: labelled images, or other columns.

    Attributes:
        dataset: 'digits', 'fashion_mnist', 'fake_imagenet' (ours, prepared when missing), any
            prepared TFDS name, or a path, which begins with '/', '~/', './' or '../': of a folder
            SPLIT/CLASS/IMAGE or CLASS/IMAGE (data/folder.py), of a `.csv` (data/table.py), or of a set
            that Hugging Face's `datasets` has saved (data/huggingface.py).
        data_dir: the TFDS folder; None is TFDS_DATA_DIR or ~/tensorflow_datasets.
        train_split: a TFDS split, slices such as 'train[:90%]' too.
        eval_split: likewise; ImageNet calls it 'validation'.
        image_size: side of square images, or (height, width); None keeps the stored size, which must then be fixed.
        train_crop: a crop of data/images.py.
        eval_crop: likewise; it may not draw random numbers.
        in_memory: keep the split decoded in memory; None does so when it fits in a GiB and the crop
            allows it.
        threads: threads that read and decode images not kept in memory; None is one per core.
            Changes no number.
        prefetch: see `DataSet`.
        columns: kinds of data/columns.py by the names of the batch's columns; None: an `image` and its `label`.
    """

    dataset: str
    data_dir: str | None = None
    train_split: str = 'train'
    eval_split: str = 'test'
    image_size: int | tuple[int, int] | None = None
    train_crop: HostCrop = Resize()
    eval_crop: HostCrop = Resize()
    in_memory: bool | None = None
    threads: int | None = None
    prefetch: int = 2
    columns: Mapping[str, Column] | None = None

    def __post_init__(self) -> None:
        for name in ('train_crop', 'eval_crop'):
            interpolation = getattr(getattr(self, name), 'interpolation', None)
            if interpolation is not None and interpolation not in FILTERS:
                raise ValueError(f'{name}.interpolation is {interpolation!r}: use one of {", ".join(FILTERS)}.')
        if self.eval_crop.draws:
            raise ValueError(
                f'eval_crop={self.eval_crop} draws random numbers; evaluation wants a fixed one: CenterCrop or Resize.'
            )
        if self.in_memory and self.train_crop.keyed_read:
            raise ValueError(
                f'in_memory=True does not go with train_crop={self.train_crop}, which reads each '
                'image anew in every epoch; leave in_memory out.'
            )

    @property
    def _columns(self) -> Mapping[str, Column]:
        return LABELLED if self.columns is None else self.columns

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder | Indexed:
        builder = open_dataset(self.dataset, self.data_dir)
        check_features(builder.info.features, self.dataset, self._columns)
        return builder

    def _split(self, name: str, crop: HostCrop) -> Split:
        crops = (self.train_crop, self.eval_crop)
        return Split(
            self._builder,
            name,
            self._columns,
            crop,
            self.image_shape[:2] if 'image' in self._columns else None,
            self.in_memory,
            self.threads or os.cpu_count() or 1,
            padded='image' in self._columns and any(getattr(each, 'pads', False) for each in crops),
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
        image = find_feature(self._builder.info.features, self._columns['image'].feature or 'image', self.dataset)
        if self.image_size is not None:
            return *pair(self.image_size), channels_of(image)
        height, width, _ = image.shape
        if height is None or width is None:
            raise ValueError(
                f'The images of {self.dataset!r} are stored as {height} x {width} (None: it varies); set image_size.'
            )
        return height, width, channels_of(image)
