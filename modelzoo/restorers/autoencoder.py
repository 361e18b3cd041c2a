"""An autoencoder of images by the transforms of image compression, without their rounding and entropy model.

It gives an encoder to networks that read compressed images, such as CI2P-ViT (https://arxiv.org/abs/2502.10120), where
published weights are not at hand: train it with `methods.restore.regress:Regress` and take its ``encoder`` with
`methods.start:Start`. See layers/convolutions/compression.py for the transforms and their source.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.compression import Analysis, Synthesis


class Autoencoder(ft.Restorer):
    """An `Analysis` and the `Synthesis` that mirrors it.

    Attributes:
        widths: output channels of the convolutions of the encoder; the last are those of the code.
        norm: factory of the normalizations between them, which takes ``inverse``; None for ReLU.
        dtype: compute type; parameters are float32.
    """

    widths: Sequence[int] = (128, 128, 128, 192)
    norm: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> tuple[Float[Array, 'b h w c']]:
        """Returns the image as it is made of its code."""
        del train
        code = Analysis(self.widths, self.norm, self.dtype, name='encoder')(x)
        back = (*reversed(self.widths[:-1]), x.shape[-1])
        return (Synthesis(back, self.norm, self.dtype, name='decoder')(code)[:, : x.shape[1], : x.shape[2]],)
