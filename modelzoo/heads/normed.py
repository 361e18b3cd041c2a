"""A linear head behind a batch normalization, as small convolutional networks since LeViT have it."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.features import POOLED, Features
from longview.modelzoo.layers.frame import init


class NormedLinear(nn.Module):
    """``(pooled * scale + shift) @ kernel + bias``: what a batch normalization and a linear head learn.

    The backbone normalizes ``pooled``, without scale and bias.

    Attributes:
        num_classes: number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: Features) -> Float[Array, 'b k']:
        """Returns logits; `features` must hold ``pooled``."""
        zero, pooled = jax.nn.initializers.zeros, features[POOLED]
        scale = self.param('scale', jax.nn.initializers.ones, pooled.shape[1:])
        shift = self.param('shift', zero, pooled.shape[1:])
        kernel = self.param('kernel', init.trunc_normal(0.02), (pooled.shape[-1], self.num_classes))
        bias = self.param('bias', zero, (self.num_classes,))
        return (pooled.astype(kernel.dtype) * scale[None] + shift[None]) @ kernel + bias[None]
