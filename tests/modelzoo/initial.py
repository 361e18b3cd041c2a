"""How networks start: moments of the initial values of each parameter, found without building a network.

A network is traced for its shapes only, and each call of ``self.param`` leaves its initializer behind (`initializers`).
Each different initializer is then run once (`moments`). Where it draws every value by itself, 65,536 of them are drawn
in place of the shape asked for: a bias of ten values is known as well as a matrix of a million, no large matrix is
made, and one compiled program serves all shapes. initial_table.py writes and compares what all variants start with.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from tests.modelzoo.tiny import sized

DRAWN = 1 << 16
# How far the moments of two samples may be apart, in standard errors of their difference. A processor draws what every
# other one draws; a jax that draws other values for a key would cross this once in 500 million comparisons.
ERRORS = 6
# Relative difference of fixed values: elementary functions differ between processors in the last bits.
ROUNDING = 1e-6


class Moments(NamedTuple):
    """Moments of the initial values of a parameter.

    Attributes:
        drawn: how many random values they are of; 0 for fixed values.
        mean, deviation, kurtosis: of all values; the kurtosis is E (x - mean)^4 / deviation^4, 0 for equal values.
    """

    drawn: int
    mean: float
    deviation: float
    kurtosis: float

    def __str__(self) -> str:
        if not self.deviation:
            return f'always {self.mean:.6g}'
        return f'mean {self.mean:.4g}, deviation {self.deviation:.4g}, kurtosis {self.kurtosis:.3g}'

    def errors(self) -> tuple[float, float, float]:
        """Returns the standard errors of mean, deviation and kurtosis; of fixed values, what rounding may do to them.

        That of the kurtosis is exact for normal values only; a heavier tail has a larger one.
        """
        if not self.drawn:
            size = max(abs(self.mean), self.deviation)
            return size * ROUNDING, size * ROUNDING, self.kurtosis * ROUNDING
        root = math.sqrt(self.drawn)
        return (
            self.deviation / root,
            self.deviation * math.sqrt(max(self.kurtosis - 1, 0)) / (2 * root),
            math.sqrt(24) / root * max(self.kurtosis / 3, 1) ** 3,
        )

    def agrees(self, other: 'Moments') -> bool:
        """Whether two samples may be of one law."""
        apart = (abs(mine - theirs) for mine, theirs in zip(self[1:], other[1:]))
        within = all(gap <= ERRORS * math.sqrt(2) * error for gap, error in zip(apart, self.errors()))
        return within and bool(self.drawn) == bool(other.drawn)


class Initializer(NamedTuple):
    """How a parameter of a shape is made: by a function of a key and of arguments, mostly the shape."""

    function: Callable[..., jax.Array]
    arguments: tuple
    shape: tuple[int, ...]

    def __call__(self, key: jax.Array) -> jax.Array:
        """Returns initial values."""
        return self.function(key, *self.arguments)


def initializers(model: nn.Module, *inputs: Any, method: str | None = None) -> dict[str, Initializer]:
    """Returns the initializer of each parameter and batch statistic by path.

    Args:
        model: any network.
        *inputs: arrays, or only their shapes and types.
        method: what initializes the network; ``__call__`` if not given.
    """
    found = {}

    def param(module: nn.Module, name: str, function: Callable, *arguments: Any, **options: Any) -> Any:
        value = plain_param(module, name, function, *arguments, **options)
        found.setdefault('/'.join((*module.path, name)), Initializer(function, arguments, value.shape))
        return value

    def variable(module: nn.Module, kind: str, name: str, function: Callable | None = None, *arguments: Any) -> Any:
        made = plain_variable(module, kind, name, function, *arguments)
        keyless = functools.partial(_without_key, function)
        found.setdefault('/'.join((*module.path, name)), Initializer(keyless, arguments, jnp.shape(made.value)))
        return made

    plain_param, plain_variable = nn.Module.param, nn.Module.variable
    with mock.patch.multiple(nn.Module, param=param, variable=variable):
        variables = jax.eval_shape(functools.partial(model.init, method=method), jax.random.key(0), *inputs)
    kept = traverse_util.flatten_dict({kind: variables.get(kind, {}) for kind in ('params', 'batch_stats')})
    return {'/'.join(path[1:]): found['/'.join(path[1:])] for path in kept}


def _without_key(function: Callable[..., jax.Array], key: jax.Array, *arguments: Any) -> jax.Array:
    del key
    return function(*arguments)


@functools.cache
def of_network(name: str) -> dict[str, Initializer]:
    """Returns the initializers of a published network by path."""
    return initializers(*sized(name))


_known: dict[Hashable, tuple[Moments, Initializer]] = {}


def moments(initial: Initializer) -> Moments:
    """Returns the moments of what an initializer makes; equal initializers of equal shapes are run once."""
    if _is_constant(initial):
        initial = Initializer(initial.function, ((1,),), (1,))  # one program for all shapes
    identity = _identity(initial)
    if identity not in _known:
        _known[identity] = (moments_of(*sample(initial)), initial)  # kept, so that no other gets its id
    return _known[identity][0]


def _identity(part: Any) -> Hashable:
    """Returns what equal parts have in common: the code of a function, and the values that it closes over."""
    if isinstance(part, functools.partial):
        return ('partial', _identity(part.func), _identity(part.args), _identity(tuple(sorted(part.keywords.items()))))
    if isinstance(part, tuple):
        return tuple(map(_identity, part))
    if inspect.isfunction(part):
        return (part.__code__, tuple(_identity(cell.cell_contents) for cell in part.__closure__ or ()))
    return part if isinstance(part, Hashable) and not inspect.ismethod(part) else id(part)


def _is_constant(initial: Initializer) -> bool:
    function = initial.function.args[0] if isinstance(initial.function, functools.partial) else initial.function
    constant = jax.nn.initializers.constant(0.0).__code__
    equal = (jnp.zeros, jnp.ones, jax.nn.initializers.zeros, jax.nn.initializers.ones)
    return function in equal or getattr(function, '__code__', None) is constant


def sample(initial: Initializer) -> tuple[bool, np.ndarray]:
    """Returns whether an initializer draws its values, and values.

    They have the shape asked for, or are `DRAWN` ones in its place if each is drawn by itself.
    """
    key, shapes = jax.random.key(0), []
    with _drawing(shapes):
        try:
            values = initial(key)
        except (IndexError, TypeError, ValueError):
            if not shapes:
                raise
            values = None  # it does more with what it draws, and needs the shape
    if not shapes:
        return False, _wide(values)
    if values is not None and values.shape == (DRAWN,):
        return True, _wide(values)
    values, others = _wide(initial(key)), _wide(initial(jax.random.key(1)))
    return bool((values != others).any()), values


def _wide(values: jax.Array) -> np.ndarray:
    return np.asarray(jax.device_get(values), np.float64)


@contextlib.contextmanager
def _drawing(shapes: list) -> Iterator[None]:
    """Lets jax.random draw `DRAWN` values whatever the shape, and notes the shapes asked for."""

    def instead(draw: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def drawn(*arguments: Any, **named: Any) -> jax.Array:
            bound = inspect.signature(draw).bind(*arguments, **named)
            shapes.append(bound.arguments['shape'])
            bound.arguments['shape'] = (DRAWN,)
            return draw(*bound.args, **bound.kwargs)

        return drawn

    laws = {name: instead(getattr(jax.random, name)) for name in ('normal', 'uniform', 'truncated_normal')}
    inside = jax.nn.initializers.normal.__globals__['random']  # jax.random, as jax's initializers know it
    with mock.patch.multiple(jax.random, **laws), mock.patch.multiple(inside, **laws):
        yield


def moments_of(drawn: bool, values: np.ndarray) -> Moments:
    """Returns the moments of values, which were drawn or are fixed."""
    count, first = values.size if drawn else 0, float(values.flat[0])
    if (values == first).all():
        return Moments(count, first, 0.0, 0.0)
    mean, deviation = values.mean(), values.std()
    return Moments(count, float(mean), float(deviation), float(np.mean(((values - mean) / deviation) ** 4)))
