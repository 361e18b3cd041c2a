"""The first words of our modules, and what keeps a module from being loaded twice, under its whole and a short name.

In a checkout, where the folders stand beside longview/, `import modelzoo` finds them too, and would make every class in
them a second time. So a short name is answered with the module of the whole name: scripts and config files that were
written before there was a whole name go on working, and nothing exists twice. In an installed package there are no
short names; a project's own folders `data` or `kernels` are never looked at.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

# What stands beside longview/ in a checkout. A config may begin an import path with any of these words.
FOLDERS = ('configs', 'data', 'kernels', 'methods', 'modelzoo', 'runtime')
FILES = ('input_pipeline', 'train')


def full(module: str) -> str:
    """Returns the whole name of a module that may be written in short.

    >>> full('modelzoo.heads'), full('jax.nn')
    ('longview.modelzoo.heads', 'jax.nn')
    """
    return f'longview.{module}' if module.partition('.')[0] in FOLDERS + FILES else module


def check(name: str) -> None:
    """Called by the modules beside longview/ with their ``__name__``; a short one becomes no second module."""
    if name.startswith('longview.') or name == '__main__':
        return
    if name in FOLDERS:
        sys.meta_path.insert(0, _Alias(name))
    sys.modules[name] = importlib.import_module(full(name))


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the modules in one folder, which somebody has imported by its short name."""

    def __init__(self, folder: str):
        self._prefix = f'{folder}.'

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(self._prefix) or name.endswith('.__main__') or _is_run(name):
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(full(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its own specification back, which the import has just written over."""
        module.__spec__ = module.__spec__.loader_state


def _is_run(name: str) -> bool:
    """Whether `name` is what ``python -m`` is looking for: that one is run, and not imported."""
    return sys.argv[:1] == ['-m'] and name in sys.orig_argv
