"""A folder of image files as a data set: FOLDER/SPLIT/CLASS/IMAGE, such as pets/train/cats/0.jpg.

Splits are the folders that hold folders, classes the folders in them, in sorted order and the same in every split.
Images lie in their class's folder, or deeper, and become RGB of 8 bits. What is hidden, its name beginning with a dot,
is not seen; any other file that is no image is refused, and not left out. Examples are numbered in the order of the
SHA-256 of their paths, so that a slice of a split is a random part of every class, as of a set that TFDS has prepared.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from types import SimpleNamespace

import tensorflow_datasets as tfds
from etils import epath

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
_LAYOUT = 'wanted FOLDER/SPLIT/CLASS/IMAGE, such as pets/train/cats/0.jpg'


def is_path(name: str) -> bool:
    """Whether the name of a data set is a path; none of TFDS begins so."""
    return name.startswith(('/', '~', './', '../'))


class ImageFolder:
    """What `Split` asks of a TFDS builder, answered by a folder.

    Args:
        path: of the folder; `~` is expanded.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is laid out otherwise.
    """

    def __init__(self, path: str) -> None:
        self.data_dir = os.path.expanduser(path)
        self.name = os.path.basename(os.path.abspath(self.data_dir))
        root = pathlib.Path(self.data_dir)
        if not root.is_dir():
            raise FileNotFoundError(f'There is no folder {self.data_dir}; {_LAYOUT}.')
        classes = {split: names for split in _folders(root) if (names := _folders(root / split))}
        if not classes:
            raise ValueError(f'The folder {self.data_dir} has no folder of folders in it; {_LAYOUT}.')
        names = _common(classes, self.data_dir)
        self._images = {split: _images(root / split, names) for split in classes}
        features = {'image': tfds.features.Image(), 'label': tfds.features.ClassLabel(names=names)}
        splits = tfds.core.SplitDict(map(self._split_info, classes))
        self.info = SimpleNamespace(features=tfds.features.FeaturesDict(features), splits=splits)

    def _split_info(self, split: str) -> tfds.core.SplitInfo:
        count = len(self._images[split])
        if not count:
            raise ValueError(f'The folder {os.path.join(self.data_dir, split)} holds no image; {_LAYOUT}.')
        # TFDS takes slices of splits apart by their files: here it is one, which nobody opens.
        template = tfds.core.ShardedFileTemplate(
            epath.Path(self.data_dir), dataset_name='images', split=split, filetype_suffix='none'
        )
        return tfds.core.SplitInfo(split, [count], num_bytes=0, filename_template=template)

    def as_data_source(self, split: str, decoders: object = None) -> _Files:
        """The images of a split, or of slices, as bytes."""
        del decoders
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(self.info.splits)
        return _Files([image for part in parts for image in self._images[part.splitname][part.from_ : part.to]])


class _Files:
    """Examples by number, read when they are asked for."""

    def __init__(self, images: list[tuple[str, int]]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, object]:
        file, label = self._images[index]
        return {'image': pathlib.Path(file).read_bytes(), 'label': label, 'file_name': file}

    def __getitems__(self, indices: list[int]) -> list[dict[str, object]]:
        return [self[index] for index in indices]


def _folders(path: pathlib.Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith('.'))


def _images(split: pathlib.Path, names: list[str]) -> list[tuple[str, int]]:
    """(file, class) of every image of a split, in their order."""
    found = [(file, label) for label, name in enumerate(names) for file in _files(split / name)]
    return sorted(found, key=lambda image: hashlib.sha256(os.fsencode(image[0].removeprefix(f'{split}'))).digest())


def _files(path: pathlib.Path) -> list[str]:
    found = []
    for folder, inner, files in os.walk(path, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith('.')]
        found += [os.path.join(folder, name) for name in files if not name.startswith('.')]
    for file in found:
        if not file.lower().endswith(SUFFIXES):
            raise ValueError(f'{file} is no image ({", ".join(SUFFIXES)}): take it away, or hide it with a dot.')
    return found


def _common(classes: dict[str, list[str]], path: str) -> list[str]:
    """The classes, which are those of every split."""
    every = sorted(set().union(*classes.values()))
    for split, names in classes.items():
        if names != every:
            lacking = next(name for name in every if name not in names)
            raise ValueError(
                f'The folder {os.path.join(path, split)} has no class {lacking!r}, which another split of {path} has: '
                'make that folder, empty if there is no such image, or hide what is no split or class with a dot.'
            )
    return every
