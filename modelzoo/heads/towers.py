"""Two networks that embed two kinds of data, an image and a text, in one space."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.norm import l2_normalize

EMBEDDING = 'embedding'


class Tower(nn.Module):
    """A backbone and a matrix on its ``pooled``: features and ``embedding``, a vector of length 1.

    Attributes:
        backbone: columns of a batch -> features.
        width: of the embedding.
    """

    backbone: nn.Module
    width: int

    @nn.compact
    def __call__(self, *columns: Array, train: bool = False) -> ft.Features:
        """Returns the backbone's features and the embedding."""
        features = self.backbone(*columns, train=train)
        embedding = Dense(self.width, use_bias=False, name='projection')(features[ft.POOLED])
        return {**features, EMBEDDING: l2_normalize(embedding, axis=1)}


class Towers(nn.Module):
    """Both towers, and what their cosines are multiplied by; parameters ``image``, ``text`` and ``log_scale``.

    Attributes:
        image, text: the towers.
        scale: first factor of the cosines.
    """

    image: Tower
    text: Tower
    scale: float

    def setup(self) -> None:
        self.log_scale = self.param('log_scale', jax.nn.initializers.constant(math.log(self.scale)), ())

    def __call__(
        self, image: tuple[Array, ...] | None, text: tuple[Array, ...] | None, *, train: bool = False
    ) -> tuple[ft.Features | None, ft.Features | None, Float[Array, '']]:
        """Returns the features of each tower, and the factor.

        Args:
            image, text: the columns that each backbone reads; None leaves a tower out.
            train: passed to the backbones.
        """
        seen = None if image is None else self.image(*image, train=train)
        read = None if text is None else self.text(*text, train=train)
        return seen, read, jnp.exp(self.log_scale)

    def logits(self, image: tuple[Array, ...], text: tuple[Array, ...]) -> Float[Array, 'b t']:
        """Returns the scaled cosine of each image with each text; call it by `apply` with ``method='logits'``."""
        seen, read, scale = self(image, text)
        return scale * seen[EMBEDDING] @ read[EMBEDDING].T
