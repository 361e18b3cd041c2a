"""The first words of our modules, and the check that none of them is loaded under two names."""

import importlib
import sys

# What stands beside longview/ in a checkout. A config may begin an import path with any of these words.
FOLDERS = ('configs', 'data', 'kernels', 'methods', 'modelzoo', 'runtime')
FILES = ('input_pipeline', 'train')


def full(module: str) -> str:
    """Returns the whole name of a module that a config may have written in short.

    >>> full('modelzoo.heads'), full('jax.nn')
    ('longview.modelzoo.heads', 'jax.nn')
    """
    return f'longview.{module}' if module.partition('.')[0] in FOLDERS + FILES else module


def check(name: str) -> None:
    """Called by the modules beside longview/ with their ``__name__``: refuses to load one under its short name.

    In a checkout `import modelzoo` would find the folder too, and make every class of it a second time. Two uses
    of the short names are answered by the module of the whole name: ``python -m longview.modelzoo``, and ``from configs
    import base`` in a user's own config file.

    Raises:
        ImportError: the name is a short one.
    """
    if name.startswith('longview.') or name == '__main__':
        return
    if name == 'configs' or sys.argv[:1] == ['-m']:  # Python's own mark while it looks for what -m names
        sys.modules[name] = importlib.import_module(full(name))
        return
    raise ImportError(
        f'{name} is a part of longview, and loaded under that name alone: write `from longview import {name}`.'
    )
