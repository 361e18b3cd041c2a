"""A folder of image files as a data set: SPLIT/CLASS/IMAGE, such as pets/train/cats/0.jpg, or CLASS/IMAGE.

Splits are the folders that hold folders, classes the folders in them, in sorted order and the same in every split. A
folder without splits is one, `train`, of which configs take slices. Images lie in their class's folder, or, where there
are splits, deeper, and become RGB of 8 bits. What is hidden, its name beginning with a dot, is not seen; any other file
that is no image is refused, and not left out. Examples are numbered in the order of the SHA-256 of their paths, so that
a slice of a split is a random part of every class, as of a set that TFDS has prepared.
"""

from __future__ import annotations

import os

import numpy as np
import tensorflow_datasets as tfds

from longview.data.indexed import Files, Indexed, numbering
from longview.data.listing import Tree, tree

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
_LAYOUT = 'wanted FOLDER/SPLIT/CLASS/IMAGE, such as pets/train/cats/0.jpg, or FOLDER/CLASS/IMAGE'
_SPLITS = {'test', 'train', 'val', 'valid', 'validation'}


def is_path(name: str) -> bool:
    """Whether the name of a data set is a path; none of TFDS begins or ends so."""
    return name.startswith(('/', '~', './', '../')) or name.endswith('.csv')


class ImageFolder(Indexed):
    """What `Split` asks of a TFDS builder, answered by a folder.

    Args:
        path: of the folder; `~` is expanded.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is laid out otherwise.
    """

    def __init__(self, path: str) -> None:
        path = os.path.expanduser(path)
        if not os.path.isdir(path):
            raise FileNotFoundError(f'There is no folder {path}; {_LAYOUT}.')
        found = tree(path)
        classes = _classes(path, found)
        names = _common(classes, path)
        splits = {split or 'train': _images(path, split, names, found) for split in classes}
        super().__init__(path, {'image': tfds.features.Image(), 'label': tfds.features.ClassLabel(names=names)}, splits)


def _classes(path: str, found: Tree) -> dict[str, list[str]]:
    """Split -> the folders in it; '' is the one split of a folder without."""
    outer = found[''].folders
    for name in outer:
        image = next(filter(_is_image, found[name].files), None)
        if found[name].folders and image:
            raise ValueError(
                f'The folder {os.path.join(path, name)} holds folders, as a split does, and the image {image}, as a '
                f'class does: move it, or hide it with a dot; {_LAYOUT}.'
            )
    splits = {name: found[name].folders for name in outer if found[name].folders}
    if not splits and (len(outer) < 2 or _SPLITS & set(outer)):
        raise ValueError(f'The folder {path} has no folder of folders in it, nor one for each class; {_LAYOUT}.')
    return splits or {'': outer}


def _images(path: str, split: str, names: list[str], found: Tree) -> Files:
    """The images of a split, in the order of their numbers."""
    start = f'{split}/' if split else ''
    of_classes = [_files(path, f'{start}{name}', found) for name in names]
    files = [file for files in of_classes for file in files]
    if not files:
        raise ValueError(f'The folder {os.path.join(path, split)} holds no image; {_LAYOUT}.')
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(files) for files in of_classes])
    order = numbering([file[len(start) :] for file in files])
    return Files(path, [files[number] for number in order.tolist()], labels[order])


def _files(path: str, folder: str, found: Tree) -> list[str]:
    """The images in a folder and below, relative to the path."""
    for name in found[folder].files:
        if not _is_image(name):
            raise ValueError(
                f'{os.path.join(path, folder, name)} is no image ({", ".join(SUFFIXES)}): take it away, or hide it '
                'with a dot.'
            )
    files = [f'{folder}/{name}' for name in found[folder].files]
    for name in found[folder].folders:
        files += _files(path, f'{folder}/{name}', found)
    return files


def _is_image(file: str) -> bool:
    return file.lower().endswith(SUFFIXES)


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
