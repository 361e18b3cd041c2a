"""Turns a config into the objects it names.

A config is plain data. A dict with the key ``fn`` stands for a call, ``{'fn': 'package.module:name',
**arguments}``; with ``partial`` in its place it stands for the function with those arguments already
given (``functools.partial``), which the object that gets it will call. The arguments of a call are resolved before
it; lists become tuples. There is no registry: the import path is the name. A key that the function does
not take is refused with the nearest one that it does, before anything is called.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import config_dict

from longview.names import full
from longview.runtime.renames import current
from longview.words import nearest


class ConfigError(ValueError):
    """A config names something that does not exist; the message says what was most likely meant."""


def resolve(node: Any, path: str = 'config') -> Any:
    """Returns `node` with every ``fn`` called and every ``partial`` made one.

    Args:
        node: a tree of mappings (an ``ml_collections.ConfigDict`` too), lists, tuples and leaves.
        path: where the node stands in the whole config; only for messages.

    Raises:
        ConfigError: an unknown module, name or argument; the message names the nearest known one.
    """
    if isinstance(node, Mapping) or hasattr(node, 'items'):
        return _resolve_mapping(dict(node.items()), path)
    if isinstance(node, (list, tuple)):
        return tuple(resolve(item, f'{path}[{i}]') for i, item in enumerate(node))
    return node


def plain(node: Any) -> Any:
    """Returns a config as plain mappings, lists and leaves, each with the value it has now.

    ``ConfigDict.to_dict`` leaves references to other fields alone where they stand in a list.
    """
    if isinstance(node, config_dict.FieldReference):
        return plain(node.get())
    if isinstance(node, Mapping) or hasattr(node, 'items'):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(plain(item) for item in node)
    return node


def check(node: Any, path: str = 'config') -> None:
    """Checks the names and arguments of a tree without calling anything.

    Raises:
        ConfigError: as `resolve`, whatever the calls themselves may find wrong.
    """
    if isinstance(node, Mapping):
        items = {key: value for key, value in node.items() if key not in ('fn', 'partial')}
        for key, value in items.items():
            check(value, f'{path}.{key}')
        kind = _kind(node, path)
        if kind is not None:
            spec, arguments = current(str(node[kind]), items)
            check_arguments(locate(spec, path), arguments, path, complete=kind == 'fn')
    elif isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            check(item, f'{path}[{index}]')


def call(fn: Callable[..., Any], arguments: Mapping[str, Any], path: str) -> Any:
    """Calls `fn` after checking that it takes exactly such `arguments`; `path` is for messages."""
    check_arguments(fn, arguments, path, complete=True)
    return fn(**arguments)


def check_arguments(fn: Callable, arguments: Iterable[str], path: str, *, complete: bool) -> None:
    """Raises ConfigError for an argument `fn` does not take or, if `complete`, one it lacks."""
    parameters = inspect.signature(fn).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    arguments = set(arguments)
    for key in sorted(arguments - set(parameters)):
        raise ConfigError(f'{path}.{key}: {_name(fn)} takes no {key!r}{nearest(key, parameters)}')
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in arguments]
    if complete and missing:
        raise ConfigError(f'{path}: {_name(fn)} also needs {", ".join(map(repr, missing))}.')


def places(config: Any, key: str, path: str = 'config') -> Iterator[tuple[str, Any]]:
    """Yields where a key stands in a config, as the command line writes it, and its value.

    >>> list(places({'head': {'fn': 'x', 'n': 3}, 'all': [{'n': 4}]}, 'n'))
    [('config.head.n', 3), ('config.all[0].n', 4)]
    """
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == key:
                yield f'{path}.{name}', value
            yield from places(value, key, f'{path}.{name}')
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from places(value, key, f'{path}[{index}]')


def _resolve_mapping(node: dict[str, Any], path: str) -> Any:
    kind = _kind(node, path)
    spec = str(node.pop(kind)) if kind else None
    arguments = {key: resolve(value, f'{path}.{key}') for key, value in node.items()}
    if kind is None:
        return arguments
    spec, arguments = current(spec, arguments)
    fn = locate(spec, path)
    if kind == 'fn':
        return call(fn, arguments, path)
    check_arguments(fn, arguments, path, complete=False)
    return functools.partial(fn, **arguments)


def _kind(node: Mapping[str, Any], path: str) -> str | None:
    """Returns which of ``fn`` and ``partial`` a node has, or None."""
    if 'fn' in node and 'partial' in node:
        raise ConfigError(f"{path}: has both 'fn' (a call) and 'partial' (no call yet); keep one of them.")
    return next((key for key in ('fn', 'partial') if key in node), None)


def locate(spec: str, path: str = 'config') -> Any:
    """Imports ``'package.module:name'``."""
    module_name, separator, name = str(spec).partition(':')
    if not separator:
        raise ConfigError(f"{path}.fn: {spec!r} is not of the form 'package.module:name'.")
    module_name = full(module_name)
    module = _import(module_name, path)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith('_')]
        raise ConfigError(f'{path}.fn: {module_name} has no {name!r}{nearest(name, public)}')
    return getattr(module, name)


def _import(module_name: str, path: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists and fails to import something else was not misspelt.
        if error.name is None or not (module_name + '.').startswith(error.name + '.'):
            raise
        parent, _, missing = error.name.rpartition('.')
        siblings = pkgutil.iter_modules(importlib.import_module(parent).__path__ if parent else None)
        hint = nearest(missing, [s.name for s in siblings if parent or not s.name.startswith('_')])
        hint = hint if parent or 'mean' in hint else '.'
        raise ConfigError(f'{path}.fn: there is no module {error.name!r}{hint}') from None


def _name(fn: Any) -> str:
    return f'{fn.__module__}:{getattr(fn, "__qualname__", fn)}'
