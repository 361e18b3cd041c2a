"""A set of painted scenes: rectangles in a colour for each class, their maps and boxes, in several types and sizes."""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from longview.data.prepare import FORMAT
from tests.data.folder import data_dir
from tests.data.pictures import png

CLASSES, STEP = 4, 40  # classes 1 to 3 are rectangles of the colours 40, 80 and 120 on black
SIZES = [(30, 40), (40, 30), (33, 47), (64, 80), (20, 20), (24, 32), (50, 33), (31, 90)]

Rectangle = tuple[int, int, int, int]


@functools.cache
def scenes() -> list[tuple[np.ndarray, list[Rectangle]]]:
    """Maps (H, W) and the rectangle of each class, side by side and so never one over the other."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in SIZES:
        rectangles, third = [], width // 3
        for column in range(3):
            top, tall, wide = rng.integers(0, height - 8), rng.integers(6, height // 2), rng.integers(4, third + 1)
            left = column * third + rng.integers(0, third - wide + 1)
            rectangles.append((int(top), int(left), int(min(top + tall, height)), int(left + wide)))
        classes = np.zeros((height, width), np.uint8)
        for number, (top, left, bottom, right) in enumerate(rectangles, 1):
            classes[top:bottom, left:right] = number
        made.append((classes, rectangles))
    return made


def record_set(name: str, features: dict[str, Any], rows: Iterable[dict[str, Any]]) -> str:
    """Prepares a set in `data_dir()` whose splits `train` and `test` both hold `rows`; returns its name."""
    described, rows = tfds.features.FeaturesDict(features), list(rows)
    members = {
        'VERSION': tfds.core.Version('1.0.0'),
        '__module__': __name__,
        'name': name,
        '_info': lambda self: tfds.core.DatasetInfo(builder=self, features=described, disable_shuffling=True),
        '_split_generators': lambda self, downloads: {s: self._generate_examples() for s in ('train', 'test')},
        '_generate_examples': lambda self: iter(enumerate(rows)),
    }
    kind = type(name, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    kind(data_dir=data_dir(), file_format=FORMAT).download_and_prepare()
    return name


@functools.cache
def painted(dtype: str) -> str:
    """The scenes as a set whose images have that type, with the features of sets for segmentation and detection."""
    image = {
        'uint8': lambda: tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
        'uint16': lambda: tfds.features.Image(shape=(None, None, 3), dtype=np.uint16, encoding_format='png'),
        'float32': lambda: tfds.features.Tensor(shape=(None, None, 3), dtype=np.float32, encoding='zlib'),
    }[dtype]()
    features = {
        'image': image,
        'map': tfds.features.LabeledImage(labels=CLASSES, shape=(None, None, 1)),
        'objects': tfds.features.Sequence(
            {'bbox': tfds.features.BBoxFeature(), 'label': tfds.features.ClassLabel(num_classes=CLASSES)}
        ),
        'corners': tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
    }
    return record_set(f'painted_{dtype}', features, [_row(*scene, dtype) for scene in scenes()])


def _row(classes: np.ndarray, rectangles: list[Rectangle], dtype: str) -> dict[str, Any]:
    pixels = np.repeat(classes[..., None] * STEP, 3, axis=-1).astype(dtype)
    scale = np.array(classes.shape * 2)
    boxes = [tfds.features.BBox(*(np.array(r) / scale).tolist()) for r in rectangles]
    return {
        'image': pixels if dtype == 'float32' else png(pixels),
        'map': png(classes[..., None]),
        'objects': [{'bbox': box, 'label': number} for number, box in enumerate(boxes, 1)],
        'corners': np.array([r[:2] for r in rectangles], np.float32),
    }
