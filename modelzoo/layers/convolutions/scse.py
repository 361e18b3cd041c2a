"""Squeeze-and-excitation for segmentation: maps rescaled by channel (cSE), by pixel (sSE), and by both (scSE).

Roy, Navab and Wachinger, 2018, "Recalibrating Fully Convolutional Networks with Spatial and Channel 'Squeeze &
Excitation' Blocks", https://arxiv.org/abs/1808.08127, and before it https://arxiv.org/abs/1803.02579. Reference:
https://github.com/ai-med/squeeze_and_excitation (MIT), squeeze_and_excitation.py.

cSE is Hu et al.'s squeeze-and-excitation with half as many hidden channels (squeeze_excite.py). As in the reference
scSE keeps the larger of both results; the first paper adds them. Where we differ: of an odd number of channels the half
is rounded up, there down; initial values are those of squeeze_excite.py, there torch's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame.dense import Dense

ChannelSqueeze = functools.partial(SqueezeExcite, ratio=1 / 2, multiple_of=1)
MERGES: dict[str, Callable[[Array, Array], Array]] = {
    'max': jnp.maximum,
    'add': jnp.add,
    'multiply': jnp.multiply,
}


class SpatialSqueeze(nn.Module):
    """sSE, ``x * sigmoid(gate(x))`` with one number for each pixel.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the rescaled map."""
        initial = jax.nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
        return x * nn.sigmoid(Dense(1, True, initial, self.dtype, name='gate')(x))


class ConcurrentSqueeze(nn.Module):
    """scSE, ``merge(cSE(x), sSE(x))``.

    Attributes:
        merge: 'max' for the larger number of both, 'add' for their sum, 'multiply' for their product.
        channel: factory of cSE.
        dtype: compute type.
    """

    merge: str = 'max'
    channel: Callable[..., nn.Module] = ChannelSqueeze
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the rescaled map.

        Raises:
            ValueError: an unknown merge.
        """
        if self.merge not in MERGES:
            raise ValueError(f'merge is {self.merge!r}: use one of {", ".join(MERGES)}.')
        by_channel = self.channel(dtype=self.dtype, name='channel')(x)
        return MERGES[self.merge](by_channel, SpatialSqueeze(self.dtype, name='spatial')(x))


# The reference's names.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
CHANNEL_NAMES = tuple((f'{a}.{c}', f'{b}/{d}') for a, b in (('fc1', 'down'), ('fc2', 'up')) for c, d in _AFFINE)
SPATIAL_NAMES = (('conv.weight', 'gate/kernel', 2), ('conv.bias', 'gate/bias'))
NAMES = (
    *((f'cSE.{a}', f'channel/{b}') for a, b in CHANNEL_NAMES),
    *((f'sSE.{a}', f'spatial/{b}', *axes) for a, b, *axes in SPATIAL_NAMES),
)
