"""LAuReL: the stream passes through a small learned function before the output of a branch is added.

Menghani et al., 2024, "LAuReL: Learned Augmented Residual Layer", https://arxiv.org/abs/2411.07501. The authors
published no code; `LowRank` with a norm is the block of Gemma 3n in Hugging Face's transformers (Apache-2.0), release
5.23, read for facts. The paper's third variant, a sum over the outputs of earlier blocks, is left out. Initial values
are not published; here the second matrix starts at 0, so that the stream is unchanged at first.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.residuals.residual import Single


class LowRank(nn.Module):
    """``x + norm(right(left(x)))`` with two low-rank matrices without bias.

    Attributes:
        rank: width between the two matrices.
        norm: factory of a norm; None for none, as in the paper.
        right_init: initial values of the second matrix.
        dtype: compute type.
    """

    rank: int = 64
    norm: Callable[..., nn.Module] | None = None
    right_init: Callable[..., Array] = jax.nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
        """Acts on the last axis."""
        left = Dense(self.rank, False, jax.nn.initializers.lecun_normal(), self.dtype, name='left')
        y = Dense(x.shape[-1], False, self.right_init, self.dtype, name='right')(left(x))
        return x + (y if self.norm is None else self.norm(dtype=self.dtype, name='norm')(y))


class Laurel(Single):
    """``alpha * y + beta * (s + right(left(s)))``: the paper's LR, or with learned weights its RW+LR.

    Attributes:
        rank: rank of the product of the matrices; 0 for no matrices (RW alone).
        weighted: whether alpha and beta are learned, as the softmax of two parameters; else both are 1.
    """

    rank: int = 64
    weighted: bool = False

    @nn.compact
    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns the stream after the branch with output `y`."""
        if self.rank:
            s = LowRank(self.rank, dtype=s.dtype, name='low_rank')(s)
        if not self.weighted:
            return s + y
        alpha, beta = jax.nn.softmax(self.param('mixture', jax.nn.initializers.zeros, (2,)))
        return alpha.astype(y.dtype) * y + beta.astype(s.dtype) * s


# Published names of the block's parameters, and ours; see weights.py.
NAMES = (
    ('linear_left.weight', 'left/kernel'),
    ('linear_right.weight', 'right/kernel'),
    ('post_laurel_norm.weight', 'norm/scale'),
)
