"""Orthogonal updates: a branch adds only what is at right angles to the stream.

Oh et al., 2025, "Revisiting Residual Connections: Orthogonal Updates for Stable and Efficient Deep Networks",
https://arxiv.org/abs/2505.11881. Reference: https://github.com/BootsofLagrangian/ortho-residual, read for facts; its
ResNets take the products over the channels of each pixel, its transformers over those of each token, and so does ours.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Single


class Orthogonal(Single):
    """``s + y - <s, y> / (<s, s> + epsilon) s`` with products over the last axis, in float32.

    Attributes:
        epsilon: as published.
    """

    epsilon: float = 1e-6

    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns the stream, longer or as long, never shorter but by rounding."""
        wide, update = s.astype(jnp.float32), y.astype(jnp.float32)
        along = jnp.sum(wide * update, axis=-1, keepdims=True)
        along = along / (jnp.sum(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide + update - along * wide).astype(s.dtype)
