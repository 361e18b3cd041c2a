"""A data set that Hugging Face's `datasets` has saved: a folder written by `save_to_disk`.

https://github.com/huggingface/datasets (Apache-2) opens it, and is imported here alone. Its columns `image` (an Image,
the bytes of image files, or an Array3D) and `label` (a ClassLabel or a number) are read, row by row and without its
decoding: pixels come as those of a TFDS set do. The splits are those of a DatasetDict; a single Dataset is `train`.
"""

from __future__ import annotations

import importlib
import os
import pathlib
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from longview.data.indexed import Examples, Indexed

_MARKS = ('dataset_dict.json', 'state.json')  # of a DatasetDict and of a Dataset
_CHANNELS = {'L': 1, 'RGBA': 4}


def is_saved(path: str) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any(os.path.isfile(os.path.join(os.path.expanduser(path), mark)) for mark in _MARKS)


class HuggingFace(Indexed):
    """What `Split` asks of a TFDS builder, answered by a saved set.

    Args:
        path: of its folder; `~` is expanded.

    Raises:
        ModuleNotFoundError: `datasets` is not installed.
        ValueError: its splits have different columns.
    """

    def __init__(self, path: str) -> None:
        path = os.path.expanduser(path)
        package = _package(path)
        loaded = package.load_from_disk(path)
        tables = dict(loaded) if isinstance(loaded, dict) else {'train': loaded}
        columns = {split: table.features.to_dict() for split, table in tables.items()}
        first, described = next(iter(columns.items()))
        for split, others in columns.items():
            if others != described:
                raise ValueError(f'The splits {first} and {split} of {path} have different columns; save them alike.')
        found = {name: feature for name, column in described.items() if (feature := _feature(column)) is not None}
        super().__init__(path, found, {split: _Rows(table, found, package) for split, table in tables.items()})


class _Rows(Examples):
    """The rows of a `datasets.Dataset`."""

    def __init__(self, table: Any, features: dict[str, Any], package: ModuleType) -> None:
        self._table = table.select_columns(list(features))
        for name, column in table.features.to_dict().items():
            if column.get('_type') == 'Image':
                self._table = self._table.cast_column(name, package.Image(decode=False))
        self._features = features

    @property
    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return np.asarray(self._table['label'][:])

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._table[index]
        example = {name: self._stored(name, value) for name, value in row.items()}
        file = next((image['path'] for image in row.values() if isinstance(image, dict)), None)
        return example | ({'file_name': file} if file else {})

    def _stored(self, name: str, value: Any) -> Any:
        """A value as TFDS gives it: files as bytes, all else as arrays."""
        if isinstance(value, dict):  # an Image: the bytes of a file, or where it lies
            value = value['bytes'] or (pathlib.Path(value['path']).read_bytes() if value['path'] else None)
        if value is None:
            raise ValueError(f'it has no {name}')
        return value if isinstance(value, bytes) else np.asarray(value, self._features[name].np_dtype)


def _feature(column: Any) -> tfds.features.FeatureConnector | None:
    """A column in TFDS's words; None of one that no batch can hold."""
    kind = column.get('_type') if isinstance(column, dict) else None
    if kind == 'Image' or (kind == 'Value' and column['dtype'] in ('binary', 'large_binary')):
        return tfds.features.Image(shape=(None, None, _CHANNELS.get(column.get('mode'), 3)))
    if kind == 'ClassLabel':
        return tfds.features.ClassLabel(names=column['names'])
    if kind in ('Array2D', 'Array3D'):
        return tfds.features.Tensor(shape=tuple(column['shape']), dtype=np.dtype(column['dtype']))
    if kind == 'Value' and column['dtype'] == 'string':
        return tfds.features.Text()
    if kind == 'Value' and column['dtype'].startswith(('bool', 'int', 'uint', 'float')):
        return tfds.features.Scalar(np.dtype(column['dtype']))
    return None


def _package(path: str) -> ModuleType:
    try:
        return importlib.import_module('datasets')
    except ModuleNotFoundError as error:
        if error.name != 'datasets':
            raise
        raise ModuleNotFoundError(
            f'{path} was saved by Hugging Face\'s datasets, which opens it: pip install "longview[huggingface]".',
            name='datasets',
        ) from None
