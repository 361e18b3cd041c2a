"""What self-supervised objectives put on top of a backbone: a projection head."""

from collections.abc import Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

PROJECTED = 'projected'


class Projector(nn.Module):
    """Layers on ``pooled``, with batch normalization and a rectifier between them, as SwAV's head has it.

    Caron et al., 2020, https://arxiv.org/abs/2006.09882. SimCLR's reference normalizes the last layer too, and has no
    biases (Chen et al., 2020, https://arxiv.org/abs/2002.05709).

    Attributes:
        widths: of each layer's output; the last one is the projection's.
    """

    widths: Sequence[int] = (2048, 128)

    @nn.compact
    def __call__(self, features: ft.Features, *, train: bool = False) -> Float[Array, 'b d']:
        """Returns the projection, float32."""
        x = features[ft.POOLED]
        for index, width in enumerate(self.widths):
            if index:
                x = BatchNorm(name=f'norm{index}')(x[:, None, None], train=train)[:, 0, 0]
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
        return {**features, PROJECTED: self.projector(features, train=train)}
