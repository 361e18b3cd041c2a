"""Norms of streams whose channels sum to 0, and the arrays that have to be centered for it.

Jiang et al., 2023, "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers",
https://arxiv.org/abs/2305.14858. Reference: https://github.com/ZixuanJiang/pre-rmsnorm-transformer (MIT) at 025d43a,
torch/customized_layer.py and torch/model.py, read for facts.

A network of `frame.block.PreNorm` reads its stream through layer normalization alone, which takes the mean over the
channels away: what is written to the stream may as well have no mean. Then layer normalization is root mean square
normalization (`norm.RMSNorm`), and the last channel, minus the sum of the others, need not be stored (`CRMSNorm`).
`methods.zero_mean.ZeroMean` trains such a network, `modelzoo.pre_rms` makes it of a trained one.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.trees import path_of

# What writes to the stream, of a ViT and of the sequence trunk: embeddings, and each branch's last matrix and bias.
_EMBEDDINGS = r'stem/(linear/)?(kernel|bias)|stem/(table|pos_embed)|pos_embed|cls_token|dist_token'
WRITES = rf'(.*/)?({_EMBEDDINGS}|block\d+/(mixer/out|mlp/down)/(kernel|bias))'


class CRMSNorm(nn.Module):
    """Layer normalization of d + 1 channels that sum to 0, of which the first d are given and returned.

    ``x / sqrt((sum(x^2) + sum(x)^2) / (d + 1) + epsilon)``, in float32. It has no scale and no bias: those of a layer
    normalization belong to the matrices behind it, see `modelzoo.pre_rms`.

    Attributes:
        epsilon: that of the layer normalization.
        dtype: of the result.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
        """Normalizes the last axis."""
        x = x.astype(jnp.float32)
        squares = jnp.sum(x * x, axis=-1, keepdims=True) + jnp.sum(x, axis=-1, keepdims=True) ** 2
        return (x * jax.lax.rsqrt(squares / (x.shape[-1] + 1) + self.epsilon)).astype(self.dtype)


def centered(x: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """Returns `x` without its mean over the last axis, which is that of the channels written."""
    return x - jnp.mean(x, axis=-1, keepdims=True)


def centered_writes(params: Any, pattern: str = WRITES) -> Any:
    """Returns parameters with those centered that write to the stream: all whose paths match `pattern`."""

    def center(key_path: Any, leaf: Array) -> Array:
        return centered(leaf) if re.fullmatch(pattern, path_of(key_path)) else leaf

    return jax.tree_util.tree_map_with_path(center, params)
