"""A table of image files and their labels as a data set: a CSV whose header is `file,label`, or `file,number`.

    file,label,split
    photos/0.jpg,cats,train
    photos/1.jpg,dogs,validation

Files are relative to the table's folder. A `label` is a class, whatever it is called: classes are numbered in sorted
order, whole numbers by their value. A `number` is measured, and arrives as float32. Where there is no column `split`,
all is the split `train`, of which configs take slices. Images become RGB of 8 bits. Examples are numbered in the order
of the SHA-256 of their paths, so that a slice of a split is a random part of every class.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from longview.data.indexed import Files, Indexed, numbering

_HEADER = 'wanted the header file,label or file,number, and split where there are several'

# Line of the table, and its cells by column.
_Row = tuple[int, dict[str, str]]


class ImageTable(Indexed):
    """What `Split` asks of a TFDS builder, answered by a table.

    Args:
        path: of the CSV, UTF-8; `~` is expanded.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is made otherwise; the sentence names the line.
    """

    def __init__(self, path: str) -> None:
        path = os.path.expanduser(path)
        if not os.path.isfile(path):
            raise FileNotFoundError(f'There is no table {path}; write the path of a CSV, with {_HEADER}.')
        rows = _read(path)
        if 'label' in rows[0][1]:
            classes = _classes([row['label'] for _, row in rows], path)
            feature, values = tfds.features.ClassLabel(names=list(classes)), [classes[row['label']] for _, row in rows]
        else:
            feature, values = (
                tfds.features.Scalar(np.float32),
                [_number(row['number'], line, path) for line, row in rows],
            )
        splits: dict[str, dict[str, float]] = {}
        for (_, row), value in zip(rows, values):
            splits.setdefault(row.get('split', 'train'), {})[row['file']] = value
        folder = os.path.dirname(path)
        found = {split: _files(folder, splits[split], feature.np_dtype) for split in sorted(splits)}
        super().__init__(path, {'image': tfds.features.Image(), 'label': feature}, found)


def _files(folder: str, labels: dict[str, float], dtype: type) -> Files:
    files, values = list(labels), np.array(list(labels.values()), dtype)
    order = numbering(files)
    return Files(folder, [files[number] for number in order.tolist()], values[order])


def _read(path: str) -> list[_Row]:
    """The rows, each of which has the cells that the header announces."""
    with open(path, encoding='utf-8-sig', newline='') as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if sorted(set(header) - {'split'}) not in (['file', 'label'], ['file', 'number']) or len(set(header)) < len(
            header
        ):
            raise ValueError(f'The table {path} has the header {",".join(header)!r}; {_HEADER}.')
        rows = [(lines.line_num, dict(zip(header, cells))) for cells in lines if cells]
    if not rows:
        raise ValueError(f'The table {path} has a header and no image.')
    seen: dict[str, int] = {}
    for line, row in rows:
        lacking = next((column for column in header if not row.get(column)), None)
        if lacking:
            raise ValueError(f'Line {line} of {path} has no {lacking}: fill it in, or take the line away.')
        if row['file'] in seen:
            raise ValueError(f'{row["file"]} stands twice in {path}, in lines {seen[row["file"]]} and {line}.')
        seen[row['file']] = line
    return rows


def _classes(labels: Sequence[str], path: str) -> dict[str, int]:
    """Name of a class -> its number."""
    names = set(labels)
    whole = all(name.isdecimal() for name in names)
    if not whole and all(map(_is_number, names)):
        raise ValueError(
            f'The labels of {path} are numbers such as {min(names)}: call the column number where they are measured; '
            'classes have names, or whole numbers.'
        )
    order = sorted(names, key=(lambda name: (int(name), name)) if whole else None)
    return {name: number for number, name in enumerate(order)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str, line: int, path: str) -> float:
    if not _is_number(text) or not math.isfinite(float(text)):
        raise ValueError(f'Line {line} of {path} has the number {text!r}, which is none.')
    return float(text)
