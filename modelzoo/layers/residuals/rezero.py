"""ReZero: branches enter the stream multiplied by one learned number, which starts at 0.

Bachlechner et al., 2020, "ReZero is All You Need: Fast Convergence at Large Depth", https://arxiv.org/abs/2003.04887.
Reference: https://github.com/majumderb/rezero (MIT), read for facts. A network of any depth starts as the identity,
and its input's gradient with it; the paper takes the norms of the blocks away (`norm.NoNorm`).
"""

import dataclasses

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Single


class ReZero(Single):
    """``s + scale * y`` with one number for a block, as published.

    Attributes:
        initial: value that it starts from.
        whole_block: whether a block's branches share it; else each has its own.
    """

    initial: float = 0.0
    whole_block: bool = dataclasses.field(default=True, kw_only=True)

    @nn.compact
    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns ``s + scale * y``."""
        scale = self.param('scale', jax.nn.initializers.constant(self.initial), (1,))
        return s + y * scale[0].astype(y.dtype)
