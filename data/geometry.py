"""Where the pixels of a finished image come from: one geometry for all columns of an example.

A crop draws it once (data/images.py), and image, maps, boxes and points follow it alike. It has two parts. `Geometry`
makes of one image, of any size, one of the size wanted: a window of it, resized, mirrored, and laid on the finished
frame. `Moves` shifts and mirrors images that have that size already, a batch at once; images are kept in memory before
it, and so are what follows them.

Coordinates are (y, x) in pixels, the corners of the image (0, 0) and (height, width); a box is (y0, x0, y1, x1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

Size = tuple[int, int]


def pair(size: int | Size) -> Size:
    """(height, width) of a size that is either that or the side of a square.

    Raises:
        ValueError: it is neither.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f'The size {size} of images is neither the side of a square nor (height, width).')
    return sides


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a crop makes an image of `size` from one of `source`.

    Attributes:
        source: (height, width) of the image that is read.
        window: (top, left, height, width) of the part of it that is used.
        resized: (height, width) that the window is resized to.
        size: (height, width) of the finished image.
        offset: (y, x) of the finished image's corner in the resized window; what lies outside of that is filled.
        mirror: whether the resized window is mirrored left to right.
    """

    source: Size
    window: tuple[float, float, float, float]
    resized: Size
    size: Size
    offset: Size = (0, 0)
    mirror: bool = False

    def of_stored(self, height: int, width: int) -> Geometry:
        """The same region of an array that shows the same picture, stored at another scale.

        Raises:
            ValueError: it is not as many times larger or smaller, the same whole number of times in both directions.
        """
        if (height, width) == self.source:
            return self
        (tall, wide), scale = self.source, height / self.source[0]
        if height * wide != width * tall or not (scale.is_integer() or (1 / scale).is_integer()):
            raise ValueError(
                f'is stored as {height} x {width} and its image as {tall} x {wide}, wanted that size, a whole '
                'multiple of it or a whole part'
            )
        top, left, h, w = (edge * scale for edge in self.window)
        return dataclasses.replace(self, source=(height, width), window=(top, left, h, w))

    def times(self, scale: int) -> Geometry:
        """The same region, finished `scale` times as large."""
        large = lambda size: (scale * size[0], scale * size[1])
        return dataclasses.replace(self, resized=large(self.resized), size=large(self.size), offset=large(self.offset))

    @property
    def is_whole(self) -> bool:
        """Whether the window consists of whole pixels."""
        return all(float(edge).is_integer() for edge in self.window)

    def pixels(self, image: np.ndarray, resize: Callable[[np.ndarray, int, int], np.ndarray]) -> np.ndarray:
        """(height, width, C) of `source`'s size -> (*size, C), by `resize(image, height, width)`, of a whole window."""
        top, left, height, width = map(int, self.window)
        return self._laid(resize(image[top : top + height, left : left + width], *self.resized), 0)

    def nearest(self, array: np.ndarray, fill: float = 0) -> np.ndarray:
        """The same by the nearest pixel, whose value stays what it is; any trailing axes."""
        top, left, height, width = self.window
        rows, columns = _nearest(top, height, self.resized[0]), _nearest(left, width, self.resized[1])
        return self._laid(array[rows[:, None], columns], fill)

    def valid(self) -> np.ndarray:
        """Bool `size`: which pixels of the finished image show the window, and are not filled."""
        return self._laid(np.ones(self.resized, bool), False)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) of the source -> of the finished image."""
        top, left, height, width = self.window
        scale = np.array([self.resized[0] / height, self.resized[1] / width])
        moved = (points - np.array([top, left])) * scale
        if self.mirror:
            moved = np.array([0, self.resized[1]]) + moved * np.array([1, -1])
        return moved - np.array(self.offset)

    def stored(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) of the finished image -> of the source, the reverse of `points`."""
        top, left, height, width = self.window
        moved = points + np.array(self.offset)
        if self.mirror:
            moved = np.array([0, self.resized[1]]) + moved * np.array([1, -1])
        return moved * np.array([height / self.resized[0], width / self.resized[1]]) + np.array([top, left])

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """Two corners, (2,) each, of the part of the finished image that is not filled."""
        offset, resized = np.array(self.offset), np.array(self.resized)
        return np.clip(-offset, 0, self.size), np.clip(resized - offset, 0, self.size)

    def _laid(self, window: np.ndarray, fill: float) -> np.ndarray:
        """The resized window, mirrored, on the finished frame."""
        if self.mirror:
            window = window[:, ::-1]
        (y, x), (height, width) = self.offset, self.size
        if min(y, x) >= 0 and y + height <= self.resized[0] and x + width <= self.resized[1]:
            return window[y : y + height, x : x + width]
        laid = np.full((height, width, *window.shape[2:]), fill, window.dtype)
        (top, left), (bottom, right) = self.shown()
        laid[top:bottom, left:right] = window[top + y : bottom + y, left + x : right + x]
        return laid


def _nearest(start: float, extent: float, count: int) -> np.ndarray:
    """Which of the pixels in [start, start + extent) `count` pixels are, by Pillow's rounding, as for images."""
    first = math.floor(start)
    pixels = np.arange(first, math.ceil(start + extent), dtype=np.int32)
    if len(pixels) == count == extent:
        return pixels
    box = (0, start - first, 1, start - first + extent)
    return np.asarray(Image.fromarray(pixels[:, None]).resize((1, count), Image.Resampling.NEAREST, box))[:, 0]


@dataclasses.dataclass(frozen=True)
class Moves:
    """Shifts of finished images, and then mirrors, for each example of a batch its own.

    Attributes:
        offset: int (B, 2), (y, x) of the moved image's corner in the image; what lies outside of that is filled.
        mirror: bool (B,).
        reach: the largest offset, in either direction.
    """

    offset: np.ndarray
    mirror: np.ndarray
    reach: int

    def pixels(self, images: np.ndarray, fill: float = 0, scale: int = 1) -> np.ndarray:
        """(B, H, W, ...) -> the same shape; of images `scale` times as large as those that the offsets are of."""
        (height, width), reach = images.shape[1:3], scale * self.reach
        corner = scale * self.offset + reach
        y, x = corner[:, :1] + np.arange(height), corner[:, 1:] + np.arange(width)
        x = np.where(self.mirror[:, None], x[:, ::-1], x)
        edges = ((0, 0), (reach, reach), (reach, reach)) + ((0, 0),) * (images.ndim - 3)
        padded = np.pad(images, edges, constant_values=fill)
        return padded[np.arange(len(images))[:, None, None], y[:, :, None], x[:, None, :]]

    def points(self, points: np.ndarray, size: Size) -> np.ndarray:
        """(B, N, 2) of images of `size` -> of the moved ones."""
        moved = points - self.offset[:, None, :]
        mirrored = np.array([0, size[1]]) + moved * np.array([1, -1])
        return np.where(self.mirror[:, None, None], mirrored, moved)

    def stored(self, points: np.ndarray, size: Size) -> np.ndarray:
        """(B, N, 2) of the moved images -> of those before, the reverse of `points`."""
        mirrored = np.array([0, size[1]]) + points * np.array([1, -1])
        return np.where(self.mirror[:, None, None], mirrored, points) + self.offset[:, None, :]
