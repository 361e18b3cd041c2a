"""Residual connections: how the branches of a block read from and write to the residual stream.

He et al., 2015, https://arxiv.org/abs/1512.03385, for `Add`. Other connections have the same methods, with parameters
of their own or over another stream (several copies; the features and the values of the first block). A network takes
one as its field `residual`: rezero.py, layer_scale.py, fixup.py, hyper_connections.py, frac_connections.py, laurel.py,
orthogonal.py, value_residual.py.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

# The features themselves, or a tuple that holds them.
Stream = Array | tuple[Array, ...]


class Residual(nn.Module, abc.ABC):
    """A trunk opens and closes the stream; in between every branch does ``s = write(s, branch(read(s)))``.

    `open`, `close` and `carry` have no parameters, so a trunk can call them on a connection of its own.

    Attributes:
        block, blocks: index of the block and number of blocks, on which initial values may depend.
        branch, branches: index of the branch in its block and number of branches in a block.
        whole_block: whether the branches of a block share one connection and its parameters.
    """

    block: int = dataclasses.field(default=0, kw_only=True)
    blocks: int = dataclasses.field(default=1, kw_only=True)
    branch: int = dataclasses.field(default=0, kw_only=True)
    branches: int = dataclasses.field(default=1, kw_only=True)
    whole_block: bool = dataclasses.field(default=False, kw_only=True)

    @abc.abstractmethod
    def open(self, x: Float[Array, 'b *n']) -> Stream:
        """Returns the stream that starts with `x`."""

    @abc.abstractmethod
    def read(self, s: Stream) -> Float[Array, 'b *n']:
        """Returns the input of a branch."""

    @abc.abstractmethod
    def write(self, s: Stream, y: Float[Array, 'b *n']) -> Stream:
        """Returns the stream after the branch with output `y`."""

    @abc.abstractmethod
    def carry(self, s: Stream, f: Callable[[Array], Array]) -> Stream:
        """Returns the stream with `f`, such as a norm or a downsampling, applied to every copy of the features."""

    @abc.abstractmethod
    def close(self, s: Stream) -> Float[Array, 'b *n']:
        """Returns the output of the trunk."""


class Single(Residual):
    """A connection whose stream is the features themselves; a branch reads them unchanged, a subclass has `write`."""

    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns `x`."""
        return x

    def read(self, s: Array) -> Float[Array, 'b *n']:
        """Returns `s`."""
        return s

    def carry(self, s: Array, f: Callable[[Array], Array]) -> Array:
        """Returns ``f(s)``."""
        return f(s)

    def close(self, s: Array) -> Float[Array, 'b *n']:
        """Returns `s`."""
        return s


class Add(Single):
    """``s + y``, without parameters."""

    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns ``s + y``."""
        return s + y


class SetsInitialValues(abc.ABC):
    """A connection that also sets the initial values of its branch's matrices."""

    @abc.abstractmethod
    def initialized(self, part: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Returns the factory of a branch with its initial values changed.

        Raises:
            NotImplementedError: the branch has no fields for its initial values.
        """


class SharesValues(abc.ABC):
    """A connection that carries values of attention from block to block, beside the features.

    The mixer has the method ``y, state, values = with_values(x, mix, state)`` for it.
    """

    @abc.abstractmethod
    def value_mix(self, s: Stream) -> Any:
        """Returns how this block's attention makes its values: a `value_residual.ValueMix`."""

    @abc.abstractmethod
    def store(self, s: Stream, values: Array) -> Stream:
        """Returns the stream for the next block, given the values that this block's attention used."""


def along(residual: Callable[..., Residual], depth: int) -> list[Callable[..., Residual]]:
    """Returns the factory of the connections of each block in a network of `depth` blocks."""
    return [functools.partial(residual, block=block, blocks=depth) for block in range(depth)]


def connect(residual: Callable[..., Residual], branches: Sequence[str]) -> list[Residual]:
    """Returns the connection of each branch of a block, named ``mixer_residual`` for a branch ``mixer``.

    If the branches share one connection it is named ``residual``.
    """
    if residual(parent=None).whole_block:
        return [residual(branches=len(branches), name='residual')] * len(branches)
    return [
        residual(branch=index, branches=len(branches), name=f'{branch}_residual')
        for index, branch in enumerate(branches)
    ]


def initialized(join: Residual, part: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Returns the factory of a branch, with the initial values that its connection sets, if it sets any."""
    return join.initialized(part) if isinstance(join, SetsInitialValues) else part


def run_mixer(join: Residual, mixer: nn.Module, s: Stream, x: Array, *, train: bool) -> tuple[Stream, Array]:
    """Returns the stream, with the values it carries from now on, and the mixer's output for `x`.

    Raises:
        NotImplementedError: the connection shares values and the mixer has none.
    """
    if not isinstance(join, SharesValues):
        return s, mixer(x, train=train)
    y, _, values = _attention(join, mixer).with_values(x, join.value_mix(s))
    return join.store(s, values), y


def extend_mixer(join: Residual, mixer: nn.Module, s: Stream, x: Array, state: Any) -> tuple[Stream, Array, Any]:
    """Returns what `run_mixer` does, for the next elements of a sequence, and the mixer's state after them.

    Raises:
        NotImplementedError: the connection shares values and the mixer has none.
    """
    if not isinstance(join, SharesValues):
        return s, *mixer.extend(x, state)
    y, state, values = _attention(join, mixer).with_values(x, join.value_mix(s), state)
    return join.store(s, values), y, state


def _attention(join: Residual, mixer: nn.Module) -> nn.Module:
    if callable(getattr(mixer, 'with_values', None)):
        return mixer
    raise NotImplementedError(
        f'{type(join).__name__} shares the values of attention, and {type(mixer).__name__} has '
        'none to share: choose a mixer of attention or another residual.'
    )
