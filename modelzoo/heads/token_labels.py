"""The head of networks that token labelling trained: the pooled features and all pixels vote."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame.dense import Dense


class TokenLabels(nn.Module):
    """Logits of the pooled features plus half of the greatest of all pixels, by a matrix of their own.

    Jiang et al., 2021, "All Tokens Matter: Token Labeling for Training Better Vision Transformers",
    https://arxiv.org/abs/2104.10858. In training a teacher's map of labels is what the pixels learn from, which no
    method of ours has.

    Attributes:
        num_classes: number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b k']:
        """Returns logits in float32; `features` must hold ``pooled`` and ``map``."""
        logits = Dense(self.num_classes, name='labels')(features[ft.POOLED])
        pixels = Dense(self.num_classes, name='pixels')(features[ft.MAP])
        return logits + 0.5 * jnp.max(pixels, axis=(1, 2))
