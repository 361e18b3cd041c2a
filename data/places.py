"""Kinds of columns that show places in the image: boxes, points, and the image's own place (data/columns.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
import tensorflow_datasets as tfds

from longview.data.column import Column, Place, carried_type, exact, padded, padded_spec, without_invalid
from longview.data.geometry import Geometry, Moves
from longview.data.source import HostBatch, Spec

Example = Mapping[str, Any]


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
            f'{place.name}_{ending}': jax.ShapeDtypeStruct((self.at_most,), carried_type(place.others[path]))
            for ending, path in self._beside.items()
        }
        return padded_spec(place.name, (self.at_most, 4), np.float32) | beside

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
            values[name] = exact(name, field.value(example), carried_type(field))
        if self.leave_out is not None:
            read = ~np.asarray(place.others[self.leave_out].value(example), bool)
            values = {name: value[read] for name, value in values.items()}
        full = padded(place.name, values, self.at_most, self.cut)
        scale = (1, 1) if self.pixels else geometry.source
        corners = geometry.points(full[place.name] * np.array(scale))
        return self._shown(place, full | {place.name: corners}, geometry.shown())

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
        # Parts of a side, stored in float32, are off by a little.
        valid = read[f'{place.name}_valid'] & (sides > max(self.smallest - 1e-3, 0)).all(-1)
        boxes = corners.reshape(*valid.shape, 4).astype(np.float32)
        return without_invalid(place.name, read | {place.name: boxes}, valid)


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
        return padded_spec(place.name, (self.at_most, place.field.shape[1]), np.float32)

    def read(self, place: Place, example: Example, geometry: Geometry | None) -> HostBatch:
        """See `Column`."""
        points = np.asarray(place.field.value(example), np.float64).reshape(-1, place.field.shape[1])
        full = padded(place.name, {place.name: points}, self.at_most, self.cut)
        if not self.follows:
            return full | {place.name: full[place.name].astype(np.float32)}
        scale = geometry.source if self.coordinates == 'fractions' else (1, 1)
        moved = geometry.points(full[place.name] * np.array(scale))
        return self._shown(place, full | {place.name: moved}, geometry.shown())

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
        return without_invalid(place.name, read | {place.name: points.astype(np.float32)}, valid)


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
