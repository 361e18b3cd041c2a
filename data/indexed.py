"""Examples that are found by their numbers, as what `Split` asks of a builder of TFDS."""

from __future__ import annotations

import abc
import bisect
import hashlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath


class Examples(abc.ABC):
    """One split."""

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """Of all examples, (N,), as they are stored; read without their images."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """An example by the names of its features, and `file_name` where it lies in a file of its own."""


class Indexed:
    """A data set of such splits; what is said of a TFDS builder holds of it: `name`, `data_dir`, `info`.

    Args:
        path: of the data set.
        features: of an example, in TFDS's words.
        splits: the examples of each.

    Raises:
        ValueError: a split is empty.
    """

    def __init__(
        self, path: str, features: Mapping[str, tfds.features.FeatureConnector], splits: Mapping[str, Examples]
    ) -> None:
        self.data_dir, self.name = path, os.path.basename(os.path.abspath(path))
        self._splits = splits
        empty = next((split for split, examples in splits.items() if not len(examples)), None)
        if empty is not None:
            raise ValueError(f'The split {empty} of {path} has no example.')
        infos = tfds.core.SplitDict([self._split_info(split) for split in splits])
        self.info = SimpleNamespace(features=tfds.features.FeaturesDict(features), splits=infos)

    def _split_info(self, split: str) -> tfds.core.SplitInfo:
        # TFDS takes slices of splits apart by their files: here it is one, which nobody opens.
        template = tfds.core.ShardedFileTemplate(
            epath.Path(self.data_dir), dataset_name='images', split=split, filetype_suffix='none'
        )
        return tfds.core.SplitInfo(split, [len(self._splits[split])], num_bytes=0, filename_template=template)

    def as_data_source(self, split: str, decoders: object = None) -> _Slices:
        """The examples of a split, or of slices, as they are stored."""
        del decoders
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(self.info.splits)
        found = [(self._splits[part.splitname], slice(part.from_, part.to)) for part in parts]
        return _Slices([(examples, range(len(examples))[part]) for examples, part in found])


class _Slices(Examples):
    """Slices of splits, one behind the other."""

    def __init__(self, parts: Sequence[tuple[Examples, range]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(numbers) for _, numbers in parts)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        part = bisect.bisect_right(self._starts, index) - 1
        examples, numbers = self._parts[part]
        return examples[numbers[index - self._starts[part]]]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    @property
    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return np.concatenate([examples.labels[numbers.start : numbers.stop] for examples, numbers in self._parts])


class Files(Examples):
    """Examples whose images lie in files of their own, read when they are asked for.

    Args:
        root: what the files' paths are relative to.
        files: a path for each example.
        labels: (N,)
    """

    def __init__(self, root: str, files: Sequence[str], labels: np.ndarray) -> None:
        self._root, self._files, self._labels = root, files, labels

    @property
    def labels(self) -> np.ndarray:
        """See `Examples`."""
        return self._labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = os.path.join(self._root, self._files[index])
        return {'image': pathlib.Path(file).read_bytes(), 'label': self._labels[index], 'file_name': file}


def numbering(paths: Sequence[str]) -> np.ndarray:
    """The order of the examples at these paths in a split, int64 (N,): by their SHA-256, which mixes all classes.

    Another image, and another place of the whole, leave the order of the others as it was.
    """
    encoding = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    digests = [hashlib.sha256(b'/' + path.encode(*encoding)).digest() for path in paths]
    return np.argsort(np.array(digests, 'S32'), kind='stable')
