"""Bytes of arrays, whole and on each device."""

import math
from typing import Any

import jax

_UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB')


def whole(tree: Any) -> int:
    """Returns the bytes of the arrays of a tree, or of their shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def per_device(tree: Any) -> int:
    """Returns the bytes that each device holds of a tree whose shapes have shardings; all devices hold the same."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def readable(size: float) -> str:
    """Returns a number of bytes in the largest unit of which there is at least one.

    >>> readable(1536), readable(16 * 2**30)
    ('1.5 KiB', '16 GiB')
    """
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f'{size:.4g} {_UNITS[power]}'
