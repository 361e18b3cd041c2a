"""Attention between the pixels of a map or a window, with a learned bias for each relative offset.

Shaw et al., 2018, https://arxiv.org/abs/1803.02155, in two axes and as a bias of the logits as in CoAtNet
(https://arxiv.org/abs/2106.04803) and Swin (https://arxiv.org/abs/2103.14030).

A table is for one size. For a map of another size its offsets are resized linearly without antialiasing, as in CoAtNet
and in the TensorFlow code of MaxViT and MOAT.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.attention import attention, posemb, window
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense


class RelativeAttention(nn.Module):
    """``out(softmax(q k^T / sqrt(K) + bias) v)`` with ``[q | k | v] = qkv(x)``.

    Attributes:
        table: rows and columns of the map that the table of biases is for.
        features: output channels; None for the input's.
        width: channels of all heads together; None for the output's.
        head_width: channels of a head; divides the width.
        heads_first: whether the columns of `qkv` are ordered by head and then by query, key and value, as in timm's
            CoAtNet; else the other way round.
        by_key: whether the table is (heads, rows, columns) by the offset from the query to the key, as in TensorFlow;
            else it is (rows * columns, heads) by the offset from the key to the query, as in Swin.
        dtype: compute type; logits and softmax are float32.
    """

    table: tuple[int, int]
    features: int | None = None
    width: int | None = None
    head_width: int = 32
    heads_first: bool = True
    by_key: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels.

        Raises:
            ValueError: `head_width` does not divide the width.
        """
        del train
        features = self.features or x.shape[-1]
        width = self.width or features
        if width % self.head_width:
            raise ValueError(f'width {width} does not divide into heads of {self.head_width}: change one of them.')
        heads, xavier = width // self.head_width, init.xavier_uniform()
        qkv = Dense(3 * width, True, xavier, self.dtype, name='qkv')(x.reshape(x.shape[0], -1, x.shape[-1]))
        mixed = attention.attend(*self._split(qkv, heads), bias=self._bias(heads, x.shape[1:3]))
        y = Dense(features, True, xavier, self.dtype, name='out')(attention.merge_heads(mixed))
        return y.reshape(*x.shape[:3], features)

    def _split(self, qkv: Float[Array, 'b n d'], heads: int) -> list[Float[Array, 'b a n k']]:
        if self.heads_first:
            return jnp.split(attention.split_heads(qkv, heads), 3, axis=-1)
        return [attention.split_heads(part, heads) for part in jnp.split(qkv, 3, axis=-1)]

    def _bias(self, heads: int, grid: tuple[int, int]) -> Float[Array, '1 a n n']:
        source = tuple(2 * side - 1 for side in self.table)
        if self.by_key:
            table = self.param('pos_embed', jax.nn.initializers.normal(0.02), (heads, *source))
            # Reversed, offsets from the query to the key are those from the key to the query.
            table = table[:, ::-1, ::-1].reshape(heads, -1).T
        else:
            table = self.param('pos_embed', init.trunc_normal(0.02), (source[0] * source[1], heads))
        target = tuple(2 * side - 1 for side in grid)
        offsets = posemb.resize(table[None], source, target, matrix=posemb.linear_matrix)
        return offsets[0, window.relative_index(grid)].transpose(2, 0, 1)[None]


def refit(table: Float[np.ndarray, '*n'], grid: tuple[int, int]) -> Float[np.ndarray, '*m']:
    """Resizes a published table of a square, of either layout, for a map of `grid` pixels."""
    target = tuple(2 * side - 1 for side in grid)
    if table.ndim == 2:
        return posemb.refit(table[None], target, matrix=posemb.linear_matrix)[0]
    flat = table.reshape(len(table), -1).T[None]
    return posemb.refit(flat, target, matrix=posemb.linear_matrix)[0].T.reshape(len(table), *target)


def names(there: str, here: str, axes: int = 0) -> list[tuple]:
    """Returns timm's names of the parameters, and ours, at these places; its matrices end with so many axes of 1."""
    matrices = (('attn.qkv', 'mixer/qkv'), ('attn.proj', 'mixer/out'), ('mlp.fc1', 'mlp/up'), ('mlp.fc2', 'mlp/down'))
    indices = ('relative_position_index', 'height_lookup', 'width_lookup')
    return [
        *((f'{there}.{a}.weight', f'{here}/{b}/kernel', axes) for a, b in matrices),
        *((f'{there}.{a}.bias', f'{here}/{b}/bias') for a, b in matrices),
        (f'{there}.attn.rel_pos.relative_position_bias_table', f'{here}/mixer/pos_embed'),
        *((f'{there}.attn.rel_pos.{index}', '') for index in indices),
    ]
