"""What a data set says of its images and labels, and whether a batch can hold exactly that."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

IMAGE_TYPES = ('uint8', 'uint16', 'int16', 'float32')
FILE_CHANNELS = (1, 3, 4)


def check_features(features: tfds.features.FeaturesDict, name: str) -> None:
    """Says in one raised sentence what `Images` cannot carry.

    Args:
        features: of the data set.
        name: of the data set, for the sentence.

    Raises:
        ValueError: there is no image or label, or one of a kind that a batch would alter.
    """
    missing = {'image', 'label'} - set(features)
    if missing:
        raise ValueError(
            f'The data set {name!r} has no feature {sorted(missing)[0]!r}, only '
            f'{", ".join(features)}; Images reads sets of labelled images.'
        )
    _check_image(features['image'], name)
    _check_label(features['label'], name)


def _check_image(feature: tfds.features.FeatureConnector, name: str) -> None:
    kinds = (tfds.features.Image, tfds.features.Tensor)
    if not isinstance(feature, kinds) or len(feature.shape) != 3:
        raise ValueError(
            f'The image of the data set {name!r} is {_words(feature)}; Images reads an Image or a Tensor of '
            '(height, width, channels).'
        )
    if np.dtype(feature.np_dtype).name not in IMAGE_TYPES:
        raise ValueError(
            f'The images of the data set {name!r} are {np.dtype(feature.np_dtype)}; Images reads '
            f'{", ".join(IMAGE_TYPES)}: prepare it as one of these.'
        )
    if is_encoded(feature) and image_channels(feature) not in FILE_CHANNELS and feature.np_dtype != np.float32:
        raise ValueError(
            f'The images of the data set {name!r} are files of {feature.shape[-1]} channels; Images reads files of '
            f'{", ".join(map(str, FILE_CHANNELS))} channels, and any number of them from a Tensor: prepare it as that.'
        )


def _check_label(feature: tfds.features.FeatureConnector, name: str) -> None:
    if not isinstance(feature, tfds.features.Tensor) or feature.shape != () or _kind(feature) not in 'biuf':
        raise ValueError(
            f'The label of the data set {name!r} is {_words(feature)}; Images reads one number for each image, '
            'a ClassLabel or a Scalar.'
        )


def is_encoded(feature: tfds.features.FeatureConnector) -> bool:
    """Whether the images are stored as files, and not as arrays."""
    return isinstance(feature, tfds.features.Image)


def image_channels(feature: tfds.features.FeatureConnector) -> int:
    """Channels of the images; RGB where the data set leaves them open."""
    return feature.shape[-1] or 3


def label_type(feature: tfds.features.FeatureConnector) -> np.dtype:
    """float32 of labels that are no integers, which are measured, and int32 of all others."""
    return np.dtype(np.float32 if _kind(feature) == 'f' else np.int32)


def _kind(feature: tfds.features.FeatureConnector) -> str:
    return np.dtype(feature.np_dtype).kind


def _words(feature: tfds.features.FeatureConnector) -> str:
    return f'a {type(feature).__name__} of shape {feature.shape}'
