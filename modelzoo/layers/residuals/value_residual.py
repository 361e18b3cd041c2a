"""Value residuals: the values of the first block's attention reach the attention of every later block.

Zhou et al., 2024, "Value Residual Learning For Alleviating Attention Concentration In Transformers",
https://arxiv.org/abs/2410.17897. Reference: https://github.com/Zcchill/Value-Residual-Learning (MIT), read for facts.
`ValueResidual` is ResFormer with the weights published there, halves; `SharedValue` is SVFormer, whose later blocks
have no values of their own. The weights of the paper's other variants, learned or for some blocks only, are left out.

The features are added as ever; beside them the stream carries the first values, and whether there are any yet: a block
that runs for all under scan cannot know its number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Residual, Telling


class Told(NamedTuple):
    """What an attention is told of its values.

    Attributes:
        first: the first block's.
        weights: of those and of its own.
        own: whether it has any of its own.
    """

    first: Float[Array, 'b n d']
    weights: tuple[Array | float, Array | float]
    own: bool

    def values(self, own: Float[Array, 'b n d'] | None = None) -> Float[Array, 'b n d']:
        """Returns the values to use."""
        if own is None:
            return self.first
        first_weight, own_weight = (jnp.asarray(weight, own.dtype) for weight in self.weights)
        return first_weight * self.first.astype(own.dtype) + own_weight * own


class Values(NamedTuple):
    """A stream: the features, the first values, and 1 once there are some."""

    x: Float[Array, 'b *n']
    first: Float[Array, 'b *n']
    known: Float[Array, '']


class _Valued(Residual, Telling):
    """The stream of both kinds."""

    def open(self, x: Float[Array, 'b *n']) -> Values:
        """Returns `x` without values."""
        return Values(x, jnp.zeros_like(x), jnp.zeros(()))

    def read(self, s: Values) -> Float[Array, 'b *n']:
        """Returns the features."""
        return s.x

    def write(self, s: Values, y: Float[Array, 'b *n']) -> Values:
        """Adds `y` to the features."""
        return s._replace(x=s.x + y)

    def carry(self, s: Values, f: Callable[[Array], Array]) -> Values:
        """Changes the features; the values stay."""
        return s._replace(x=f(s.x))

    def close(self, s: Values) -> Float[Array, 'b *n']:
        """Returns the features."""
        return s.x

    def keep(self, s: Values, values: Float[Array, 'b n d']) -> Values:
        """Keeps the values if they are the first."""
        first = jnp.where(s.known > 0, s.first, values.astype(s.first.dtype))
        return s._replace(first=first, known=jnp.ones(()))


class ValueResidual(_Valued):
    """``attention(first * first values + own * values)`` in every block but the first.

    Attributes:
        first, own: the weights.
    """

    first: float = 0.5
    own: float = 0.5

    def told(self, s: Values) -> Told:
        """Returns the first values and the weights; without values yet, 0 and 1."""
        return Told(s.first, (s.known * self.first, 1 + s.known * (self.own - 1)), True)


class SharedValue(_Valued):
    """The first block's values are those of all blocks, which then cannot run with scan."""

    def told(self, s: Values) -> Told:
        """Returns the first values; in the first block none, but leave to have its own."""
        return Told(s.first, (0.0, 1.0), self.block == 0)
