"""A stand-in for the part of Hugging Face's `datasets` that is asked for."""

from types import ModuleType
from typing import Any

import numpy as np

from tests.data.pictures import png

CLASSES = {'names': ['cats', 'dogs'], '_type': 'ClassLabel'}
NUMBER, IMAGE = {'dtype': 'float64', '_type': 'Value'}, {'_type': 'Image'}
PIXELS = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)


class Features(dict):
    """`datasets.Features`, whose values here are what `to_dict` makes of them."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


class Table:
    """`datasets.Dataset`: columns of equal length, and whether its images come as their files."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list], files: tuple[str, ...] = ()) -> None:
        self.features, self._columns, self._files = Features(features), columns, files

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        row = {name: column[key] for name, column in self._columns.items()}
        decoded = [name for name in row if self.features[name] == IMAGE and name not in self._files]
        assert not decoded, f'{decoded} would be decoded by Pillow'
        return row

    def select_columns(self, names: list[str]) -> 'Table':
        return Table({n: self.features[n] for n in names}, {n: self._columns[n] for n in names}, self._files)

    def cast_column(self, name: str, feature: Any) -> 'Table':
        assert feature == {'decode': False}
        return Table(self.features, self._columns, (*self._files, name))


def pets(count: int, label: dict = CLASSES, **others: Any) -> Table:
    columns = {
        'image': [{'bytes': png(pixels), 'path': None} for pixels in PIXELS[:count]],
        'label': [i % 2 for i in range(count)],
        'who': [{'name': 'Tom'}] * count,
    }
    return Table({'image': IMAGE, 'label': label, 'who': {'name': {'dtype': 'string', '_type': 'Value'}}}, columns)


def package(loaded: Any) -> ModuleType:
    """The package, whose `load_from_disk` returns a table, or tables by split."""
    module = ModuleType('datasets')
    module.load_from_disk = lambda path: loaded
    module.Image = lambda **fields: fields
    return module
