"""Residual connections: how a block's branches read from and write to the stream that runs through a network.

He et al., 2015, https://arxiv.org/abs/1512.03385, for `Add`. Others keep the same four methods over another
stream (several copies, past outputs) or with parameters of their own, and drop in as a block's `residual`.
"""

import abc

from flax import linen as nn
from jaxtyping import Array, Float


class Residual(nn.Module, abc.ABC):
    """A trunk opens and closes the stream; in between every branch does ``s = write(s, branch(read(s)))``."""

    @abc.abstractmethod
    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns the stream that starts with `x`."""

    @abc.abstractmethod
    def read(self, s: Array) -> Float[Array, 'b *n']:
        """Returns a branch's input."""

    @abc.abstractmethod
    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns the stream after a branch's output `y`."""

    @abc.abstractmethod
    def close(self, s: Array) -> Float[Array, 'b *n']:
        """Returns the trunk's output."""


class Add(Residual):
    """``s + y``: the stream is the features themselves, and nothing is learned."""

    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns `x`."""
        return x

    def read(self, s: Array) -> Float[Array, 'b *n']:
        """Returns `s`."""
        return s

    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns ``s + y``."""
        return s + y

    def close(self, s: Array) -> Float[Array, 'b *n']:
        """Returns `s`."""
        return s
