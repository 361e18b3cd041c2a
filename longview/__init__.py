"""Longview: image backbones and long-sequence models in JAX and Flax, and what trains them.

    import longview

    model = longview.create_model('vig_small', num_classes=10)
    network = longview.load('vit_small_patch16_224', 'vit_small.safetensors')

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

# The main functions, and where they stand.
_MAIN = {
    **{name: 'longview.modelzoo' for name in ('backbone', 'create_model', 'list_models')},
    'load': 'longview.engine.loading',
}


def __getattr__(name: str) -> Any:
    """Returns the main functions. Their modules are imported when one is asked for, since configs need none of them."""
    if name in _MAIN:
        return getattr(importlib.import_module(_MAIN[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_MAIN])
