"""What self-supervised objectives put on top of a backbone: a projection head."""

from collections.abc import Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from modelzoo import features as ft
from modelzoo.layers.dense import Dense

PROJECTED = 'projected'


class Projector(nn.Module):
    """Layers with rectifiers between them, on ``pooled``; Chen et al., 2020, https://arxiv.org/abs/2002.05709.

    Where we differ from the reference: no batch normalization between the layers.

    Attributes:
        widths: of each layer's output; the last one is the projection's.
    """

    widths: Sequence[int] = (2048, 128)

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b d']:
        """Returns the projection, float32."""
        x = features[ft.POOLED]
        for index, width in enumerate(self.widths):
            x = Dense(width, name=f'layer{index}')(nn.relu(x) if index else x)
        return x


class Projected(nn.Module):
    """A backbone and a projector under one roof: features and ``projected``.

    Attributes:
        backbone: image -> features.
        projector: features -> vectors.
    """

    backbone: nn.Module
    projector: nn.Module

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns the backbone's features and the projection."""
        features = self.backbone(x, train=train)
        return {**features, PROJECTED: self.projector(features)}
