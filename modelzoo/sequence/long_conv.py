"""Simple long convolutions: a kernel as long as the sequence, whose taps are parameters regularized by squashing.

Fu et al., 2023, "Simple Hardware-Efficient Long Convolutions for Sequence Modeling",
https://arxiv.org/abs/2302.06646. Reference: https://github.com/HazyResearch/safari (Apache-2.0), commit 02220c6,
src/models/sequence/long_conv.py and long_conv_kernel.py; read for facts, no code was taken. The network around it is
that of S4's example, https://github.com/state-spaces/s4 (Apache-2.0).

Where we differ: there is no dropout, neither of activations nor of taps, and smoothing in the frequency domain is left
out. The default squash of the reference is 0.1, which turns the initial taps into zeros; ours is in the range of the
paper's recipes, 0.001 to 0.005.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.long_filter import LongFilter
from longview.modelzoo.sequence.trunk import Trunk, s4_example_names


def decaying(key: Array, shape: tuple[int, int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal taps (K, D, S) with an exponential decay, faster for later channels: ``double_exp`` in the reference."""
    taps, channels, _ = shape
    speed = (channels // 2) ** (jnp.arange(channels, dtype=dtype) / channels)
    envelope = jnp.exp(-(jnp.arange(taps, dtype=dtype) / taps)[:, None] * speed[None])
    return 0.02 * jax.random.normal(key, shape, dtype) * envelope[..., None]


def squashed(kernel: Float[Array, 'k d s'], smooth: int, squash: float) -> Float[Array, 'k d s']:
    """Returns the kernel after a moving average over `smooth` taps and soft thresholding by `squash`."""
    if smooth > 1:
        padded = jnp.pad(kernel, ((smooth // 2, smooth // 2), (0, 0), (0, 0)))
        kernel = sum(padded[tap : tap + len(kernel)] for tap in range(smooth)) / smooth
    return jax.nn.relu(abs(kernel) - squash) * jnp.sign(kernel)


class LongConv(LongFilter):
    """``glu(out(gelu(convolution(x) + D x)))``.

    Attributes:
        places, bidirectional, dtype: see `layers.mixers.long_filter.LongFilter`; `places` is the number of taps.
        squash: threshold of the soft thresholding of taps.
        smooth: length of the moving average before it, an odd number; 1 for none.
        kernel_init: initial values of the taps, (K, D, directions).
    """

    squash: float = 0.003
    smooth: int = 1
    kernel_init: init.Initializer = decaying

    def _kernel(self, width: int) -> Float[Array, 'k d s']:
        kernel = self.param('kernel', self.kernel_init, (self.places, width, 1 + self.bidirectional))
        return squashed(kernel, self.smooth, self.squash)

    def _out(self, y: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        width = y.shape[-1]
        value, gate = jnp.split(Dense(2 * width, True, init.uniform_fan_in(width), self.dtype, name='out')(y), 2, -1)
        return value * jax.nn.sigmoid(gate)


class LongConvNetwork(Trunk):
    """`Trunk` with long convolutions; the other published names are those of S4's example."""


_CLASSIFIER = functools.partial(LongConvNetwork, last_norm=None, pre_norm=False)
VARIANTS = {
    'long_conv_example': _CLASSIFIER(128, 4, functools.partial(LongConv, bidirectional=True)),
    'long_conv_test': _CLASSIFIER(8, 1, functools.partial(LongConv, places=6, smooth=3)),
}
PUBLISHED: dict[str, ft.Published] = {}


# Published names of a mixer's parameters, and ours; see weights.py.
MIXER_NAMES = (
    ('D', 'D'),
    ('kernel.kernel', 'kernel'),
    ('output_linear.0.weight', 'out/kernel'),
    ('output_linear.0.bias', 'out/bias'),
)
NAMES = {'LongConvNetwork': s4_example_names('layers', MIXER_NAMES)}
