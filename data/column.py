"""Kinds of columns: what each one is, and how it finds its feature in a data set. The kinds are in data/columns.py."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import ArrayLike, DTypeLike

from longview.data.geometry import Geometry, Moves, Size
from longview.data.images import Crop
from longview.data.source import HostBatch, Spec

Feature = tfds.features.FeatureConnector


@dataclasses.dataclass(frozen=True)
class Field:
    """A feature of a data set, possibly inside another one.

    Attributes:
        feature: what TFDS says of it; of a Sequence, of one element.
        shape, dtype: of its value; the axis of a Sequence is the first, None where its length varies.
        path: its name in the set.
    """

    feature: Feature
    shape: Any
    dtype: np.dtype
    path: str

    @property
    def is_file(self) -> bool:
        """Whether it is stored as the bytes of an image file, and not as an array."""
        return isinstance(self.feature, tfds.features.Image)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of its values, if it says so."""
        return getattr(self.feature, 'num_classes', None)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of these classes; TFDS numbers them if they have none."""
        return tuple(self.feature.names) if isinstance(self.feature, tfds.features.ClassLabel) else None

    def value(self, example: Mapping[str, Any]) -> Any:
        """What a record holds."""
        path = self.path
        while path not in example:
            key = next(key for key in example if path.startswith(f'{key}/'))
            example, path = example[key], path[len(key) + 1 :]
        return example[path]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a column stands.

    Attributes:
        name: of the column.
        dataset: name of the data set, for messages.
        crop: what makes its images; None as long as nobody knows it.
        size: (height, width) of the finished images; None as long as nobody knows it.
        field: the feature that the column is read from.
        others: more features that it names, by their paths.
    """

    name: str
    dataset: str
    crop: Any
    size: Size | None
    field: Field
    others: Mapping[str, Field]

    @property
    def subject(self) -> str:
        """The beginning of a sentence."""
        return f'The {self.name} of the data set {self.dataset!r}'

    def refuse(self, wanted: str) -> None:
        """Raises the error for a feature that does not fit."""
        kind = type(self.field.feature).__name__
        raise ValueError(f'{self.subject} is a {kind} of shape {self.field.shape}; Images reads {wanted}.')


class Column(abc.ABC):
    """A kind of column. Its classes are frozen dataclasses.

    Attributes:
        feature: the name of the feature, 'objects/bbox' for one inside of another; None: that of the column.
        others: names of more features that it reads.
        follows: whether it shows places in the image, and follows its geometry.
        sided: whether its values speak of left and right, which a mirror falsifies.
        geometric: whether its values depend on where the image is cut, which a crop and a mirror falsify.
    """

    feature: str | None
    others: tuple[str, ...] = ()
    follows: ClassVar[bool] = False
    sided: bool = False
    geometric: bool = False

    def place(
        self, name: str, dataset: str, features: tfds.features.FeaturesDict, crop: Any, size: Size | None = None
    ) -> Place:
        """Finds the column's feature, or raises an error that says why it cannot be read as this kind."""
        others = {path: find(features, path, dataset) for path in self.others}
        place = Place(name, dataset, crop, size, find(features, self.feature or name, dataset), others)
        self.check(place)
        if crop is not None and name != 'image' and (self.follows or self.sided or self.geometric):
            self._check_crop(place)
        return place

    @abc.abstractmethod
    def check(self, place: Place) -> None:
        """Raises ValueError for a feature that is none of this kind."""

    @abc.abstractmethod
    def kept(self, place: Place) -> Spec:
        """What `read` returns of one example."""

    def spec(self, place: Place) -> Spec:
        """The columns of the batch, of one example."""
        return self.kept(place)

    @abc.abstractmethod
    def read(self, place: Place, example: Mapping[str, Any], geometry: Geometry | None) -> HostBatch:
        """Reads one record, with the geometry of its image."""

    def finish(self, place: Place, read: HostBatch, moves: Moves | None) -> HostBatch:
        """Turns a batch of what `read` returned, (B, ...), into the columns of the batch."""
        del place, moves
        return read

    def num_classes_at(self, place: Place) -> int | None:
        """The number of classes of the values; None if there are none, or the set does not say it."""
        del place

    def _check_crop(self, place: Place) -> None:
        if not isinstance(place.crop, Crop):
            raise ValueError(
                f'{place.subject} follows the geometry of the crop, and {place.crop} says none: make it a Crop of '
                'data/images.py.'
            )
        if place.crop.mirrors and (self.sided or self.geometric):
            raise ValueError(
                f'{place.subject} is falsified by a mirror, and {place.crop} mirrors: set its flip to False, or use '
                'Resize.'
            )
        if place.crop.cuts and self.geometric:
            raise ValueError(
                f'{place.subject} is falsified where the image is cut, and {place.crop} cuts: use Resize or Pad.'
            )


def find(features: tfds.features.FeaturesDict, path: str, dataset: str) -> Field:
    """The feature at a path.

    Raises:
        ValueError: there is none.
    """
    found = _walk(features, features.get_tensor_info(), path)
    if found is None:
        raise ValueError(
            f'The data set {dataset!r} has no feature {path!r}, only {", ".join(_paths(features))}: give the column '
            'the name of one, or name one as its feature.'
        )
    feature, info = found
    if isinstance(feature, tfds.features.Sequence) and not isinstance(feature.feature, tfds.features.FeaturesDict):
        feature = feature.feature
    if isinstance(info, dict):
        return Field(feature, feature.shape, np.dtype(object), path)
    return Field(feature, tuple(info.shape), np.dtype(info.np_dtype), path)


def _walk(feature: Feature, info: Any, path: str) -> tuple[Feature, Any] | None:
    """The feature at a path, and the tensors that it gives."""
    inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    if not path:
        return feature, info
    if not isinstance(inner, tfds.features.FeaturesDict):
        return None
    steps = (key for key in inner if f'{path}/'.startswith(f'{key}/'))
    found = (_walk(inner[key], info[key], path[len(key) + 1 :]) for key in steps)
    return next((one for one in found if one is not None), None)


def _paths(feature: Feature, before: str = '') -> Iterator[str]:
    """The paths of all features that have no others in them."""
    inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    if not isinstance(inner, tfds.features.FeaturesDict):
        yield before.removesuffix('/')
        return
    for key, value in inner.items():
        yield from _paths(value, f'{before}{key}/')


def exact(name: str, values: ArrayLike, dtype: DTypeLike) -> np.ndarray:
    """Numbers as `dtype`; doubles are rounded to float32.

    Raises:
        ValueError: one is out of range.
    """
    values, dtype = np.asarray(values), np.dtype(dtype)
    if dtype.kind == 'b':
        return values.astype(dtype)
    limits = np.iinfo(dtype) if dtype.kind == 'i' else np.finfo(dtype)
    outside = ~((limits.min <= values) & (values <= limits.max)) & np.isfinite(values)
    if outside.any():
        raise ValueError(f'its {name} {values[outside].ravel()[0]} does not fit into {dtype}')
    return values.astype(dtype)


def is_numbers(field: Field) -> bool:
    """Whether a feature holds only numbers."""
    return isinstance(field.feature, tfds.features.Tensor) and field.dtype.kind in 'biuf'


def number_type(field: Field) -> np.dtype:
    """float32 for real numbers, int32 for integers."""
    return np.dtype(np.float32 if field.dtype.kind == 'f' else np.int32)


def carried_type(field: Field) -> np.dtype:
    """The type of a number, see `number_type`; bool for truth values."""
    return field.dtype if field.dtype.kind == 'b' else number_type(field)


def padded_spec(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Spec:
    """The shapes of a padded column and of its NAME_valid."""
    valid = jax.ShapeDtypeStruct(shape[:1], np.dtype(np.bool_))
    return {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)), f'{name}_valid': valid}


def padded(name: str, values: HostBatch, at_most: int, cut: bool) -> HostBatch:
    """Arrays of equal length, padded with zeros up to `at_most`, and NAME_valid."""
    lengths = {key: len(value) for key, value in values.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f'it has {" and ".join(f"{count} {key}" for key, count in lengths.items())}')
    number = lengths[name]
    if number > at_most and not cut:
        raise ValueError(f'it has {number} {name} and at_most is {at_most}: raise that, or set cut to keep the first')
    kept = {key: value[:at_most] for key, value in values.items()}
    pad = lambda value: np.concatenate([value, np.zeros((at_most - len(value), *value.shape[1:]), value.dtype)])
    return {key: pad(value) for key, value in kept.items()} | {f'{name}_valid': np.arange(at_most) < number}


def without_invalid(name: str, read: HostBatch, valid: np.ndarray) -> HostBatch:
    """Sets what is not valid to zero."""

    def hidden(value: np.ndarray) -> np.ndarray:
        where = valid.reshape(valid.shape + (1,) * (value.ndim - valid.ndim))
        return np.where(where, value, value.dtype.type(0))

    return {key: hidden(value) for key, value in read.items()} | {f'{name}_valid': valid}
