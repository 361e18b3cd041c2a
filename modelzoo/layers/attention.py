"""Multi-head self-attention over all tokens.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762. Queries, keys and values come from one matrix, in that order,
as in the published vision transformers. Heads are an axis of their own before the tokens, B H N K: of the forms tried
on a CPU this one, with plain matrix products, is the fastest. Logits become float32 before the softmax.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from modelzoo.layers import init
from modelzoo.layers.dense import Dense


class Attention(nn.Module):
    """``out(softmax(q k^T / sqrt(K)) v)`` with ``[q | k | v] = qkv(x)``.

    Attributes:
        heads: number of heads; divides the width.
        qkv_bias: whether `qkv` has a bias; `out` always has one.
        kernel_init: of both matrices.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    qkv_bias: bool = True
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens; any number of them, in any order."""
        width = x.shape[-1]
        qkv = Dense(3 * width, self.qkv_bias, self.kernel_init, self.dtype, name='qkv')(x)
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        return Dense(width, True, self.kernel_init, self.dtype, name='out')(merge_heads(attend(q, k, v)))


def attend(q: Float[Array, 'b h n k'], k: Float[Array, 'b h m k'], v: Float[Array, 'b h m v'], *,
           scale: float | None = None, bias: Float[Array, '1 h n m'] | None = None) -> Float[Array, 'b h n v']:
    """Returns ``softmax(scale * q k^T + bias) v``; the scale is 1 / sqrt(K) by default."""
    return weights(q, k, scale=scale, bias=bias).astype(v.dtype) @ v


def weights(q: Float[Array, 'b h n k'], k: Float[Array, 'b h m k'], *, scale: float | None = None,
            bias: Float[Array, '1 h n m'] | None = None) -> Float[Array, 'b h n m']:
    """Returns ``softmax(scale * q k^T + bias)`` in float32."""
    scale = q.shape[-1]**-0.5 if scale is None else scale
    logits = ((q * scale) @ jnp.swapaxes(k, -1, -2)).astype(jnp.float32)
    return jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)


def split_heads(x: Float[Array, 'b n d'], heads: int) -> Float[Array, 'b h n k']:
    """Returns each head's share of the last axis.

    Raises:
        ValueError: the width does not divide.
    """
    if x.shape[-1] % heads:
        raise ValueError(f'width {x.shape[-1]} does not divide into {heads} heads: change width or heads.')
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def merge_heads(x: Float[Array, 'b h n k']) -> Float[Array, 'b n d']:
    """Undoes `split_heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)
