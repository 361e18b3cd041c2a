"""Longview: image backbones and long-sequence models in JAX and Flax, and what trains them.

    import longview

    model = longview.create_model('vig_small', num_classes=10)

Every module has one name: `longview.modelzoo`, `longview.kernels`, `longview.methods`, ... In a checkout these folders
stand beside this one, in an installed package inside it. The folders' short names are not modules of their own, so a
project with its own folders `data` or `kernels` can use this package; configs may leave out the first word
(`'modelzoo.heads:Linear'`).
"""

import importlib
import pathlib
from typing import Any

__version__ = '0.1.0'

_HERE = pathlib.Path(__file__).parent
if not (_HERE / 'modelzoo').is_dir():  # a checkout: the folders are this one's neighbours
    __path__.append(str(_HERE.parent))

_ZOO = ('backbone', 'create_model', 'list_models')


def __getattr__(name: str) -> Any:
    """Returns the zoo's main functions. The zoo is imported when one is asked for, since configs need none of it."""
    if name in _ZOO:
        return getattr(importlib.import_module('longview.modelzoo'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_ZOO])
