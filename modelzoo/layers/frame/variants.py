"""Published networks with some of their fields changed."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from longview.words import nearest


def variant(variants: Mapping[str, nn.Module], name: str, fields: Mapping[str, Any]) -> nn.Module:
    """Returns a variant of a family with some of its fields changed; for family functions that compute fields.

    Raises:
        ValueError: there is no such variant or field; the nearest one is named.
    """
    if name not in variants:
        raise ValueError(f'there is no variant {name!r}{nearest(name, variants)}')
    return changed(variants[name], fields)


def changed(module: nn.Module, fields: Mapping[str, Any]) -> nn.Module:
    """Returns a copy of `module` with other values in some fields.

    Args:
        module: such as a network of a family's ``VARIANTS``.
        fields: the new values by field. A dtype may be given by its name (``dtype='bfloat16'``), a tuple as a list. For
            a field that holds a factory (``mixer``, ``norm``, ``block``, ...) give another factory, or a mapping of
            arguments for the present one.

    Raises:
        ValueError: there is no such field (the nearest one is named), or a mapping is given for a field that holds no
            factory.
    """
    known = [field.name for field in dataclasses.fields(module) if field.init and field.name not in ('parent', 'name')]
    for name in fields:
        if name not in known:
            raise ValueError(f'{type(module).__name__} has no field {name!r}{nearest(name, known)}')
    return module.clone(**{name: _value(module, name, value) for name, value in fields.items()})


def _value(module: nn.Module, name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        factory = getattr(module, name)
        if not callable(factory):
            raise ValueError(
                f'{type(module).__name__}.{name} is {factory!r}, which takes no arguments, and {dict(value)} '
                'are given: give a factory instead.'
            )
        return functools.partial(factory, **value)
    if name == 'dtype':
        return _dtype(module, value)
    return tuple(value) if isinstance(value, list) else value


def _dtype(module: nn.Module, value: Any) -> Any:
    try:
        return jnp.dtype(value)
    except TypeError:
        raise ValueError(
            f'{type(module).__name__}.dtype is {value!r}, which is no array type: use float32, bfloat16 or float16.'
        ) from None
