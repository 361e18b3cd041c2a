"""Whether a batch can hold exactly what a data set announces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from longview.data.column import Column, Place
from longview.data.columns import LABELLED, Pixels
from longview.data.geometry import Size

RESERVED = ('epoch', 'index', 'mask', 'image_valid')


def check_features(
    features: tfds.features.FeaturesDict,
    dataset: str,
    columns: Mapping[str, Column] = LABELLED,
    crop: Any = None,
    size: Size | None = None,
) -> dict[str, Place]:
    """Finds the feature of every column.

    Args:
        features: of the data set.
        dataset: its name, for the sentence.
        columns: what is to be read.
        crop: what makes the images; None as long as nobody knows it.
        size: (height, width) of these; None as long as nobody knows it.

    Raises:
        ValueError: a feature is missing, or of a kind that a batch would alter.
    """
    for name, column in columns.items():
        if name in RESERVED:
            raise ValueError(f'A column of the data set {dataset!r} is called {name!r}, which is the name of another.')
        if column.follows and 'image' not in columns:
            raise ValueError(
                f'The {name} of the data set {dataset!r} shows places in an image, and there is no column image.'
            )
    if not isinstance(columns.get('image', Pixels()), Pixels):
        raise ValueError(f'The column image of the data set {dataset!r} is {columns["image"]}; wanted Pixels.')
    return {name: column.place(name, dataset, features, crop, size) for name, column in columns.items()}
