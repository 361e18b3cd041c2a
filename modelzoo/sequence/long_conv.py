"""Simple long convolutions: every tap of a kernel as long as the sequence is a parameter, kept small by squashing.

Fu et al., 2023, "Simple Hardware-Efficient Long Convolutions for Sequence Modeling",
https://arxiv.org/abs/2302.06646. Reference: https://github.com/HazyResearch/safari (Apache-2.0), commit 02220c6,
src/models/sequence/long_conv.py and long_conv_kernel.py; read for facts, no code was taken. The network around it is
that of S4's example, https://github.com/state-spaces/s4 (Apache-2.0).

Where we differ: there is no dropout, of taps neither; the smoothing by frequencies is left out. The reference squashes
by 0.1 unless told otherwise, which makes zeros of the taps it starts with; the paper's recipes say 0.001 to 0.005, and
so does ours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kernels.long_conv import long_conv as two_sided
from modelzoo import features as ft
from modelzoo.layers import init
from modelzoo.layers.dense import Dense
from modelzoo.layers.long_filter import convolve, no_past, refuse_to_step
from modelzoo.layers.mixer import Mixer
from modelzoo.layers.mlp import gelu
from modelzoo.layers.variants import changed
from modelzoo.sequence.trunk import Trunk

State = Float[Array, 'b n d']


def decaying(key: Array, shape: tuple[int, int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal taps (K, D, S) that decay with the distance, and the faster the later the channel: ``double_exp``."""
    taps, channels, _ = shape
    speed = (channels // 2) ** (jnp.arange(channels, dtype=dtype) / channels)
    envelope = jnp.exp(-(jnp.arange(taps, dtype=dtype) / taps)[:, None] * speed[None])
    return 0.02 * jax.random.normal(key, shape, dtype) * envelope[..., None]


class LongConv(Mixer):
    """``glu(out(gelu(convolution(x) + D x)))``.

    Attributes:
        places: taps of the kernel.
        squash: taps smaller than this are zero, others so much nearer to it.
        smooth: taps whose mean each tap is replaced by before, an odd number; 1 for none.
        kernel_init: initial values of the taps, (K, D, directions).
        bidirectional: a second kernel looks ahead.
        dtype: compute type of the last matrix; the convolution is float32.
    """

    places: int = 1024
    squash: float = 0.003
    smooth: int = 1
    kernel_init: init.Initializer = decaying
    bidirectional: bool = False
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, 'b t d'], *, train: bool = False) -> Float[Array, 'b t d']:
        """Mixes a sequence; in one longer than the kernel no element sees further than that."""
        del train
        return self._mix(x, None)[0]

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element.

        Raises:
            NotImplementedError: it looks ahead.
        """
        if self.bidirectional:
            refuse_to_step('LongConv')
        return no_past(batch, self.places, width)

    def extend(self, x: Float[Array, 'b t d'], state: State) -> tuple[Float[Array, 'b t d'], State]:
        """Returns the outputs of the next elements, one or many, and the state after them."""
        return self._mix(x, state)

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State | None) -> tuple[Float[Array, 'b t d'], State | None]:
        width, u = x.shape[-1], x.astype(jnp.float32)
        kernel = self._taps(self.param('kernel', self.kernel_init, (self.places, width, 1 + self.bidirectional)))
        if self.bidirectional:
            y = two_sided(u, kernel[..., 0], backward_kernel=kernel[..., 1])
        else:
            y, state = convolve(u, kernel[..., 0], state)
        D = self.param('D', jax.nn.initializers.normal(1.0), (1, width))
        y = gelu(y + D[None] * u)
        value, gate = jnp.split(Dense(2 * width, True, init.uniform_fan_in(width), self.dtype, name='out')(y), 2, -1)
        return value * jax.nn.sigmoid(gate), state

    def _taps(self, kernel: Float[Array, 'k d s']) -> Float[Array, 'k d s']:
        if self.smooth > 1:
            side = self.smooth // 2
            padded = jnp.pad(kernel, ((side, side), (0, 0), (0, 0)))
            kernel = sum(padded[tap:tap + self.places] for tap in range(self.smooth)) / self.smooth
        return jax.nn.relu(abs(kernel) - self.squash) * jnp.sign(kernel)


class LongConvNetwork(Trunk):
    """`Trunk` with long convolutions; the names around them are S4's example's."""


_CLASSIFIER = functools.partial(LongConvNetwork, last_norm=None, pre_norm=False)
VARIANTS = {
    'long_conv_example': _CLASSIFIER(128, 4, functools.partial(LongConv, bidirectional=True)),
    'long_conv_test': _CLASSIFIER(8, 1, functools.partial(LongConv, places=6, smooth=3)),
}
PUBLISHED: dict[str, ft.Published] = {}


def long_conv(variant: str = 'long_conv_example', *, width: int | None = None, depth: int | None = None,
              mixer: dict[str, Any] | None = None, pre_norm: bool | None = None, drop_path: float | None = None,
              dtype: DTypeLike = 'float32', remat: bool = False, scan: bool = False) -> LongConvNetwork:
    """Returns a variant, changed where a value is given; see `Trunk`.

    Args:
        mixer: fields of `LongConv`, in place of the variant's, such as ``{'places': 784}``.

    Raises:
        ValueError: there is no such variant.
    """
    return changed(VARIANTS, variant, LongConvNetwork, {
        'width': width, 'depth': depth, 'mixer': None if mixer is None else functools.partial(LongConv, **mixer),
        'pre_norm': pre_norm, 'drop_path': drop_path, 'dtype': jnp.dtype(dtype), 'remat': remat, 'scan': scan})


# The published names of a mixer's parameters, our names for a classifier's, and ours; see weights.py.
MIXER_NAMES = (
    ('D', 'D'), ('kernel.kernel', 'kernel'), ('output_linear.0.weight', 'out/kernel'),
    ('output_linear.0.bias', 'out/bias'),
)
NAMES = {
    'LongConvNetwork': (
        *((f'encoder.{a}', f'backbone/stem/linear/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))),
        *(('layers.{i}.' + there, 'backbone/block{i:02d}/mixer/' + here) for there, here in MIXER_NAMES),
        *(('norms.{i}.' + a, 'backbone/block{i:02d}/mixer_norm/' + b)
          for a, b in (('weight', 'scale'), ('bias', 'bias'))),
        *((f'decoder.{a}', f'head/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))),
    ),
}
