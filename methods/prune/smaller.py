"""Structured pruning of a trained network: removes whole hidden units of the feed-forward layers.

Li et al., 2017, "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710: where whole filters are
removed, those of the smallest norms in each layer, the arrays themselves become smaller, and no sparse product is
needed to save anything; the network is then trained a little more. Reference, which is not the authors':
https://github.com/Eric-mingjie/rethinking-network-pruning (MIT), cifar/l1-norm-pruning.

Where we differ: the units of feed-forward layers go, not the filters of convolutions. A unit is judged by the product
of the L2 norms of the weights into it and of those out of it, there by the L1 norm of the weights into it alone. The
product does not ask how a unit's scale is shared between the two, and it is 0 where removing the unit changes nothing.
Every layer loses the same share, so that what is left is a network that a config describes by another ``ratio``; there
layers that are more sensitive lose less. Heads of attention stay: their width follows from that of the tokens.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from longview.methods.computation import Made, Work
from longview.methods.objective import NETWORK
from longview.methods.task import Network
from longview.modelzoo.layers.frame.mlp import GatedMlp, Mlp, SwiGLU
from longview.trees import by_path

# Layers whose units do not see each other; all end in a matrix ``down`` that has a row for each unit.
KINDS = (Mlp, SwiGLU, GatedMlp)

_LAYER = re.compile(r'(backbone/(?:.+/)?mlp/)down/kernel')


@dataclasses.dataclass(frozen=True)
class Smaller:
    """A computation: a run's network with fewer hidden units, to be trained on by a later stage.

    It leaves the network, under the name that it had, and ``smaller.json`` with the numbers of parameters ``before``
    and ``after``.

    Attributes:
        run: workdir of the run, such as ``{'stage': 'dense'}`` in a config.
        share: how much of the units of each layer stays, by way of its ``ratio``: it is rounded as the layer does it.
        network: which network of the run.
    """

    run: str
    share: float = 0.5
    network: str = NETWORK

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f'Smaller.share is {self.share}: it must be above 0 and below 1.')

    def __call__(self, work: Work) -> Made:
        """Returns the network and the file.

        Raises:
            ValueError: the run has no network of this name, or `smaller` refuses it.
        """
        networks = work.open(self.run).networks
        if self.network not in networks:
            raise ValueError(
                f'Smaller.network is {self.network!r}, and {self.run} has {", ".join(networks)}: name one of these.'
            )
        whole = networks[self.network]
        small = smaller(whole, self.share)
        counts = {'before': _parameters(whole), 'after': _parameters(small)}
        return Made(files={'smaller.json': counts}, networks={self.network: small})


def smaller(network: Network, share: float) -> Network:
    """Returns a network without some of the hidden units of each feed-forward layer of its backbone.

    The module has another ``ratio`` in its backbone's `mlp`; the arrays are those of the units that stay, in their
    order.

    Args:
        network: a module with a ``backbone`` whose field `mlp` makes layers of `KINDS`, and its variables.
        share: how much of the units stays, above 0 and below 1.

    Raises:
        ValueError: the network has other feed-forward layers, or the share leaves all of a layer's units, or none.
    """
    wide = _factory(network.module)
    ratio = wide().ratio * share
    # That of `SwiGLU` is whole, so what can be is.
    narrow = functools.partial(wide, ratio=int(ratio) if ratio.is_integer() else ratio)
    backbone = network.module.backbone.clone(mlp=narrow)
    cut = jax.jit(functools.partial(_cut, wide=wide, narrow=narrow))
    variables = {**network.variables, 'params': cut(network.variables['params'])}
    return Network(network.module.clone(backbone=backbone), variables)


def importance(layer: Mapping[str, Float[Array, '...']], axes: Mapping[str, int]) -> Float[Array, ' h']:
    """Returns the product of the norms of a unit's weights, of each matrix that it has some in, its bias included.

    Args:
        layer: the arrays of a feed-forward layer by path, such as ``up/kernel``.
        axes: the axis of units of those that have one. Where it is twice as long as there are units, as in `SwiGLU`, it
            is of two matrices beside each other.
    """
    units, squares = layer['down/kernel'].shape[0], {}
    for path, axis in axes.items():
        by_unit = jnp.moveaxis(layer[path].astype(jnp.float32), axis, 0)
        by_unit = by_unit.reshape(by_unit.shape[0] // units, units, -1)
        matrix = path.partition('/')[0]
        squares[matrix] = squares.get(matrix, 0.0) + jnp.sum(jnp.square(by_unit), axis=-1)
    return jnp.prod(jnp.sqrt(jnp.concatenate([*squares.values()])), axis=0)


def _factory(module: nn.Module) -> Callable[..., nn.Module]:
    """Returns what makes the feed-forward layers of a network: one of `KINDS`, and its arguments by name."""
    backbone = getattr(module, 'backbone', None)
    mlp = getattr(backbone, 'mlp', None)
    kind, args, keywords = (mlp.func, mlp.args, mlp.keywords) if isinstance(mlp, functools.partial) else (mlp, (), {})
    if kind not in KINDS:
        name = type(module if backbone is None else backbone).__name__
        has = 'has no field mlp' if mlp is None else f'has {getattr(kind, "__name__", "a tuple")} as its mlp'
        raise ValueError(
            f'{name} {has}, and hidden units are removed from {", ".join(k.__name__ for k in KINDS)}: take a network '
            'with one of these.'
        )
    return functools.partial(kind, **inspect.signature(kind).bind_partial(*args, **keywords).arguments)


def _cut(params: Mapping[str, Any], wide: Callable[..., nn.Module], narrow: Callable[..., nn.Module]) -> dict[str, Any]:
    """Returns the parameters without the units that are not in layers made by `narrow`."""
    flat = traverse_util.flatten_dict(dict(params), sep='/')
    for place in sorted(found[1] for path in flat if (found := _LAYER.fullmatch(path))):
        layer = {path.removeprefix(place): array for path, array in flat.items() if path.startswith(place)}
        flat |= {place + path: array for path, array in _narrowed(layer, wide, narrow, place).items()}
    return traverse_util.unflatten_dict(flat, sep='/')


def _narrowed(
    layer: Mapping[str, Float[Array, '...']],
    wide: Callable[..., nn.Module],
    narrow: Callable[..., nn.Module],
    place: str,
) -> dict[str, Float[Array, '...']]:
    """Returns the arrays of one layer for the units that stay."""
    units, width = layer['down/kernel'].shape
    had = _shapes(wide, width)
    if had != {path: array.shape for path, array in layer.items()}:
        raise ValueError(
            f'{place} has other arrays than the mlp of its backbone makes: take a network whose blocks use it as it is.'
        )
    # A layer without units cannot be made, not even by shapes.
    wanted = _shapes(narrow, width) if units * narrow().ratio >= wide().ratio else {'down/kernel': (0, width)}
    left = wanted['down/kernel'][0]
    if not 0 < left < units:
        raise ValueError(f'{place} would keep {left} of its {units} hidden units: change Smaller.share.')
    axes = {path: _axis(had[path], wanted[path]) for path in layer if had[path] != wanted[path]}
    chosen = jnp.sort(jax.lax.top_k(importance(layer, axes), left)[1])
    narrowed = dict(layer)
    for path, axis in axes.items():
        matrices = jnp.arange(layer[path].shape[axis] // units)
        narrowed[path] = jnp.take(layer[path], (matrices[:, None] * units + chosen[None]).ravel(), axis=axis)
    return narrowed


def _shapes(factory: Callable[..., nn.Module], width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a feed-forward layer's arrays by path."""
    made = jax.eval_shape(factory().init, jax.random.key(0), jax.ShapeDtypeStruct((1, width), jnp.float32))
    return {path: leaf.shape for path, leaf in by_path(made['params']).items()}


def _axis(wide: tuple[int, ...], narrow: tuple[int, ...]) -> int:
    """Returns the only axis in which two shapes differ."""
    (axis,) = (axis for axis, sizes in enumerate(zip(wide, narrow)) if len({*sizes}) > 1)
    return axis


def _parameters(network: Network) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(network.variables['params']))
