"""Activations as fields: functions, or modules with parameters of their own.

A field `act` takes either a function such as `nn.relu`, or a factory of a module, as `layers/prelu.py` has one. A
module is made anew wherever the network applies its activation, so each place has its own parameters.
"""

import functools
from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array

Activation = Callable[[Array], Array] | Callable[..., nn.Module]


def made(act: Activation, name: str) -> Callable[[Array], Array]:
    """Returns the activation to apply: `act` itself, or the module called `name` that `act` is a factory of.

    Call it inside the ``__call__`` of the module that uses the activation; a function needs no name and ignores it.
    """
    kind = act.func if isinstance(act, functools.partial) else act
    return act(name=name) if isinstance(kind, type) and issubclass(kind, nn.Module) else act
