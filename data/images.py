"""The crops that a config can name: how a record becomes an image of the size wanted, on the host.

A host crop is a frozen dataclass with
    draws        how many uniform numbers it needs per example (see data/keyed.py)
    keyed_read   whether `read` uses them; if not, what it returns may be kept in memory
    read         (record, size, channels, draws) -> (height, width, channels), of the type that is stored
    adjust       (images (B, height, width, C), draws (B, n)) -> the same shape and type, vectorized
A record is the bytes of an image file of 8 bits a channel, or an array already decoded, of one of the types that
data/columns.py carries. A size is the side of a square or (height, width). Those of this file are a `Crop`: they also
say their geometry, which maps, boxes and points follow.

Sources: torchvision (https://github.com/pytorch/vision, BSD-3) and timm
(https://github.com/huggingface/pytorch-image-models, Apache-2) for the sampling of the random crop
and the rounding of the central one. Pillow resizes, with its antialiasing, as theirs.

Decoding large files at 1/2, 1/4 or 1/8 saves the most time, see `RandomResizedCrop.scaled_decode`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from longview.data.decoding import Record, decode, from_pillow, to_pillow
from longview.data.geometry import Geometry, Moves, Size, pair

FILTERS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}


def resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        return from_pillow(to_pillow(image).resize((width, height), FILTERS[interpolation]))
    # Pillow would weight the first three channels by the fourth, and has no colours of more than 8 bits.
    channels = [_resize_channel(image[..., c], height, width, interpolation) for c in range(image.shape[-1])]
    return np.stack(channels, axis=-1)


def _resize_channel(channel: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """(H, W) of any carried type, resized in float32 and rounded to that type again."""
    resized = Image.fromarray(channel.astype(np.float32)).resize((width, height), FILTERS[interpolation])
    values = np.asarray(resized)
    if channel.dtype.kind == 'f':
        return values
    limits = np.iinfo(channel.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(channel.dtype)


class Crop(abc.ABC):
    """A host crop that says its geometry, by which it reads; whoever changes `read` or `adjust` changes that too.

    Attributes:
        draws, keyed_read: see the file's docstring.
        cuts: whether a part of the image may be lost.
        mirrors: whether the image may be mirrored.
        pads: whether a part of the finished image may show nothing; batches then have the column `image_valid`.
        interpolation: 'bicubic', 'bilinear', 'nearest' or 'lanczos'.
    """

    draws: int = 0
    keyed_read: bool = False
    cuts: bool = False
    mirrors: bool = False
    pads: bool = False
    interpolation: str

    @abc.abstractmethod
    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """How `read` makes an image of `size` from one of `source`, both (height, width)."""

    def moves(self, draws: np.ndarray) -> Moves | None:
        """What `adjust` does, by draws (B, n); None: nothing."""
        del draws

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """(H, W, C) -> (height, width, C) of the same type."""
        return resize(image, height, width, self.interpolation)

    def read(self, data: Record, size: int | Size, channels: int, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        image = decode(data, channels)
        return self.geometry(image.shape[:2], pair(size), draws).pixels(image, self.resize)

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        moves = self.moves(draws)
        return images if moves is None else moves.pixels(images)


def _whole(source: Size, size: Size) -> Geometry:
    """The whole image, resized."""
    return Geometry(source, (0, 0, *source), size, size)


@dataclasses.dataclass(frozen=True)
class Resize(Crop):
    """The whole image, resized to the size wanted, whatever its shape; an image of that size passes unchanged."""

    interpolation: str = 'bicubic'

    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """See `Crop`."""
        return _whole(source, size)


@dataclasses.dataclass(frozen=True)
class Pad(Crop):
    """The whole image in its own shape, in the upper left corner; below it and to its right there are zeros.

    All images of a data set are laid on frames of one size, its `image_size`, so that there is one program: choose one
    that most of them fit into. `image_valid` (B, H, W) says where the image is.

    Attributes:
        shrink: make an image that is too large smaller, in its own shape, until it fits; False refuses it.
        enlarge: make a smaller image larger, in its own shape, until it fills the frame in one direction; False leaves
            its pixels alone.
        flip: mirror half of the images, which remain in the corner; for training.
        interpolation: see `Crop`.
    """

    shrink: bool = True
    enlarge: bool = False
    flip: bool = False
    interpolation: str = 'bilinear'
    pads: ClassVar[bool] = True

    @property
    def draws(self) -> int:
        """One, where it may mirror."""
        return int(self.flip)

    @property
    def keyed_read(self) -> bool:
        """Whether it may mirror."""
        return self.flip

    @property
    def mirrors(self) -> bool:
        """See `Crop`."""
        return self.flip

    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """See `Crop`."""
        mirror = self.flip and bool(draws[0] < 0.5)
        return Geometry(source, (0, 0, *source), self._fitted(source, size), size, mirror=mirror)

    def _fitted(self, source: Size, size: Size) -> Size:
        """The size of the image in its frame."""
        (height, width), (tall, wide) = source, size
        fits = height <= tall and width <= wide
        if not fits and not self.shrink:
            raise ValueError(f'its image is {height} x {width} and image_size {tall} x {wide}, and shrink is False')
        if fits and not self.enlarge:
            return source
        if height * wide >= width * tall:  # the height decides
            return tall, max(round(width * tall / height), 1)
        return max(round(height * wide / width), 1), wide


@dataclasses.dataclass(frozen=True)
class PadCrop(Crop):
    """For small images: pads with zeros, crops at random, may flip.

    Attributes:
        padding: pixels added on each side.
        flip: mirror half of the images; never for digits, whose classes it changes.
        interpolation: of the resize before it, where the stored size is another.
    """

    padding: int = 4
    flip: bool = False
    interpolation: str = 'bicubic'
    draws: ClassVar[int] = 3

    @property
    def cuts(self) -> bool:
        """See `Crop`."""
        return self.padding > 0

    @property
    def mirrors(self) -> bool:
        """See `Crop`."""
        return self.flip

    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """See `Crop`."""
        return _whole(source, size)

    def moves(self, draws: np.ndarray) -> Moves:
        """Each image by up to `padding` pixels, and mirrored, by its own three draws."""
        offset = (draws[:, :2] * (2 * self.padding + 1)).astype(np.int64) - self.padding
        return Moves(offset, self.flip & (draws[:, 2] < 0.5), self.padding)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A part of random area and shape, resized, and mirrored half of the time.

    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, https://arxiv.org/abs/1409.4842;
    the sampling is torchvision's and timm's: ten tries at an area (uniform) and a width/height
    ratio (uniform in its logarithm) that fit into the image, then the largest central crop within
    the ratios.

    Attributes:
        area: share of the image's area, lowest and highest.
        ratio: width / height, lowest and highest.
        flip: mirror half of the images.
        interpolation: 'bicubic', 'bilinear', 'nearest' or 'lanczos'.
        antialias: as Pillow, torchvision and timm; False is bilinear sampling without it, as
            tf.image.resize has it and the recipes written on tf.data: 2.5 times the images/s.
        scaled_decode: decode at 1/2, 1/4 or 1/8 where the crop still has more pixels than wanted: 2
            to 3 times faster on crops above twice `size`, no change on others. Moves pixels by one
            gray level on average.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    interpolation: str = 'bicubic'
    antialias: bool = True
    scaled_decode: bool = False
    draws: ClassVar[int] = 23
    keyed_read: ClassVar[bool] = True
    cuts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.antialias and self.interpolation != 'bilinear':
            raise ValueError(
                "antialias=False is there for interpolation='bilinear' alone, not "
                f'{self.interpolation!r}; drop one of the two.'
            )

    @property
    def mirrors(self) -> bool:
        """See `Crop`."""
        return self.flip

    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """See `Crop`."""
        return Geometry(source, self.box(*source, draws), size, size, mirror=self.flip and bool(draws[22] < 0.5))

    def box(self, height: int, width: int, draws: np.ndarray) -> tuple[int, int, int, int]:
        """(top, left, height, width) from 22 uniform numbers: ten areas, ten ratios, top, left."""
        area = height * width * (self.area[0] + (self.area[1] - self.area[0]) * draws[:10])
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * draws[10:20])
        widths, heights = (
            np.rint(np.sqrt(area * ratio)).astype(int),
            np.rint(np.sqrt(area / ratio)).astype(int),
        )
        fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
        if not fits.any():
            return self._central(height, width)
        first = int(np.argmax(fits))
        h, w = int(heights[first]), int(widths[first])
        return int(draws[20] * (height - h + 1)), int(draws[21] * (width - w + 1)), h, w

    def _central(self, height: int, width: int) -> tuple[int, int, int, int]:
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def read(self, data: Record, size: int | Size, channels: int, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        if self.scaled_decode and not isinstance(data, np.ndarray) and simplejpeg.is_jpeg(data):
            return self._read_scaled(data, pair(size), channels, draws)
        return super().read(data, size, channels, draws)

    def _read_scaled(self, data: bytes, size: Size, channels: int, draws: np.ndarray) -> np.ndarray:
        full_height, full_width = simplejpeg.decode_jpeg_header(data)[:2]
        geometry = self.geometry((full_height, full_width), size, draws)
        top, left, height, width = geometry.window
        enough = math.ceil(size[0] * full_height / height), math.ceil(size[1] * full_width / width)
        image = decode(data, channels, enough)
        y, x = image.shape[0] / full_height, image.shape[1] / full_width
        if (y, x) == (1, 1):
            return geometry.pixels(image, self.resize)
        box = (left * x, top * y, (left + width) * x, (top + height) * y)
        resized = from_pillow(to_pillow(image).resize((size[1], size[0]), FILTERS[self.interpolation], box))
        return resized[:, ::-1] if geometry.mirror else resized

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """See `Crop`."""
        if self.antialias:
            return super().resize(image, height, width)
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized[..., None] if resized.ndim == 2 else resized


@dataclasses.dataclass(frozen=True)
class CenterCrop(Crop):
    """Evaluation: resized in its own shape, the shorter side to int(size / fraction), then the central part of the size
    wanted; torchvision's rounding.

    Attributes:
        fraction: of the resized image's shorter side that the crop keeps, at most 1; 0.875 is 256 -> 224.
        interpolation: see `Crop`.
    """

    fraction: float = 0.875
    interpolation: str = 'bicubic'
    cuts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f'fraction={self.fraction} is no part of an image: use one above 0, up to 1.')

    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """See `Crop`."""
        (height, width), (tall, wide) = source, size
        if height * wide <= width * tall:  # the height is what the crop needs more of
            short = int(tall / self.fraction)
            resized = short, int(short * width / height)
        else:
            short = int(wide / self.fraction)
            resized = int(short * height / width), short
        offset = round((resized[0] - tall) / 2), round((resized[1] - wide) / 2)
        return Geometry(source, (0, 0, *source), resized, size, offset)
