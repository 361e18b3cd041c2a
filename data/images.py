"""The crops that a config can name: how a record becomes an image of the size wanted, on the host.

A host crop is a frozen dataclass with
    draws        how many uniform numbers it needs per example (see data/keyed.py)
    keyed_read   whether `read` uses them; if not, what it returns may be kept in memory
    read         (record, size, channels, draws) -> (size, size, channels), of the type that is stored
    adjust       (images (B, size, size, C), draws (B, n)) -> the same shape and type, vectorized
A record is the bytes of an image file of 8 bits a channel, or an array already decoded, of one of the types that
data/features.py carries.

Sources: torchvision (https://github.com/pytorch/vision, BSD-3) and timm
(https://github.com/huggingface/pytorch-image-models, Apache-2) for the sampling of the random crop
and the rounding of the central one. Pillow resizes, with its antialiasing, as theirs.

Decoding large files at 1/2, 1/4 or 1/8 saves the most time, see `RandomResizedCrop.scaled_decode`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from longview.data.decoding import Record, decode, from_pillow, to_pillow

_FILTERS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}


def _resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        return from_pillow(to_pillow(image).resize((width, height), _FILTERS[interpolation]))
    # Pillow would weight the first three channels by the fourth, and has no colours of more than 8 bits.
    channels = [_resize_channel(image[..., c], height, width, interpolation) for c in range(image.shape[-1])]
    return np.stack(channels, axis=-1)


def _resize_channel(channel: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """(H, W) of any carried type, resized in float32 and rounded to that type again."""
    resized = Image.fromarray(channel.astype(np.float32)).resize((width, height), _FILTERS[interpolation])
    values = np.asarray(resized)
    if channel.dtype.kind == 'f':
        return values
    limits = np.iinfo(channel.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(channel.dtype)


@dataclasses.dataclass(frozen=True)
class Resize:
    """The whole image, resized to (size, size); an image of that size passes unchanged."""

    interpolation: str = 'bicubic'
    draws: ClassVar[int] = 0
    keyed_read: ClassVar[bool] = False

    def read(self, data: Record, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        return _resize(decode(data, channels), size, size, self.interpolation)

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes nothing."""
        return images


@dataclasses.dataclass(frozen=True)
class PadCrop:
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
    keyed_read: ClassVar[bool] = False

    def read(self, data: Record, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        return _resize(decode(data, channels), size, size, self.interpolation)

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Moves each image by up to `padding` pixels and mirrors it, by its own three draws."""
        size, pad = images.shape[1], self.padding
        offsets = (draws[:, :2] * (2 * pad + 1)).astype(np.int64)
        windows = offsets[..., None] + np.arange(size)
        y, x = windows[:, 0], windows[:, 1]
        if self.flip:
            x = np.where(draws[:, 2:] < 0.5, x[:, ::-1], x)
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        return padded[np.arange(len(images))[:, None, None], y[:, :, None], x[:, None, :]]


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
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

    def __post_init__(self) -> None:
        if not self.antialias and self.interpolation != 'bilinear':
            raise ValueError(
                "antialias=False is there for interpolation='bilinear' alone, not "
                f'{self.interpolation!r}; drop one of the two.'
            )

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

    def read(self, data: Record, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        if self.scaled_decode and not isinstance(data, np.ndarray) and simplejpeg.is_jpeg(data):
            image = self._read_scaled(data, size, channels, draws)
        else:
            image = decode(data, channels)
            top, left, height, width = self.box(*image.shape[:2], draws)
            image = self._resize(image[top : top + height, left : left + width], size)
        return image[:, ::-1] if self.flip and draws[22] < 0.5 else image

    def _read_scaled(self, data: bytes, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        full_height, full_width = simplejpeg.decode_jpeg_header(data)[:2]
        top, left, height, width = self.box(full_height, full_width, draws)
        enough = math.ceil(size * full_height / height), math.ceil(size * full_width / width)
        image = decode(data, channels, enough)
        y, x = image.shape[0] / full_height, image.shape[1] / full_width
        if (y, x) == (1, 1):
            return self._resize(image[top : top + height, left : left + width], size)
        box = (left * x, top * y, (left + width) * x, (top + height) * y)
        return from_pillow(to_pillow(image).resize((size, size), _FILTERS[self.interpolation], box))

    def _resize(self, image: np.ndarray, size: int) -> np.ndarray:
        if self.antialias:
            return _resize(image, size, size, self.interpolation)
        resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        return resized[..., None] if resized.ndim == 2 else resized

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes nothing: all is done in reading."""
        return images


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Evaluation: the shorter side to int(size / fraction), then the central (size, size);
    torchvision's rounding.

    Attributes:
        fraction: of the resized image's shorter side that the crop keeps; 0.875 is 256 -> 224.
        interpolation: see `RandomResizedCrop`.
    """

    fraction: float = 0.875
    interpolation: str = 'bicubic'
    draws: ClassVar[int] = 0
    keyed_read: ClassVar[bool] = False

    def read(self, data: Record, size: int, channels: int, draws: np.ndarray) -> np.ndarray:
        """See the file's docstring."""
        image = decode(data, channels)
        height, width = image.shape[:2]
        short = int(size / self.fraction)
        if height <= width:
            height, width = short, int(short * width / height)
        else:
            height, width = int(short * height / width), short
        image = _resize(image, height, width, self.interpolation)
        top, left = round((height - size) / 2), round((width - size) / 2)
        return image[top : top + size, left : left + size]

    def adjust(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes nothing."""
        return images
