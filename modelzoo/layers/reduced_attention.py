"""Attention whose queries look at a coarser map: spatial reduction.

Wang et al., 2021, "Pyramid Vision Transformer", https://arxiv.org/abs/2102.12122 and, for the 7x7 averages,
https://arxiv.org/abs/2106.13797. Reference: https://github.com/whai362/PVT (Apache-2.0), commit 57e2dfa.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers import attention, init
from longview.modelzoo.layers.dense import Dense
from longview.modelzoo.layers.mlp import gelu
from longview.modelzoo.layers.norm import LayerNorm
from longview.modelzoo.layers.patch import Patches


class ReducedAttention(nn.Module):
    """Attention of all pixels to fewer.

    Attributes:
        heads: number of heads; divides the width.
        memory: factory of what makes the map that keys and values come from; None for the map itself.
        kernel_init: of the matrices.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    memory: Callable[..., nn.Module] | None = None
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map."""
        width = x.shape[-1]
        memory = x if self.memory is None else self.memory(dtype=self.dtype, name='memory')(x)
        flat, memory = (tokens.reshape(len(x), -1, width) for tokens in (x, memory))
        q = Dense(width, True, self.kernel_init, self.dtype, name='q')(flat)
        kv = Dense(2 * width, True, self.kernel_init, self.dtype, name='kv')(memory)
        q, k, v = (attention.split_heads(part, self.heads) for part in (q, *jnp.split(kv, 2, axis=-1)))
        mixed = attention.merge_heads(attention.attend(q, k, v))
        return Dense(width, True, self.kernel_init, self.dtype, name='out')(mixed).reshape(x.shape)


class Squares(nn.Module):
    """One matrix on each square of pixels, then LayerNorm.

    Attributes:
        side: of the squares.
        kernel_init, bias_init: by default torch's.
        dtype: compute type.
    """

    side: int
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h2 w2 d']:
        """Returns a pixel for each square."""
        x = Patches(x.shape[-1], self.side, self.kernel_init, self.bias_init, self.dtype, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class Averages(nn.Module):
    """The averages of 7x7 parts of a map, a matrix on each, LayerNorm and GELU.

    Attributes:
        kernel_init, bias_init: by default torch's.
        dtype: compute type.
    """

    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b 7 7 d']:
        """Returns 7x7 pixels of a map of any size."""
        rows, columns = (jnp.asarray(_parts(side, 7), x.dtype) for side in x.shape[1:3])
        x = jnp.einsum('ph,bhwd,qw->bpqd', rows, x, columns)
        x = Patches(x.shape[-1], 1, self.kernel_init, self.bias_init, self.dtype, name='conv')(x)
        return gelu(LayerNorm(dtype=self.dtype, name='norm')(x))


def _parts(size: int, parts: int) -> np.ndarray:
    """Returns what each part averages: torch's adaptive pooling, parts that overlap where they do not divide."""
    part, point = np.indices((parts, size))
    inside = (point >= part * size // parts) & (point < -(-(part + 1) * size // parts))
    return inside / inside.sum(1, keepdims=True)
