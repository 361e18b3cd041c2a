"""How the elements of a sequence become vectors: words from a table, or numbers through a matrix.

Learned positions, where there are any, are added as in GPT-2 (Radford et al., 2019).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.modelzoo.layers import init
from longview.modelzoo.layers.dense import Dense


class Words(nn.Module):
    """``table[word] + positions[place]``.

    Attributes:
        vocabulary: number of words.
        width: of the vectors.
        places: rows of the table of positions; 0 for none.
        dtype: compute type.
    """

    vocabulary: int
    width: int
    places: int = 0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the tables."""
        normal = jax.nn.initializers.normal(0.02)
        self.table = self.param('table', normal, (self.vocabulary, self.width))
        if self.places:
            self.pos_embed = self.param('pos_embed', normal, (self.places, self.width))

    def __call__(self, words: Int[Array, 'b t'], start: Any = 0) -> Float[Array, 'b t d']:
        """Returns the vectors of words at the places `start`, `start` + 1, ...

        Raises:
            ValueError: the sequence is longer than the table of positions.
        """
        x = self.table[words].astype(self.dtype)
        if not self.places:
            return x
        length = words.shape[1]
        if length > self.places:
            raise ValueError(f'{length} words are more than the {self.places} places that have a position: read a '
                             'shorter sequence, or set places.')
        rows = jax.lax.dynamic_slice_in_dim(self.pos_embed, start, length)
        return x + rows.astype(self.dtype)[None]


class Elements(nn.Module):
    """``x @ kernel + bias`` for each element; an image is the sequence of its pixels, row by row.

    Attributes:
        width: of the vectors.
        dtype: compute type.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b t c'] | Float[Array, 'b h w c']) -> Float[Array, 'b t d']:
        """Returns the vectors."""
        x = x.reshape(len(x), -1, x.shape[-1])
        fan_in = init.uniform_fan_in(x.shape[-1])
        return Dense(self.width, True, fan_in, self.dtype, name='linear')(x)
