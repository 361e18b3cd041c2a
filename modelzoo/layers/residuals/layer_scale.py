"""LayerScale: the output of a branch is multiplied by a small learned vector before it is added to the stream.

Touvron et al., 2021, https://arxiv.org/abs/2103.17239.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Single


class LayerScale(Single):
    """``s + scale * y`` with one scale per channel, the last axis.

    Attributes:
        initial: initial value of all scales.
    """

    initial: float = 1e-4

    @nn.compact
    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns ``s + scale * y``."""
        scale = self.param('scale', jax.nn.initializers.constant(self.initial), (y.shape[-1],))
        return s + y * scale.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
