"""Efficient channel attention (ECA): channels are rescaled by a convolution over the means of their neighbors.

Wang et al., 2019, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
https://arxiv.org/abs/1910.03151. The size of the kernel follows from the channels as in timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), whose least is 3; in the authors' networks
(https://github.com/BangguWu/ECANet, MIT) it is given for each stage.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.pool import global_mean


class EfficientAttention(nn.Module):
    """``x * sigmoid(conv(global_mean(x)))``, where the convolution runs over the channels, which are in order.

    Attributes:
        size: odd size of the kernel; None for the odd number at or above ``(log2(channels) + 1) / 2``, rounded down
            before, and no less than 3.
        dtype: compute type.
    """

    size: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the rescaled map."""
        channels = x.shape[-1]
        size = adaptive_size(channels) if self.size is None else self.size
        kernel = self.param('kernel', init.uniform_fan_in(size), (size, 1, 1))
        means = jnp.pad(global_mean(x).astype(self.dtype), ((0, 0), (size // 2, size // 2)))
        taps = [tap.astype(self.dtype) * means[:, n : n + channels] for n, tap in enumerate(kernel[:, 0, 0])]
        return x * nn.sigmoid(sum(taps[1:], taps[0]))[:, None, None]


def adaptive_size(channels: int) -> int:
    """Returns the size of the kernel for a number of channels.

    >>> [adaptive_size(channels) for channels in (16, 64, 256, 2048, 4096)]
    [3, 3, 5, 7, 7]
    """
    size = int((math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)
