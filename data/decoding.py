"""Decodes image files: the stored pixels, or an error that says why not.

Pixels come as they lie in the file. The orientation that a camera notes in EXIF is not applied, whichever decoder reads
the file; TFDS and torchvision leave it alone, too. (TIFF's own orientation tag says in which order the rows are stored
and is followed.) Of an animation the first picture is read.

Of the decoders that pip installs, simplejpeg is the fastest whose pixels equal Pillow's (500 x 375, one core: 919
images/s; imagecodecs 867, OpenCV 882, Pillow 780). libvips can decode only the part that a crop needs, and takes longer
for it (463) than simplejpeg for the whole. Pillow cuts colours of 16 bits to 8; OpenCV keeps them.
"""

from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np
import simplejpeg
from numpy.typing import DTypeLike
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

Record = bytes | np.ndarray

_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}  # Pillow's names
_IN_RGBA = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA')  # what RGBA holds without loss


def encode_png(image: np.ndarray) -> bytes:
    """The PNG bytes of an image uint8 (H, W, 1), (H, W, 3) or (H, W, 4)."""
    out = io.BytesIO()
    to_pillow(image).save(out, 'png')
    return out.getvalue()


def decode(data: Record, channels: int, at_least: tuple[int, int] = (0, 0), dtype: DTypeLike = np.uint8) -> np.ndarray:
    """Any image file, or an array already decoded -> `dtype` (H, W, channels).

    Args:
        data: the file's bytes. An array passes as it is.
        channels: 1, 3 or 4. Images of 8 bits of another kind are converted to 1 and 3 as Pillow does it; to 4 only
            those that lose nothing.
        at_least: (height, width) that suffice: a JPEG is decoded at 1/2, 1/4 or 1/8 if that is no smaller.
        dtype: uint8, equal to Pillow's own decoding; uint16, of a PNG of 16 bits; float32 (H, W, 1), of a PNG whose
            four channels are the bytes of each number, as TFDS stores them.

    Raises:
        ValueError, OSError: the bytes are not a whole image, or one that `dtype` and `channels` would alter.
    """
    if isinstance(data, np.ndarray):
        if data.shape[-1] != channels:
            raise ValueError(f'it has the shape {data.shape} and the data set announces {channels} channels')
        return data
    if dtype == np.uint16:
        return _deep_png(data, channels)
    if dtype == np.float32:
        return _by_pillow(data, 4, modes=('RGBA',)).view('<f4').astype(np.float32, copy=False)
    if channels != 4 and simplejpeg.is_jpeg(data):
        space, (height, width) = 'RGB' if channels == 3 else 'GRAY', at_least
        factor = 2 if any(at_least) else 1
        with contextlib.suppress(ValueError):  # damage that Pillow may forgive: it decides
            # simplejpeg's own way from CMYK to RGB is one gray level off Pillow's.
            if simplejpeg.decode_jpeg_header(data)[2] in ('YCbCr', 'RGB', 'Gray'):
                return simplejpeg.decode_jpeg(data, space, min_height=height, min_width=width, min_factor=factor)
    return _by_pillow(data, channels, modes=_IN_RGBA if channels == 4 else None)


def decode_values(data: Record, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """A file, or an array, of one value for each pixel, such as its class -> `dtype` (H, W).

    A palette's colours are left aside: the values of such a file are their numbers.

    Args:
        data: the file's bytes. An array passes as it is, without a last axis of 1.
        dtype: uint8, or uint16 of a PNG of 16 bits.

    Raises:
        ValueError, OSError: the bytes are not a whole image, or hold no such values.
    """
    if isinstance(data, np.ndarray):
        return data[..., 0] if data.ndim == 3 else data
    if dtype == np.uint16:
        return _deep_png(data, 1)[..., 0]
    if simplejpeg.is_jpeg(data):
        raise ValueError('it is a JPEG, which does not keep the values of pixels: store it as a PNG')
    return _by_pillow(data, None, modes=('1', 'L', 'P'))[..., 0]


def sized(data: Record, channels: int) -> tuple[Record, tuple[int, int]]:
    """A record and its (height, width): a JPEG as it is, for its header says that; all else decoded."""
    if not isinstance(data, np.ndarray):
        if channels != 4 and simplejpeg.is_jpeg(data):
            with contextlib.suppress(ValueError):
                height, width = simplejpeg.decode_jpeg_header(data)[:2]
                return data, (height, width)
        data = decode(data, channels)
    return data, data.shape[:2]


def _by_pillow(data: bytes, channels: int | None, modes: tuple[str, ...] | None) -> np.ndarray:
    """An image of 8 bits a channel; of any kind, or of one of Pillow's `modes`; channels None: as it is stored."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if _is_deep(image, data):
                raise ValueError('it is stored in more than 8 bits a channel and the data set announces uint8')
            if modes and image.mode not in modes:
                raise ValueError(f'it is stored as {image.mode}, wanted {" or ".join(modes)}')
            return from_pillow(image.convert(_MODES[channels]) if channels else image)
    except Image.DecompressionBombError as error:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(f'it has more than the {most:,} pixels that Pillow decodes: store it smaller') from error
    except UnidentifiedImageError as error:
        raise ValueError(f'it is none of {", ".join(_FORMATS)}') from error
    except SyntaxError as error:  # Pillow's word for a damaged PNG
        raise ValueError(str(error)) from error


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether the file has more than 8 bits a channel, which Pillow's RGB and RGBA do not tell."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(Tag.BitsPerSample, (1,))) > 8
    return _png_bits(data) > 8


def _png_bits(data: bytes) -> int:
    """Bits a channel of a PNG (its 25th byte); 8 for any other file."""
    return data[24] if data.startswith(b'\x89PNG') and len(data) > 24 else 8


def _deep_png(data: bytes, channels: int) -> np.ndarray:
    """The exact uint16 (H, W, channels) of a PNG of 16 bits."""
    if _png_bits(data) != 16:
        raise ValueError('it is no PNG of 16 bits a channel and the data set announces uint16')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(str(error)) from error
    if image is None:
        raise ValueError('it is not a whole PNG')
    image = np.atleast_3d(image)
    if image.shape[-1] != channels:
        raise ValueError(f'it is stored in {image.shape[-1]} channels and the data set announces {channels}')
    return image if channels == 1 else image[..., [2, 1, 0, 3][:channels]]  # OpenCV begins with blue


def to_pillow(image: np.ndarray) -> Image.Image:
    """An array (H, W, C) as Pillow's image, C one that Pillow has."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Pillow's image as an array (H, W, C)."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
