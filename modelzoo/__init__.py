"""The model zoo: every architecture by the name its paper gave it.

    model = create_model('vig_small', num_classes=10, drop_path=0.1)
    variables = model.init(key, images)
    logits = model.apply(variables, images)['logits']

Names are looked up in the ``VARIANTS`` of the family files; nothing is registered.
"""

import difflib
import fnmatch
import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from modelzoo.features import Backbone
from modelzoo.heads import Classifier, Linear

_FOLDERS = ('modelzoo.vision',)


def create_model(name: str, num_classes: int = 1000, **overrides: Any) -> Classifier:
    """Returns a published network: the backbone and a linear head.

    Args:
        name: one of `list_models`.
        num_classes: number of logits.
        **overrides: fields of the backbone's class to change, such as ``drop_path`` or ``dtype``.

    Raises:
        ValueError: there is no such model; the nearest names are given.
        TypeError: the backbone has no such field.
    """
    return Classifier(find(name)[1].clone(**overrides), Linear(num_classes))


def list_models(pattern: str = '*') -> list[str]:
    """Returns the names that a shell pattern matches, by family in the order of their tables."""
    return [name for family in families() for name in family.VARIANTS if fnmatch.fnmatch(name, pattern)]


def find(name: str) -> tuple[ModuleType, Backbone]:
    """Returns the family file that has `name`, and its backbone.

    Raises:
        ValueError: there is no such model; the nearest names are given.
    """
    for family in families():
        if name in family.VARIANTS:
            return family, family.VARIANTS[name]
    near = difflib.get_close_matches(name, list_models(), n=3, cutoff=0.5)
    hint = f'did you mean {" or ".join(near)}?' if near else 'list_models() has the names.'
    raise ValueError(f'there is no model {name!r}: {hint}')


@functools.cache
def families() -> tuple[ModuleType, ...]:
    """Returns the family files, imported."""
    found = []
    for folder in map(importlib.import_module, _FOLDERS):
        for info in pkgutil.iter_modules(folder.__path__, f'{folder.__name__}.'):
            found.append(importlib.import_module(info.name))
    return tuple(family for family in found if hasattr(family, 'VARIANTS'))
