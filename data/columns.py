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
from numpy.typing import ArrayLike, DTypeLike

from longview.data.column import Column, Field, Place
from longview.data.decoding import decode, decode_values
from longview.data.geometry import Geometry, Moves
from longview.data.images import resize
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
    """The class of each pixel, int32 (H, W): always that of a stored pixel, the nearest.

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
    """One class, or one number, of each example: int32, and float32 where it is measured.

    Attributes:
        feature: see `Column`.
    """

    feature: str | None = None

    def check(self, place: Place) -> None:
        """See `Column`."""
        if not _is_numbers(place.field) or place.field.shape != ():
            place.refuse('one number for each image, a ClassLabel or a Scalar')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return {place.name: jax.ShapeDtypeStruct((), _number_type(place.field))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        return {place.name: exact(place.name, place.field.value(example), _number_type(place.field))}

    def num_classes_at(self, place: Place) -> int | None:
        """See `Column`."""
        return place.field.num_classes


@dataclasses.dataclass(frozen=True)
class Classes(Column):
    """Any number of classes of each example, as ones among zeros: (num_classes,).

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
    """Numbers of a fixed shape: bool, int32, and float32 where they are measured.

    Attributes:
        feature: see `Column`.
        sided, geometric: see `Column`; a camera's pose is geometric.
    """

    feature: str | None = None
    sided: bool = False
    geometric: bool = False

    def check(self, place: Place) -> None:
        """See `Column`."""
        if not _is_numbers(place.field) or None in place.field.shape:
            place.refuse('numbers from a Tensor of a fixed shape')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return {place.name: jax.ShapeDtypeStruct(place.field.shape, _carried_type(place.field))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        return {place.name: exact(place.name, place.field.value(example), _carried_type(place.field))}


@dataclasses.dataclass(frozen=True)
class Boxes(Column):
    """At most so many boxes of each example: (at_most, 4) of (y0, x0, y1, x1) in pixels of the finished image, float32.

    They are clipped to what the finished image shows; one of which no more than `smallest` is left is not valid.

    Attributes:
        at_most: number of boxes in the batch.
        feature: see `Column`; TFDS's BBoxFeature, or a Tensor of the same order.
        label: feature of their classes, which become NAME_label, int32 (at_most,); None: without.
        more: what else there is of each box: the ending of a column's name, such as 'crowd' for NAME_crowd, and its
            feature; bool, int32 or float32 (at_most,), as it is stored.
        leave_out: feature of truth values, such as 'objects/is_crowd': boxes of which it is true are not read.
        cut: keep the first `at_most` of more; False refuses such an example.
        smallest: sides, in pixels of the finished image, below which a box is not valid.
        pixels: they are stored in pixels of the stored image; False: in parts of its height and width.
    """

    at_most: int
    feature: str | None = None
    label: str | None = None
    more: Mapping[str, str] | None = None
    leave_out: str | None = None
    cut: bool = False
    smallest: float = 1.0
    pixels: bool = False
    follows: ClassVar[bool] = True

    @property
    def others(self) -> tuple[str, ...]:
        """See `Column`."""
        return (*self._beside.values(), *([] if self.leave_out is None else [self.leave_out]))

    @property
    def _beside(self) -> dict[str, str]:
        """The endings of the columns beside the boxes, and their features."""
        return ({} if self.label is None else {'label': self.label}) | dict(self.more or {})

    def check(self, place: Place) -> None:
        """See `Column`."""
        if place.field.dtype.kind not in 'iuf' or place.field.shape[1:] != (4,):
            place.refuse('boxes from a Sequence of BBoxFeature or a Tensor of (number, 4)')
        if isinstance(place.field.feature, tfds.features.BBoxFeature) and self.pixels:
            raise ValueError(f'{place.subject} is a BBoxFeature, whose boxes are no pixels: leave pixels out.')
        if {'label', 'valid'} & set(self.more or {}):
            raise ValueError(f'{place.subject} has the columns label and valid already: rename that in more.')
        for path, field in place.others.items():
            kinds = {self.label: 'iu', self.leave_out: 'b'}.get(path, 'biuf')
            if field.dtype.kind not in kinds or len(field.shape) != 1:
                wanted = {'iu': 'class', 'b': 'truth value', 'biuf': 'number'}[kinds]
                raise ValueError(
                    f'{place.subject} asks for {path!r}, which is {field.dtype} {field.shape}; wanted one {wanted} of '
                    'each box.'
                )

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        beside = {
            f'{place.name}_{ending}': jax.ShapeDtypeStruct((self.at_most,), _carried_type(place.others[path]))
            for ending, path in self._beside.items()
        }
        return _padded_spec(place.name, (self.at_most, 4), np.float32) | beside

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        corners = np.asarray(place.field.value(example), np.float64).reshape(-1, 2, 2)
        wrong = (corners[:, 0] > corners[:, 1]).any(-1) | ~np.isfinite(corners).all((1, 2))
        if wrong.any():
            box = ', '.join(f'{x:g}' for x in corners[wrong][0].ravel())
            raise ValueError(f'its {place.name} has ({box}), wanted (y0, x0, y1, x1) with y0 <= y1 and x0 <= x1')
        values = {place.name: corners}
        for ending, path in self._beside.items():
            name, field = f'{place.name}_{ending}', place.others[path]
            values[name] = exact(name, field.value(example), _carried_type(field))
        if self.leave_out is not None:
            read = ~np.asarray(place.others[self.leave_out].value(example), bool)
            values = {name: value[read] for name, value in values.items()}
        padded = _padded(place.name, values, self.at_most, self.cut)
        scale = (1, 1) if self.pixels else geometry.source
        corners = geometry.points(padded[place.name] * np.array(scale))
        return self._shown(place, padded | {place.name: corners}, geometry.shown())

    def finish(self, place: Place, read: HostBatch, moves: Moves | None) -> HostBatch:
        """See `Column`."""
        if moves is None:
            return read
        points = read[place.name].reshape(-1, 2 * self.at_most, 2)
        corners = moves.points(points, place.size).reshape(-1, self.at_most, 2, 2)
        return self._shown(place, read | {place.name: corners}, (np.zeros(2), np.array(place.size)))

    def num_classes_at(self, place: Place) -> int | None:
        """See `Column`."""
        return None if self.label is None else place.others[self.label].num_classes

    def _shown(self, place: Place, read: HostBatch, region: tuple[np.ndarray, np.ndarray]) -> HostBatch:
        """What is left in a region of the boxes, as two corners (..., 2, 2) each."""
        corners = np.sort(np.clip(read[place.name], *region), axis=-2)
        sides = corners[..., 1, :] - corners[..., 0, :]
        valid = read[f'{place.name}_valid'] & (sides > 0).all(-1) & (sides >= self.smallest).all(-1)
        boxes = corners.reshape(*valid.shape, 4).astype(np.float32)
        return _without_invalid(place.name, read | {place.name: boxes}, valid)


@dataclasses.dataclass(frozen=True)
class Points(Column):
    """At most so many points of each example: (at_most, D), float32.

    Attributes:
        at_most: number of points in the batch.
        feature: see `Column`.
        coordinates: 'fractions' (of height and width) or 'pixels': they are places (y, x) in the stored image, which
            become pixels of the finished one, and one that it does not show is not valid; None: points of another
            space, such as a cloud, which no crop concerns.
        cut: keep the first `at_most` of more; False refuses such an example.
        sided: see `Column`; true of points of which one is a left eye, another a right one.
    """

    at_most: int
    feature: str | None = None
    coordinates: str | None = None
    cut: bool = False
    sided: bool = False

    @property
    def follows(self) -> bool:
        """See `Column`."""
        return self.coordinates is not None

    def check(self, place: Place) -> None:
        """See `Column`."""
        if place.field.dtype.kind not in 'iuf' or len(place.field.shape) != 2 or place.field.shape[1] is None:
            place.refuse('points from a Sequence of Tensors or a Tensor of (number, coordinates)')
        if self.coordinates not in (None, 'fractions', 'pixels'):
            raise ValueError(f'coordinates={self.coordinates!r} are none of fractions, pixels and None.')
        if self.follows and place.field.shape[1] != 2:
            place.refuse('places in an image of two coordinates, (y, x)')

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return _padded_spec(place.name, (self.at_most, place.field.shape[1]), np.float32)

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        points = np.asarray(place.field.value(example), np.float64).reshape(-1, place.field.shape[1])
        padded = _padded(place.name, {place.name: points}, self.at_most, self.cut)
        if not self.follows:
            return padded | {place.name: padded[place.name].astype(np.float32)}
        scale = geometry.source if self.coordinates == 'fractions' else (1, 1)
        moved = geometry.points(padded[place.name] * np.array(scale))
        return self._shown(place, padded | {place.name: moved}, geometry.shown())

    def finish(self, place: Place, read: HostBatch, moves: Moves | None) -> HostBatch:
        """See `Column`."""
        if moves is None or not self.follows:
            return read
        moved = moves.points(read[place.name], place.size)
        return self._shown(place, read | {place.name: moved}, (np.zeros(2), np.array(place.size)))

    @staticmethod
    def _shown(place: Place, read: HostBatch, region: tuple[np.ndarray, np.ndarray]) -> HostBatch:
        points, (low, high) = read[place.name], region
        valid = read[f'{place.name}_valid'] & ((low <= points) & (points <= high)).all(-1)
        return _without_invalid(place.name, read | {place.name: points.astype(np.float32)}, valid)


@dataclasses.dataclass(frozen=True)
class Origin(Column):
    """Where the corners (0, 0) and (H, W) of the finished image lie in the stored one: (y0, x0, y1, x1) in its pixels.

    float32 (4,). What is found at (y, x) is at y0 + y / H * (y1 - y0) and x0 + x / W * (x1 - x0) of the stored image,
    as figures want it that are of the original size. Of a mirrored image x0 is the larger one; what shows nothing lies
    outside of the stored image.

    Attributes:
        feature: the feature of the column `image`.
    """

    feature: str = 'image'
    follows: ClassVar[bool] = True

    def check(self, place: Place) -> None:
        """See `Column`: any image has an origin."""

    def kept(self, place: Place) -> Spec:
        """See `Column`."""
        return {place.name: jax.ShapeDtypeStruct((4,), np.dtype(np.float32))}

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        corners = geometry.stored(np.array([(0, 0), place.size]))
        return {place.name: corners.ravel().astype(np.float32)}

    def finish(self, place: Place, read: HostBatch, moves: Moves | None) -> HostBatch:
        """See `Column`."""
        if moves is None:
            return read
        corners = read[place.name].reshape(-1, 2, 2)
        before = moves.stored(np.array([[(0, 0), place.size]]), place.size) / np.array(place.size)
        stored = corners[:, :1] + before * (corners[:, 1:] - corners[:, :1])
        return {place.name: stored.reshape(-1, 4).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Tokens(Column):
    """At most so many words of each example, as numbers: int32 (at_most,).

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
        return _padded_spec(place.name, (self.at_most,), np.int32)

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        words = exact(place.name, place.field.value(example), np.int32)
        return _padded(place.name, {place.name: words}, self.at_most, self.cut)


# Sets of labelled images.
LABELLED: Mapping[str, Column] = {'image': Pixels(), 'label': Label()}


def channels_of(field: Field) -> int:
    """Channels of an image; RGB where the data set leaves them open."""
    return field.shape[-1] or 3


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


def _is_numbers(field: Field) -> bool:
    return isinstance(field.feature, tfds.features.Tensor) and field.dtype.kind in 'biuf'


def _number_type(field: Field) -> np.dtype:
    """float32 of numbers that are no integers, which are measured, and int32 of all others."""
    return np.dtype(np.float32 if field.dtype.kind == 'f' else np.int32)


def _carried_type(field: Field) -> np.dtype:
    """That of numbers; bool of truth values."""
    return field.dtype if field.dtype.kind == 'b' else _number_type(field)


def _stored(geometry: Geometry, pixels: np.ndarray, place: Place) -> Geometry:
    """The geometry of another picture of what the image shows, stored in its own size."""
    try:
        return geometry.of_stored(*pixels.shape[:2])
    except ValueError as error:
        raise ValueError(f'its {place.name} {error}') from error


def _padded_spec(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Spec:
    valid = jax.ShapeDtypeStruct(shape[:1], np.dtype(np.bool_))
    return {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)), f'{name}_valid': valid}


def _padded(name: str, values: HostBatch, at_most: int, cut: bool) -> HostBatch:
    """Arrays of equal length with zeros up to `at_most`, and NAME_valid."""
    lengths = {key: len(value) for key, value in values.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f'it has {" and ".join(f"{count} {key}" for key, count in lengths.items())}')
    number = lengths[name]
    if number > at_most and not cut:
        raise ValueError(f'it has {number} {name} and at_most is {at_most}: raise that, or set cut to keep the first')
    kept = {key: value[:at_most] for key, value in values.items()}
    pad = lambda value: np.concatenate([value, np.zeros((at_most - len(value), *value.shape[1:]), value.dtype)])
    return {key: pad(value) for key, value in kept.items()} | {f'{name}_valid': np.arange(at_most) < number}


def _without_invalid(name: str, read: HostBatch, valid: np.ndarray) -> HostBatch:
    """Zeros where there is nothing valid."""
    parts = {key: value for key, value in read.items() if key != f'{name}_valid'}
    where = lambda value: valid.reshape(valid.shape + (1,) * (value.ndim - valid.ndim))
    return {key: np.where(where(value), value, value.dtype.type(0)) for key, value in parts.items()} | {
        f'{name}_valid': valid
    }
