"""Attention of all pixels to those of a reduced map, whose queries and keys may be narrower than its values.

Spatial reduction: Wang et al., 2021, "Pyramid Vision Transformer", https://arxiv.org/abs/2102.12122. Few channels for
queries and keys: Xu et al., 2025, "S2AFormer: Strip Self-Attention for Efficient Vision Transformer",
https://arxiv.org/abs/2505.22195.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.patch import Patches
from longview.modelzoo.layers.norms.norm import LayerNorm


class ReducedAttention(nn.Module):
    """``out(softmax(q k^T / sqrt(K)) v)`` with ``[k | v] = kv(memory(x))``.

    Attributes:
        heads: number of heads; divides the width.
        memory: factory of the module that reduces the map for keys and values; None for no reduction.
        kernel_init: initial values of the matrices.
        dtype: compute type; the softmax is float32.
        key_width: channels K of the queries and the keys of a head, by default as many as its values have.
    """

    heads: int
    memory: Callable[..., nn.Module] | None = None
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32
    key_width: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map.

        Raises:
            ValueError: the heads do not divide the width, or `key_width` is not positive.
        """
        width = x.shape[-1]
        keys = width if self.key_width is None else self.heads * self.key_width
        if keys < 1:
            raise ValueError(f'key_width is {self.key_width}: use at least 1, or None for as many as values have.')
        memory = x if self.memory is None else self.memory(dtype=self.dtype, name='memory')(x)
        flat, memory = (tokens.reshape(x.shape[0], -1, width) for tokens in (x, memory))
        q = Dense(keys, True, self.kernel_init, self.dtype, name='q')(flat)
        kv = Dense(keys + width, True, self.kernel_init, self.dtype, name='kv')(memory)
        q, k, v = (attention.split_heads(part, self.heads) for part in (q, *jnp.split(kv, [keys], axis=-1)))
        mixed = attention.merge_heads(attention.attend(q, k, v))
        return Dense(width, True, self.kernel_init, self.dtype, name='out')(mixed).reshape(x.shape)


class Squares(nn.Module):
    """One matrix on each square of pixels, then LayerNorm.

    Attributes:
        side: side of the squares.
        kernel_init, bias_init: initial values; by default torch's.
        dtype: compute type.
    """

    side: int
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map with one pixel per square."""
        x = Patches(x.shape[-1], self.side, self.kernel_init, self.bias_init, self.dtype, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


def squares(side: int) -> Callable[..., nn.Module] | None:
    """Returns the `memory` of a reduction by `side`; None where it is 1."""
    return None if side == 1 else functools.partial(Squares, side)
