"""The scale of activations and of gradients by depth: signal propagation plots.

Brock et al., 2021, "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
https://arxiv.org/abs/2101.08692, section 3: over a batch, by depth, the mean over the channels of the squared mean and
of the variance of each block's output, and of the output of its branch before it is added to the stream. A network of
good initial values keeps them within a few powers of ten; one whose variance doubles with each block is at 10^15 after
fifty.

Where we differ: the gradient is shown as well. It is that of ``<output, r>`` where `r` has a unit normal number for
each number of the output (see `end`), so that its scale is 1 where it begins, and no loss and no label plays a part.
Heads are left out, for their kernels often begin with zeros.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from longview.analysis.unrolled import parts, unrolled
from longview.methods import forward
from longview.modelzoo import features as ft
from longview.modelzoo.layers.residuals.residual import Residual

# The names of blocks: block03, stage1_block03, down2_block0.
_BLOCK = re.compile(r'block\d+$')
# Of features, what a network is asked for first.
_ENDS = (ft.POOLED, ft.TOKENS, ft.MAP, ft.PIXELS)


class Moments(NamedTuple):
    """Of an array (B, ..., C), with `mean` and `var` of each channel over everything else.

    Attributes:
        rms: the root mean square of all numbers, ``sqrt(mean_square + variance)``.
        mean_square: the mean of ``mean ** 2`` over the channels.
        variance: the mean of ``var`` over the channels.
    """

    rms: float
    mean_square: float
    variance: float


class Signal(NamedTuple):
    """What passes one place of a network.

    Attributes:
        place: below the backbone, such as ``stem``, ``stage0/block02`` or, of a branch, ``stage0/block02/mlp``.
        branch: whether it is a branch, before it is added to the stream, and not the stream.
        output: of the activations there.
        gradient: of the gradient with respect to them.
    """

    place: str
    branch: bool
    output: Moments
    gradient: Moments


def signals(
    module: nn.Module, variables: Mapping[str, Any], *columns: Shaped[Array, 'b ...'], seed: int = 0
) -> list[Signal]:
    """Returns what passes each place of a network, in the order of its computation.

    Places are the modules that `Backbone.layers` names (the embedding, the blocks, what stands between and after them)
    and the branches of blocks: what a residual connection is given to write to the stream, before a scale of its own;
    where a block adds by itself, how its output differs from its input. A network that is no backbone has its children
    in their place. It runs as in training (normalized by the batch), but stochastic depth and dropout are off.

    Args:
        module: the network; with ``scan`` or ``remat`` it gives the same numbers.
        variables: its arrays by collection.
        *columns: what it reads (`features.read_by`). Padding counts as everything else does.
        seed: of `r`, and of what is random inside of the network.

    Raises:
        ValueError: nothing of the network is a place, or it makes no numbers.
    """
    shapes = places(module, variables, *columns)

    def measure(variables: dict[str, Any], columns: tuple[Array, ...]) -> tuple[list[Moments], list[Moments]]:
        zeros = [jnp.zeros(shape.shape, shape.dtype) for _, _, shape in shapes]
        run = functools.partial(_run, unrolled(module), variables, columns, seed, [])
        _, pull, seen = jax.vjp(run, zeros, has_aux=True)
        return [moments(x) for x in seen], [moments(x) for x in pull(jnp.float32(1))[0]]

    measured = jax.device_get(jax.jit(measure)(dict(variables), columns))
    floats = lambda found: [Moments(*map(float, each)) for each in found]
    return [Signal(*place[:2], *both) for place, *both in zip(shapes, *map(floats, measured), strict=True)]


def places(
    module: nn.Module, variables: Mapping[str, Any], *columns: Any
) -> list[tuple[str, bool, jax.ShapeDtypeStruct]]:
    """Returns the places of a network: the name, whether it is a branch, and the shape of what passes.

    Args:
        module, variables, columns: see `signals`; or only shapes.

    Raises:
        ValueError: see `signals`.
    """
    names: list[tuple[str, bool]] = []
    run = lambda variables, columns: _run(unrolled(module), variables, columns, 0, names, None)[1]
    shapes = jax.eval_shape(run, dict(variables), columns)
    if not shapes:
        raise ValueError(
            f'{type(module).__name__} calls none of the modules that its layers name, so nothing has a depth: give it '
            'a modelzoo.features.Backbone.'
        )
    return [(*name, shape) for name, shape in zip(names, shapes, strict=True)]


def moments(x: Float[Array, '*n c']) -> Moments:
    """Returns the moments of an array whose last axis are the channels, in float32."""
    x = x.astype(jnp.float32)
    over = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axis=over)
    centered = x - jnp.expand_dims(mean, over)
    return Moments(jnp.sqrt(jnp.mean(jnp.square(x))), jnp.mean(jnp.square(mean)), jnp.mean(jnp.square(centered)))


def end(outputs: Any) -> Float[Array, 'b ...']:
    """Returns what the gradient begins at: of features ``pooled``, ``tokens``, ``map`` or ``pixels``, else all of it.

    Raises:
        ValueError: there are features, but none of these.
    """
    if not isinstance(outputs, Mapping):
        return outputs
    found = next((outputs[name] for name in _ENDS if name in outputs), None)
    if found is None:
        raise ValueError(f'the network gives {", ".join(outputs)}, and one of {", ".join(_ENDS)} is wanted.')
    return found


def _run(
    module: nn.Module,
    variables: dict[str, Any],
    columns: tuple[Array, ...],
    seed: int,
    names: list[tuple[str, bool]],
    deltas: list[Array] | None,
) -> tuple[Float[Array, ''], list[Array]]:
    """Returns ``<output, r>`` and what passed the places, to each of which one of `deltas` is added."""
    seen = _Places(module, names, deltas)
    params, state = forward.parted(variables)
    noise, inside = jax.random.split(jax.random.key(seed))
    with nn.intercept_methods(seen.watch):
        rows = jnp.arange(columns[0].shape[0])
        outputs, _ = forward.learn(module, params, state, *columns, rng=inside, row=rows)
    output = end(outputs).astype(jnp.float32)
    return jnp.vdot(output, jax.random.normal(noise, output.shape)), seen.arrays


class _Places:
    """Sees what modules return while a network is traced, and adds to it what gradients are taken of.

    Args:
        module: the network.
        names: to which the name of each place is appended, and whether it is a branch.
        deltas: zeros for each place, or None where the places are not known yet.
    """

    def __init__(self, module: nn.Module, names: list[tuple[str, bool]], deltas: list[Array] | None):
        self._names, self._deltas = names, deltas
        self._backbones = any(isinstance(part, ft.Backbone) for part in parts(module))
        self._network = ('backbone',) if hasattr(module, 'backbone') else ()  # the path of one that is no Backbone
        self._open: list[str] = []  # the blocks that are being called, the innermost last
        self.arrays: list[Array] = []

    def watch(self, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """Calls a method of a module; an interceptor of flax."""
        module = context.module
        if isinstance(module, Residual) and context.method_name == 'write' and self._open:
            name = module.name.removesuffix('residual').strip('_') or 'branch'
            stream, y = args
            return call(stream, self._note(f'{self._open[-1]}/{name}', True, y), **kwargs)
        place = self._place(module) if context.method_name == '__call__' else None
        if place is None:
            return call(*args, **kwargs)
        self._open.append(place)
        before = len(self.arrays)
        output = call(*args, **kwargs)
        self._open.pop()
        if len(self.arrays) == before and _BLOCK.search(place):
            output = self._add(f'{place}/branch', args, output)
        return self._note(place, False, output)

    def _place(self, module: nn.Module) -> str | None:
        """Returns the name of a module that is a place."""
        if not self._backbones:
            return module.name if module.path[:-1] == self._network and module.path else None
        above = module.parent
        while isinstance(above, nn.Module) and not isinstance(above, ft.Backbone):
            above = above.parent
        if not isinstance(above, ft.Backbone):
            return None
        name = '/'.join(module.path[len(above.path) :])
        return name if any(name in group for group in above.layers) else None

    def _add(self, name: str, args: tuple, output: Any) -> Any:
        """Notes what a block that adds by itself has added, if its output is like its input."""
        before, after = jax.tree.leaves(args)[:1], jax.tree.leaves(output)
        if not (before and after) or jnp.shape(before[0]) != jnp.shape(after[0]):
            return output
        return self._moved(output) if self._keep(name, True, after[0] - before[0]) else output

    def _note(self, name: str, branch: bool, output: Any) -> Any:
        """Notes what passes, of a stream of several arrays the first, and returns it with its delta added."""
        leaves = jax.tree.leaves(output)
        return self._moved(output) if leaves and self._keep(name, branch, leaves[0]) else output

    def _keep(self, name: str, branch: bool, x: Array) -> bool:
        """Keeps an array if it is one of activations."""
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 2:
            return False
        self._names.append((name, branch))
        self.arrays.append(x)
        return True

    def _moved(self, output: Any) -> Any:
        """Returns an output with the delta of what was kept last added to its first array."""
        if self._deltas is None:
            return output
        leaves, structure = jax.tree.flatten(output)
        return jax.tree.unflatten(structure, [leaves[0] + self._deltas[len(self.arrays) - 1], *leaves[1:]])
