"""Thirty-two photographs in the shape of ImageNet, so that every ImageNet config runs without
ImageNet.

Features and split names are those of TFDS's imagenet2012. The pictures are cut, resized and
compressed from the two photographs that scikit-learn carries (`load_sample_images`); the labels
mean nothing. Among them is what the real set contains too: gray and CMYK JPEGs, a PNG called JPEG,
very small, very large and very long images.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from longview.data import keyed

# (height, width) in turn: mostly ImageNet's usual ones, and one each that is small, long or large.
_USUAL = ((375, 500), (500, 375), (333, 500), (375, 500))
SIZES = 3 * _USUAL + ((500, 500), (150, 200), (60, 480), (1200, 1600))
COUNTS = {'train': 32, 'validation': 10}


def make_image(photo: np.ndarray, number: int) -> Image.Image:
    """A random part of the photograph, resized to the `number`-th size."""
    height, width = SIZES[number % len(SIZES)]
    part, top, left = keyed.uniforms(0, np.array([0]), np.array([number]), 3)[0]
    side = 0.4 + 0.6 * part
    scale = side * min(photo.shape[0] / height, photo.shape[1] / width)
    box_height, box_width = scale * height, scale * width
    y, x = top * (photo.shape[0] - box_height), left * (photo.shape[1] - box_width)
    return Image.fromarray(photo).resize(
        (width, height), Image.Resampling.BICUBIC, (x, y, x + box_width, y + box_height)
    )


def encode(image: Image.Image, number: int) -> bytes:
    """JPEG bytes; three of thirty-two are gray, CMYK and in truth a PNG."""
    kind = {3: 'gray', 6: 'cmyk', 9: 'png'}.get(number % 32)
    if kind in ('gray', 'cmyk'):
        image = image.convert('L' if kind == 'gray' else 'CMYK')
    out = io.BytesIO()
    image.save(out, 'png' if kind == 'png' else 'jpeg', quality=92)
    return out.getvalue()


class FakeImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits `train` (32), `validation` (10); `image` (H, W, 3), `label` of 1,000, `file_name`."""

    VERSION = tfds.core.Version('1.0.1')

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Photographs in the shape of ImageNet.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
                    'label': tfds.features.ClassLabel(num_classes=1000),
                    'file_name': tfds.features.Text(),
                }
            ),
            supervised_keys=('image', 'label'),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        from sklearn.datasets import (
            load_sample_images,
        )  # slow to import, and needed only while preparing

        photos = load_sample_images().images
        for index in range(COUNTS[split]):
            number = index if split == 'train' else 100 + index
            image = encode(make_image(photos[number % 2], number), number)
            yield (
                index,
                {
                    'image': image,
                    'label': 31 * number % 1000,
                    'file_name': f'{split}_{index:03d}.JPEG',
                },
            )
