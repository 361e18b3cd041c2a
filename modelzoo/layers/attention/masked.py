"""Multi-head self-attention in which not every token sees every other: padding, or what comes later.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762. Parameters are those of `Attention`.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from longview.modelzoo.layers.attention.attention import attend, merge_heads, split_heads
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense


class MaskedAttention(nn.Module):
    """``out(softmax(q k^T / sqrt(K)) v)`` with ``[q | k | v] = qkv(x)``, over the tokens that each token sees.

    Attributes:
        seen: whether each token of an example sees each other one, (B, N, N) or broadcast to it.
        heads: number of heads; divides the width.
        kernel_init: initial values of both matrices.
        dtype: compute type; the softmax is float32.
    """

    seen: Bool[Array, 'b n n']
    heads: int
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens."""
        del train
        width = x.shape[-1]
        qkv = Dense(3 * width, True, self.kernel_init, self.dtype, name='qkv')(x)
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        mixed = merge_heads(attend(q, k, v, mask=self.seen[:, None]))
        return Dense(width, True, self.kernel_init, self.dtype, name='out')(mixed)
