"""A network in the form in which one can look inside."""

import dataclasses
from collections.abc import Iterator

from flax import linen as nn

from longview.modelzoo.features import read_by

# How a network runs, and what is random in it. Parameters are stored block by block whatever stands here
# (layers/frame/trunk.py), so that the variables of the network fit its unrolled form.
_PLAIN = {'scan': False, 'remat': False, 'drop_path': 0.0, 'dropout': 0.0}


def unrolled(module: nn.Module) -> nn.Module:
    """Returns a network of the same variables that runs its blocks one by one, without stochastic depth and dropout.

    Inside of `lax.scan` there is one body for all blocks, and what a block gives does not leave it.
    """
    changes = {}
    for name, value in _fields(module):
        if isinstance(value, nn.Module):
            changes[name] = unrolled(value)
        elif name in _PLAIN:
            changes[name] = _PLAIN[name]
    return module.clone(**changes)


def parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yields a network and the modules that its fields hold, theirs among them; not those made when it runs."""
    yield module
    for _, value in _fields(module):
        if isinstance(value, nn.Module):
            yield from parts(value)


def reads(module: nn.Module) -> tuple[str, ...]:
    """Returns the columns of a batch that a network takes; one that says nothing takes what its backbone does."""
    return read_by(module if hasattr(module, 'reads') else getattr(module, 'backbone', module))


def _fields(module: nn.Module) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(module):
        if field.init and field.name not in ('parent', 'name'):
            yield field.name, getattr(module, field.name)
