"""Images of every kind that the tests read, as arrays and as files."""

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

PHOTO = load_sample_image('china.jpg')


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind, **({'quality': 92} if kind == 'jpeg' else {}), **options)
    return out.getvalue()


def jpeg(height: int, width: int) -> bytes:
    return encoded(Image.fromarray(PHOTO).resize((width, height), Image.Resampling.BICUBIC), 'jpeg')


def png(array: np.ndarray) -> bytes:
    """PNG bytes of an array uint8 or uint16 of 1, 3 or 4 channels; OpenCV begins with blue."""
    channels = [0] if array.shape[-1] == 1 else [2, 1, 0, 3][: array.shape[-1]]
    return cv2.imencode('.png', array[..., channels])[1].tobytes()


def numbers(dtype: str, *shape: int) -> np.ndarray:
    """The whole range of an integer type, or normal numbers."""
    rng = np.random.default_rng(0)
    if dtype == 'float32':
        return rng.normal(size=shape).astype(np.float32)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape, dtype=dtype)
