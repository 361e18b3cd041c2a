"""ReZero: the output of a branch is multiplied by a learned scalar, initially 0, before it is added to the stream.

Bachlechner et al., 2020, "ReZero is All You Need: Fast Convergence at Large Depth", https://arxiv.org/abs/2003.04887.
Reference: https://github.com/majumderb/rezero (MIT), read for facts. A network of any depth is the identity at first,
and so is its input-output Jacobian. The paper removes the norms of the blocks (`norm.NoNorm`).
"""

import dataclasses

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Single


class ReZero(Single):
    """``s + scale * y`` with one scale per block, as published.

    Attributes:
        initial: initial value of the scale.
        whole_block: whether the branches of a block share the scale; else each has its own.
    """

    initial: float = 0.0
    whole_block: bool = dataclasses.field(default=True, kw_only=True)

    @nn.compact
    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns ``s + scale * y``."""
        scale = self.param('scale', jax.nn.initializers.constant(self.initial), (1,))
        return s + y * scale[0].astype(y.dtype)
