"""Value residuals: the values of the first block's attention reach the attention of every later block.

Zhou et al., 2024, "Value Residual Learning For Alleviating Attention Concentration In Transformers",
https://arxiv.org/abs/2410.17897. Reference: https://github.com/Zcchill/Value-Residual-Learning (MIT), read for facts.
`ValueResidual` is ResFormer with the weights published there, 0.5 and 0.5; `SharedValue` is SVFormer, whose later
blocks have no values of their own. The weights of the paper's other variants, learned or for some blocks only, are left
out.

Features are added to the stream as usual. The stream also carries the values of the first block, and a number that says
whether there are any yet: under scan one traced block runs in every place, so it cannot know its own number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Residual, SharesValues


class ValueMix(NamedTuple):
    """How a block's attention makes the values it uses, V'_n = lambda_1 V_1 + lambda_2 V_n in the paper.

    Attributes:
        first: V_1, the values of the first block.
        weights: lambda_1 and lambda_2, of the first block's values and of the block's own.
        has_own: whether the block projects values of its own; without them it uses V_1 as they are.
    """

    first: Float[Array, 'b n d']
    weights: tuple[Array | float, Array | float]
    has_own: bool

    def values(self, own: Float[Array, 'b n d'] | None = None) -> Float[Array, 'b n d']:
        """Returns V'_n; `own` is V_n, None for a block without values of its own.

        Where fewer heads have values than queries, V_1 is filled up with zeros, and is cut to the width of `own` here;
        without that, the block cuts it.
        """
        if own is None:
            return self.first
        _check_room(own, self.first)
        first_weight, own_weight = (jnp.asarray(weight, own.dtype) for weight in self.weights)
        return first_weight * self.first[..., : own.shape[-1]].astype(own.dtype) + own_weight * own


def _check_room(values: Array, room: Array) -> None:
    if values.shape[-1] > room.shape[-1]:
        raise ValueError(
            f'values have {values.shape[-1]} channels and the stream has room for {room.shape[-1]}: use a smaller '
            'head_width.'
        )


class ValueStream(NamedTuple):
    """The features, the first block's values, and whether these are there yet: 0 before the first block, then 1."""

    x: Float[Array, 'b *n']
    first: Float[Array, 'b *n']
    has_first: Float[Array, '']


class _CarriesValues(Residual, SharesValues):
    """The stream that both kinds share."""

    def open(self, x: Float[Array, 'b *n']) -> ValueStream:
        """Returns `x` without values."""
        return ValueStream(x, jnp.zeros_like(x), jnp.zeros(()))

    def read(self, s: ValueStream) -> Float[Array, 'b *n']:
        """Returns the features."""
        return s.x

    def write(self, s: ValueStream, y: Float[Array, 'b *n']) -> ValueStream:
        """Adds `y` to the features."""
        return s._replace(x=s.x + y)

    def carry(self, s: ValueStream, f: Callable[[Array], Array]) -> ValueStream:
        """Changes the features; the values stay."""
        return s._replace(x=f(s.x))

    def close(self, s: ValueStream) -> Float[Array, 'b *n']:
        """Returns the features."""
        return s.x

    def store(self, s: ValueStream, values: Float[Array, 'b n d']) -> ValueStream:
        """Returns the stream with `values` as the first block's, unless it has those already.

        It has room for values as wide as the features; narrower ones are filled up with zeros.
        """
        _check_room(values, s.first)
        spare = s.first.shape[-1] - values.shape[-1]
        values = jnp.pad(values, ((0, 0),) * (values.ndim - 1) + ((0, spare),))
        first = jnp.where(s.has_first > 0, s.first, values.astype(s.first.dtype))
        return s._replace(first=first, has_first=jnp.maximum(s.has_first, 1))


class ValueResidual(_CarriesValues):
    """ResFormer: every block but the first attends to ``first * V_1 + own * V_n``, the first one to V_1.

    Attributes:
        first, own: lambda_1 and lambda_2, the weights of the first block's values and of the block's own.
    """

    first: float = 0.5
    own: float = 0.5

    def value_mix(self, s: ValueStream) -> ValueMix:
        """Returns the first block's values with the two weights; in the first block itself the weights are 0 and 1."""
        return ValueMix(s.first, (s.has_first * self.first, 1 + s.has_first * (self.own - 1)), True)


class SharedValue(_CarriesValues):
    """SVFormer: every block attends to V_1; only the first block has a matrix for values, so scan cannot run them."""

    def value_mix(self, s: ValueStream) -> ValueMix:
        """Returns the first block's values; the first block itself projects its own."""
        return ValueMix(s.first, (0.0, 1.0), self.block == 0)
