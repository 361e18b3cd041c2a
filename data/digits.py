"""Optical digits, 8x8 gray: the real data set that needs no download.

Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998, https://doi.org/10.24432/C50P49. The 1,797 images are UCI's test set as scikit-learn carries
it (`load_digits`, BSD-3).

Where we differ: the set comes as one piece, so every fifth example (index % 5 == 4) is our test
split, the other four fifths are for training (1,438 and 359); and the sixteen gray steps become
bytes, see `to_uint8`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from longview.data.decoding import encode_png


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Maps 0..16 to 0..255 in integers: v -> floor((255 v + 8) / 16), round(255 v / 16) half up."""
    return ((values.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits `train` (1,438) and `test` (359); `image` (8, 8, 1) uint8, `label` of 10 classes."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Handwritten digits, 8x8 gray, as scikit-learn carries them.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
                    'label': tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://doi.org/10.24432/C50P49',
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {'train': self._generate_examples(False), 'test': self._generate_examples(True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict]]:
        images, labels = _whole()
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            if _in_test(index) == test:
                yield index, {'image': encode_png(image), 'label': int(label)}


def arrays(test: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, uint8 (N, 8, 8, 1), and labels of a split, for data sets that are made of them."""
    images, labels = _whole()
    chosen = _in_test(np.arange(len(images))) == test
    return images[chosen], labels[chosen]


def _whole() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import, and needed only while preparing

    digits = load_digits()
    return to_uint8(digits.images)[..., None], digits.target


def _in_test(index: int | np.ndarray) -> bool | np.ndarray:
    return index % 5 == 4
