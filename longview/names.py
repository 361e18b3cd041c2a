"""Full and short module names, and what keeps a module from being loaded twice, under both.

In a checkout, where the folders are beside longview/, `import modelzoo` works too and would create every class in it a
second time. So importing a short name returns the module of the full name: scripts and config files that were written
before there was a full name keep working, and nothing exists twice. In an installed package there are no short names; a
project's own folders `data` or `kernels` are not affected.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

# Folders and files beside longview/ in a checkout. An import path in a config may begin with any of these words.
FOLDERS = ('analysis', 'configs', 'data', 'engine', 'kernels', 'methods', 'modelzoo', 'runtime')
FILES = ('compare', 'evaluate', 'export', 'input_pipeline', 'pictures', 'predict', 'train')


def full(module: str) -> str:
    """Returns the full name of a module, given its full or short name.

    >>> full('modelzoo.heads'), full('jax.nn')
    ('longview.modelzoo.heads', 'jax.nn')
    """
    return f'longview.{module}' if module.partition('.')[0] in FOLDERS + FILES else module


def check(name: str) -> None:
    """Replaces a module that is being imported by its short name; modules call it with their ``__name__``."""
    if name.startswith('longview.') or name == '__main__':
        return
    if name in FOLDERS:
        sys.meta_path.insert(0, _Alias(name))
    sys.modules[name] = importlib.import_module(full(name))


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules in a folder that was imported by its short name."""

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
        """Restores the module's own specification, which the import has just replaced."""
        module.__spec__ = module.__spec__.loader_state


def _is_run(name: str) -> bool:
    """Whether ``python -m`` is looking for `name`, which is then run and not imported."""
    return sys.argv[:1] == ['-m'] and name in sys.orig_argv
