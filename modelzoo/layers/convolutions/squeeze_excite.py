"""Squeeze-and-excitation: channels are rescaled by a function of their global means.

Hu et al., 2017, https://arxiv.org/abs/1709.01507; the rounding of the hidden width is timm's
(https://github.com/huggingface/pytorch-image-models, Apache-2.0).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.pool import global_mean


class SqueezeExcite(nn.Module):
    """``x * sigmoid(up(act(down(global_mean(x)))))``.

    Attributes:
        ratio: hidden width over the number of channels.
        multiple_of: the hidden width is rounded to a multiple of this, at least to this itself.
        dtype: compute type.
        act: activation.
    """

    ratio: float = 1 / 16
    multiple_of: int = 8
    dtype: DTypeLike = jnp.float32
    act: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the rescaled map."""
        channels, step = x.shape[-1], self.multiple_of
        hidden = max(step, int(channels * self.ratio + step / 2) // step * step)
        initial = jax.nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
        y = self.act(Dense(hidden, True, initial, self.dtype, name='down')(global_mean(x)))
        y = Dense(channels, True, initial, self.dtype, name='up')(y)
        return x * nn.sigmoid(y)[:, None, None]
