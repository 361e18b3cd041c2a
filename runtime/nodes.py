"""Writes objects as config nodes: the inverse of runtime/resolve.py.

A run keeps the modules of its networks in this form beside their arrays, so that another run, or another program, makes
them again without knowing the method that trained them.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

# Where the functions of jax are, which lie in private modules.
_PUBLIC = ('jax.nn', 'jax.nn.initializers', 'jax.numpy', 'jax.lax', 'flax.linen')

_PLAIN = (str, int, float, bool, type(None))


class NoNode(ValueError):
    """An object cannot be written as a config node."""


def dtype(name: str) -> np.dtype:
    """Returns the array type of a name, such as ``bfloat16``; nodes of types call it."""
    return jnp.dtype(name)


def node_of(value: Any, path: str = 'network') -> Any:
    """Returns the node that `runtime.resolve.resolve` makes such an object of, as plain data.

    All fields are said, those with their default values too, so that a default that changes later changes no network.
    Initializers that cannot be named are left out, because a network whose weights are there needs none.

    Args:
        value: plain data, a flax module or another dataclass, a function or class that can be imported, a
            ``functools.partial`` of one, an array type, or tuples and mappings of these.
        path: where the value stands; only for messages.

    Raises:
        NoNode: it is something else, such as a function inside another.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (tuple, list)):
        return [node_of(item, f'{path}[{index}]') for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: node_of(item, f'{path}.{key}') for key, item in value.items()}
    if isinstance(value, functools.partial):
        return {'partial': _reference(value.func, path), **_arguments(value, path)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {'fn': _reference(type(value), path), **_fields(value, path)}
    if _is_dtype(value):
        return {'fn': 'runtime.nodes:dtype', 'name': jnp.dtype(value).name}
    if callable(value):
        return {'partial': _reference(value, path)}
    raise NoNode(f'{path} is a {type(value).__name__}, which a config cannot say.')


def _is_dtype(value: Any) -> bool:
    numpy_type = isinstance(value, type) and issubclass(value, np.generic)
    return isinstance(value, np.dtype) or numpy_type or isinstance(value, type(jnp.float32))


def _arguments(value: functools.partial, path: str) -> dict[str, Any]:
    given = inspect.signature(value.func).bind_partial(*value.args, **value.keywords).arguments
    variable = [p.name for p in inspect.signature(value.func).parameters.values() if p.kind is p.VAR_KEYWORD]
    flat = {name: item for name, item in given.items() if name not in variable}
    for name in variable:
        flat |= given.get(name, {})
    return _nodes(flat, path)


def _fields(value: Any, path: str) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(value) if field.init and field.name not in ('parent', 'name')]
    return _nodes({name: getattr(value, name) for name in fields}, path)


def _nodes(items: Mapping[str, Any], path: str) -> dict[str, Any]:
    nodes = {}
    for name, item in items.items():
        try:
            nodes[name] = node_of(item, f'{path}.{name}')
        except NoNode:
            if not name.endswith('init'):
                raise
    return nodes


def _reference(value: Any, path: str) -> str:
    """Returns ``module:name`` of a function or class."""
    name = getattr(value, '__qualname__', getattr(value, '__name__', ''))
    for module in (*_PUBLIC, getattr(value, '__module__', None) or ''):
        if module and name.isidentifier() and getattr(importlib.import_module(module), name, None) is value:
            return f'{module.removeprefix("longview.")}:{name}'
    raise NoNode(f'{path} is {name or value!r}, which cannot be imported by a name.')
