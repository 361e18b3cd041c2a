"""The kinds of columns that a config can name: how a feature of a data set's records becomes part of the batch.

A config says `columns={'image': {'fn': 'data.columns:Pixels'}, 'boxes': {'fn': 'data.columns:Boxes', ...}}`. A kind
says which features it reads, and which columns of which shape and type it makes of them (data/column.py); what shows
places in the image follows the example's geometry (data/geometry.py). The column `image` is what the crop is of.

What varies in number is padded to a fixed one with zeros; the column NAME_valid, bool, says what is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
import tensorflow_datasets as tfds

from longview.data.column import Column, Field, Place, carried_type, exact, is_numbers, number_type, padded, padded_spec
from longview.data.decoding import decode, decode_values
from longview.data.geometry import Geometry, Moves
from longview.data.images import resize
from longview.data.places import Boxes as Boxes
from longview.data.places import Origin as Origin
from longview.data.places import Points as Points
from longview.data.source import HostBatch, Spec

Example = Mapping[str, Any]

PIXEL_TYPES = ('uint8', 'uint16', 'int16', 'float32')
CLASS_TYPES = ('bool', 'uint8', 'uint16', 'int16', 'int32')
FILE_CHANNELS = (1, 3, 4)


@dataclasses.dataclass(frozen=True)
class Pixels(Column):
    """An image (H, W, C), in the type that is stored: `image`, or another of the same picture, which follows it.

    Its values are moved and never changed, so that a mirror falsifies a field of directions, such as optical flow.

    Attributes:
        feature: see `Column`.
        dtype: a type for the batch that holds the stored one exactly; None: the stored one.
        interpolation: of another image than `image`, as in data/images.py; None: the crop's.
        scale: another image than `image` is made so many times as large, such as a target of super-resolution.
        sided: see `Column`.
    """

    feature: str | None = None
    dtype: str | None = None
    interpolation: str | None = None
    scale: int = 1
    sided: bool = False
    follows: ClassVar[bool] = True

    def check(self, place: Place) -> None:
        """See `Column`."""
        field = place.field
        if not isinstance(field.feature, (tfds.features.Image, tfds.features.Tensor)) or len(field.shape) != 3:
            place.refuse('an Image or a Tensor of (height, width, channels)')
        if field.dtype.name not in PIXEL_TYPES:
            raise ValueError(
                f'The pixels of the {place.name} of the data set {place.dataset!r} are {field.dtype}; Images reads '
                f'{", ".join(PIXEL_TYPES)}: prepare it as one of these.'
            )
        if field.is_file and channels_of(field) not in FILE_CHANNELS and field.dtype != np.float32:
            raise ValueError(
                f'The pixels of the {place.name} of the data set {place.dataset!r} are files of {field.shape[-1]} '
                f'channels; Images reads files of {", ".join(map(str, FILE_CHANNELS))} channels, and any number of '
                'them from a Tensor: prepare it as that.'
            )
        if self.dtype is not None and not np.can_cast(field.dtype, self.dtype, 'safe'):
            raise ValueError(
                f'{place.subject} is stored as {field.dtype}, which {self.dtype} does not hold exactly: leave dtype '
                'out, and convert it in a batch transform.'
            )
        if place.name == 'image' and (self.scale, self.interpolation) != (1, None):
            raise ValueError('The column image has the size and the interpolation of its crop: leave these out.')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        shape = (self.scale * place.size[0], self.scale * place.size[1], channels_of(place.field))
        return {place.name: jax.ShapeDtypeStruct(shape, place.field.dtype)}

    def spec(self, place: Place) -> Spec:
        """See `Column`."""
        (kept,) = self.kept(place).values()
        return {place.name: jax.ShapeDtypeStruct(kept.shape, np.dtype(self.dtype or kept.dtype))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`; of another image than `image`, which the crop itself reads."""
        image = decode(self.record(place, example), channels_of(place.field))
        geometry = _stored(geometry, image, place).times(self.scale)
        if self.interpolation == 'nearest':
            return {place.name: geometry.nearest(image)}
        own = lambda image, height, width: resize(image, height, width, self.interpolation)
        if not geometry.is_whole:
            raise ValueError(
                f'its {place.name} is stored smaller than its image, where a crop may cut through a pixel: take each '
                "value from the nearest one (interpolation='nearest'), or store it larger"
            )
        return {place.name: geometry.pixels(image, own if self.interpolation else place.crop.resize)}

    def record(self, place: Place, example: Example) -> Any:
        """What a record holds; decoded, if it is a file that a crop does not decode by itself."""
        record = place.field.value(example)
        if place.field.dtype == np.uint8:
            return record
        return decode(record, channels_of(place.field), dtype=place.field.dtype)

    def finish(self, place: Place, read: HostBatch, moves: Moves | None) -> HostBatch:
        """See `Column`."""
        pixels = read[place.name]
        moved = pixels if moves is None else moves.pixels(pixels, scale=self.scale)
        return {place.name: moved.astype(self.dtype or moved.dtype, copy=False)}


@dataclasses.dataclass(frozen=True)
class ClassMap(Column):
    """The class of each pixel, int32 (H, W): that of the nearest stored pixel.

    Where the image shows nothing it is `ignore`, as files have it where nobody knows the class; losses and figures
    leave such pixels out.

    Attributes:
        feature: see `Column`.
        stride: the map is (H / stride, W / stride), of the pixel in the middle of each cell.
        ignore: what is no class.
        num_classes: where the set does not say it; a value beyond is refused.
    """

    feature: str | None = None
    stride: int = 1
    ignore: int = 255
    num_classes: int | None = None
    follows: ClassVar[bool] = True

    def check(self, place: Place) -> None:
        """See `Column`."""
        field = place.field
        is_map = isinstance(field.feature, (tfds.features.Image, tfds.features.Tensor))
        if not is_map or len(field.shape) not in (2, 3) or field.shape[2:] not in ((), (1,)):
            place.refuse('a map of classes from an Image or a Tensor of (height, width) or (height, width, 1)')
        types = CLASS_TYPES[1:3] if field.is_file else CLASS_TYPES
        if field.dtype.name not in types:
            raise ValueError(
                f'The classes of the {place.name} of the data set {place.dataset!r} are {field.dtype}; Images reads '
                f'{", ".join(types)}: prepare it as one of these.'
            )
        classes = self.num_classes_at(place)
        if classes is not None and 0 <= self.ignore < classes:
            raise ValueError(f'{place.subject} ignores {self.ignore}, one of its {classes} classes: set ignore to -1.')
        if place.size is not None and any(side % self.stride for side in place.size):
            raise ValueError(
                f'{place.subject} has the stride {self.stride}, which does not divide images of '
                f'{place.size[0]} x {place.size[1]}: choose an image_size that it divides.'
            )

    def kept(self, place: Place) -> Spec:
        """See `Column`; at the scale of the image."""
        return {place.name: jax.ShapeDtypeStruct(place.size, self._kept_type(place))}

    def spec(self, place: Place) -> Spec:
        """See `Column`."""
        cells = tuple(side // self.stride for side in place.size)
        return {place.name: jax.ShapeDtypeStruct(cells, np.dtype(np.int32))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        values = decode_values(place.field.value(example), place.field.dtype)
        self._check_values(values, place)
        values = values.astype(self._kept_type(place), copy=False)
        return {place.name: _stored(geometry, values, place).nearest(values, self.ignore)}

    def finish(self, place: Place, read: HostBatch, moves: Moves | None) -> HostBatch:
        """See `Column`."""
        values = read[place.name]
        moved = values if moves is None else moves.pixels(values, self.ignore)
        cells = slice(self.stride // 2, None, self.stride)
        return {place.name: moved[:, cells, cells].astype(np.int32)}

    def num_classes_at(self, place: Place) -> int | None:
        """See `Column`."""
        return self.num_classes or place.field.num_classes

    def _kept_type(self, place: Place) -> np.dtype:
        """The stored type, where it holds `ignore`."""
        stored = place.field.dtype
        holds = stored.kind in 'iu' and np.iinfo(stored).min <= self.ignore <= np.iinfo(stored).max
        return stored if holds else np.dtype(np.int32)

    def _check_values(self, values: np.ndarray, place: Place) -> None:
        classes = self.num_classes_at(place)
        wrong = values[(values < 0) | (values >= classes)] if classes is not None else values[:0]
        wrong = wrong[wrong != self.ignore]
        if wrong.size:
            raise ValueError(f'its {place.name} has the class {wrong[0]}, of {classes}, and ignores {self.ignore}')


@dataclasses.dataclass(frozen=True)
class Label(Column):
    """One class or one number for each example: int32, or float32 for real numbers.

    Attributes:
        feature: see `Column`.
    """

    feature: str | None = None

    def check(self, place: Place) -> None:
        """See `Column`."""
        if not is_numbers(place.field) or place.field.shape != ():
            place.refuse('one number for each image, a ClassLabel or a Scalar')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return {place.name: jax.ShapeDtypeStruct((), number_type(place.field))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        return {place.name: exact(place.name, place.field.value(example), number_type(place.field))}

    def num_classes_at(self, place: Place) -> int | None:
        """See `Column`."""
        return place.field.num_classes


@dataclasses.dataclass(frozen=True)
class Classes(Column):
    """Any number of classes for each example, as ones among zeros: (num_classes,).

    Attributes:
        feature: see `Column`; a Sequence of ClassLabel, such as 'objects/label'.
        num_classes: where the set does not say it.
        dtype: 'float32' or 'bool'.
    """

    feature: str | None = None
    num_classes: int | None = None
    dtype: str = 'float32'

    def check(self, place: Place) -> None:
        """See `Column`."""
        if place.field.dtype.kind not in 'iu' or len(place.field.shape) != 1:
            place.refuse('several classes for each image from a Sequence of ClassLabel')
        if self.num_classes_at(place) is None:
            raise ValueError(f'{place.subject} does not say how many classes there are: set num_classes.')
        if self.dtype not in ('float32', 'bool'):
            raise ValueError(f'{place.subject} has the dtype {self.dtype!r}; wanted float32 or bool.')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return {place.name: jax.ShapeDtypeStruct((self.num_classes_at(place),), np.dtype(self.dtype))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        found = np.asarray(place.field.value(example), np.int64)
        hot = np.zeros(self.num_classes_at(place), self.dtype)
        wrong = found[(found < 0) | (found >= len(hot))]
        if wrong.size:
            raise ValueError(f'its {place.name} has the class {wrong[0]}, of {len(hot)}')
        hot[found] = 1
        return {place.name: hot}

    def num_classes_at(self, place: Place) -> int | None:
        """See `Column`."""
        return self.num_classes or place.field.num_classes


@dataclasses.dataclass(frozen=True)
class Numbers(Column):
    """Numbers of a fixed shape: bool, int32, or float32 for real numbers.

    Attributes:
        feature: see `Column`.
        sided, geometric: see `Column`; a camera's pose is geometric.
    """

    feature: str | None = None
    sided: bool = False
    geometric: bool = False

    def check(self, place: Place) -> None:
        """See `Column`."""
        if not is_numbers(place.field) or None in place.field.shape:
            place.refuse('numbers from a Tensor of a fixed shape')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return {place.name: jax.ShapeDtypeStruct(place.field.shape, carried_type(place.field))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        return {place.name: exact(place.name, place.field.value(example), carried_type(place.field))}


@dataclasses.dataclass(frozen=True)
class Tokens(Column):
    """Words of each example as numbers, padded: int32 (at_most,).

    Attributes:
        at_most: number of words in the batch.
        feature: see `Column`; a Sequence or a Tensor of integers.
        cut: keep the first `at_most` of more; False refuses such an example.
    """

    at_most: int
    feature: str | None = None
    cut: bool = False

    def check(self, place: Place) -> None:
        """See `Column`."""
        if place.field.dtype.kind not in 'iu' or len(place.field.shape) != 1:
            place.refuse('words as numbers, a Sequence or a Tensor of integers')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return padded_spec(place.name, (self.at_most,), np.int32)

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        words = exact(place.name, place.field.value(example), np.int32)
        return padded(place.name, {place.name: words}, self.at_most, self.cut)


# Sets of labelled images.
LABELLED: Mapping[str, Column] = {'image': Pixels(), 'label': Label()}


def channels_of(field: Field) -> int:
    """The channels of an image; RGB if the data set leaves them open."""
    return field.shape[-1] or 3


def _stored(geometry: Geometry, pixels: np.ndarray, place: Place) -> Geometry:
    """The geometry of another picture of what the image shows, stored in its own size."""
    try:
        return geometry.of_stored(*pixels.shape[:2])
    except ValueError as error:
        raise ValueError(f'its {place.name} {error}') from error
