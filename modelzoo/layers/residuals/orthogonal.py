"""Orthogonal updates: a branch adds only the component of its output that is orthogonal to the stream.

Oh et al., 2025, "Revisiting Residual Connections: Orthogonal Updates for Stable and Efficient Deep Networks",
https://arxiv.org/abs/2505.11881. Reference: https://github.com/BootsofLagrangian/ortho-residual, read for facts. As
there, inner products are over the channels of each pixel (ResNets) or token (transformers).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Single


class Orthogonal(Single):
    """``s + y - <s, y> / (<s, s> + epsilon) s`` with inner products over the last axis, in float32.

    Attributes:
        epsilon: added to the denominator.
    """

    epsilon: float = 1e-6

    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns the stream after the branch with output `y`; its norm does not shrink, except by rounding."""
        wide, update = s.astype(jnp.float32), y.astype(jnp.float32)
        along = jnp.sum(wide * update, axis=-1, keepdims=True)
        along = along / (jnp.sum(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide + update - along * wide).astype(s.dtype)
