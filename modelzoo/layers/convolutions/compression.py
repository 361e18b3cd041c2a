"""The transforms of networks that compress images: convolutions of 5x5 that halve the sides, and those that undo it.

Ballé et al., 2018, "Variational Image Compression with a Scale Hyperprior", https://arxiv.org/abs/1802.01436.
Reference: CompressAI 1.2.8 (https://github.com/InterDigitalInc/CompressAI, BSD-3-Clause-Clear), models/google.py,
FactorizedPrior and FactorizedPriorReLU. We differ in the synthesis' initial values, which are LeCun's.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.norms import gdn


class Analysis(nn.Module):
    """Convolutions of 5x5 and stride 2, with a normalization or ReLU between them.

    Attributes:
        widths: output channels of each.
        norm: factory of the normalization; None for ReLU.
        dtype: compute type.
    """

    widths: Sequence[int] = (128, 128, 128, 192)
    norm: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map whose sides are halved by each convolution, rounded up."""
        for index, width in enumerate(self.widths):
            x = _between(self, index, {})(x)
            x = Conv(width, 5, 2, 2, self.dtype, name=f'conv{index}')(x)
        return x


class Synthesis(nn.Module):
    """The mirror of `Analysis`: transposed convolutions of 5x5 and stride 2, between them inverse normalizations.

    Attributes:
        widths: output channels of each; the last are those of an image.
        norm: factory of the normalization, which takes ``inverse``; None for ReLU.
        dtype: compute type.
    """

    widths: Sequence[int] = (128, 128, 128, 3)
    norm: Callable[..., nn.Module] | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map whose sides are doubled by each convolution."""
        for index, width in enumerate(self.widths):
            x = _between(self, index, {'inverse': True})(x)
            x = nn.ConvTranspose(width, (5, 5), (2, 2), 'SAME', dtype=self.dtype, name=f'conv{index}')(x)
        return x


def _between(module: Analysis | Synthesis, index: int, options: dict) -> Callable[[Array], Array]:
    """Returns what precedes convolution number `index`; nothing precedes the first."""
    if not index:
        return lambda x: x
    if module.norm is None:
        return nn.relu
    return functools.partial(module.norm, **options)(dtype=module.dtype, name=f'norm{index - 1}')


# Published names of arrays, and ours.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))


def analysis_names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    """Returns the names of an `Analysis` at these places; every second layer there is a convolution."""
    return (
        *((f'{there}{2 * index}.{a}', f'{here}conv{index}/{b}') for index in range(4) for a, b in _AFFINE),
        *((f'{there}{2 * index + 1}.{a}', b and f'{here}norm{index}/{b}') for index in range(3) for a, b in gdn.NAMES),
    )
