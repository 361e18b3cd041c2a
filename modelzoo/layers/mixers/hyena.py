"""Hyena's operator: input-dependent gates alternating with convolutions whose long kernels are implicit.

Poli et al., 2023, "Hyena Hierarchy: Towards Larger Convolutional Language Models", https://arxiv.org/abs/2302.10866.
Reference: https://github.com/HazyResearch/safari (Apache-2.0), commit 02220c6, src/models/sequence/hyena.py; read for
facts, no code was taken. A kernel is a small network with sine activations evaluated at each position, times an
exponential window. As published, the table of position features is a parameter (with its own learning rate, 1e-5), and
all sines share one vector of frequencies.

Where we differ: one head and one block (as in every published recipe); a sequence longer than the table of positions
is refused, where the reference truncates it; there is no dropout.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.long_filter import convolve, no_past
from longview.modelzoo.layers.mixers.mamba import CausalConv
from longview.modelzoo.layers.mixers.mixer import Mixer

# The window decays to _TARGET after this share of the length: _SLOW for the first channel, _FAST for the last one.
_TARGET, _SLOW, _FAST = 1e-2, 1.5, 0.3


class State(NamedTuple):
    """The last inputs of the short convolution, and those of each long convolution."""

    short: Float[Array, 'b k c']
    long: tuple[Float[Array, 'b n d'], ...]


class Hyena(Mixer):
    """``out(gate_0 * conv(gate_1 * ... conv(gate_{order - 1} * v)))``; gates and v are projections of the input.

    Attributes:
        places: length of the longest sequence.
        order: number of gates.
        hidden, features, inner, frequency, window: see `ImplicitKernel`.
        taps: taps of the short convolution over gates and v.
        first_gate_first: whether gate_{order - 1} above is the first output of the input matrix; by default gate_0 is.
        kernel_init, out_init, filter_init: initial values of the first matrix, of the last one, and of the matrices in
            the kernel's network; by default torch's.
        dtype: compute type of the matrices; long convolutions are computed in float32.
    """

    places: int = 1024
    order: int = 2
    hidden: int = 64
    features: int = 3
    inner: int = 2
    frequency: float = 1.0
    window: bool = True
    taps: int = 3
    first_gate_first: bool = False
    kernel_init: init.Initializer | None = None
    out_init: init.Initializer | None = None
    filter_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def longest(self) -> int | None:
        """The length of the longest sequence."""
        return self.places

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        short = jnp.zeros((batch, self.taps - 1, (self.order + 1) * width), self.dtype)
        return State(short, (no_past(batch, self.places, width),) * (self.order - 1))

    def _sequence_state(self, x: Float[Array, 'b t d']) -> State:
        if x.shape[1] > self.places:
            raise ValueError(
                f'a sequence of {x.shape[1]} is longer than the {self.places} places that Hyena has '
                'positions for: set places.'
            )
        short = jnp.zeros((x.shape[0], self.taps - 1, (self.order + 1) * x.shape[-1]), self.dtype)
        return State(short, (None,) * (self.order - 1))

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State) -> tuple[Float[Array, 'b t d'], State]:
        width = x.shape[-1]
        initial = init.uniform_fan_in(width)
        u = Dense((self.order + 1) * width, True, self.kernel_init or initial, self.dtype, name='in')(x)
        u, short = CausalConv(self.taps, self.dtype, name='conv')(u, state.short)
        *gates, v = jnp.split(u.astype(jnp.float32), self.order + 1, axis=-1)
        *before, last = gates if self.first_gate_first else gates[::-1]
        kernel = ImplicitKernel(
            width * (self.order - 1),
            self.places,
            self.hidden,
            self.features,
            self.inner,
            self.frequency,
            self.window,
            self.filter_init,
            name='filter',
        )()
        kernel = kernel.reshape(self.places, width, self.order - 1)
        skip = self.param('bias', jax.nn.initializers.normal(1.0), (width * (self.order - 1),))
        skip = skip.reshape(width, self.order - 1)
        pasts = []
        for index, (gate, past) in enumerate(zip(before, state.long)):
            v = v * gate
            y, past = convolve(v, kernel[..., index], past)
            v = y + skip[None, None, :, index] * v
            pasts.append(past)
        y = Dense(width, True, self.out_init or initial, self.dtype, name='out')(v * last)
        return y, State(short, tuple(pasts))


class ImplicitKernel(nn.Module):
    """A small network that maps each position to a tap of the kernel of each channel.

    Attributes:
        channels: number of kernels.
        places: number of taps.
        hidden: hidden width of the network.
        features: features of each position, an odd number: the position itself, and cosines and sines of it.
        inner: number of hidden matrices between the first and the last matrix.
        frequency: initial frequency of the sine activations.
        window: whether to multiply by an exponential window, which decays more slowly for the first channels.
        kernel_init: initial values of the matrices; by default torch's.
    """

    channels: int
    places: int
    hidden: int = 64
    features: int = 3
    inner: int = 2
    frequency: float = 1.0
    window: bool = True
    kernel_init: init.Initializer | None = None

    @nn.compact
    def __call__(self) -> Float[Array, 'k d']:
        """Returns all taps, in float32."""
        z = self.param('positions', waves, (1, self.places, self.features))[0]
        constant = jax.nn.initializers.constant(self.frequency)
        frequencies = self.param('frequencies', constant, (1, self.hidden))
        for index in range(1 + self.inner):
            kernel_init = self.kernel_init or init.uniform_fan_in(z.shape[-1])
            z = jnp.sin(frequencies * Dense(self.hidden, True, kernel_init, name=f'linear{index}')(z))
        kernel_init = self.kernel_init or init.uniform_fan_in(self.hidden)
        z = Dense(self.channels, False, kernel_init, name=f'linear{1 + self.inner}')(z)
        if not self.window:
            return z
        speed = np.linspace(math.log(_TARGET) / _SLOW, math.log(_TARGET) / _FAST, self.channels)
        return z * jnp.exp(-jnp.linspace(0, 1, self.places)[:, None] * abs(speed).astype(np.float32)[None])


def waves(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """The features (1, places, F) of each position: the position scaled to [0, 1], cosines, then negative sines."""
    del key
    _, places, features = shape
    bands = (features - 1) // 2
    angle = 2 * np.pi * np.arange(places)[:, None] / places * np.linspace(1e-4, bands - 1, bands)[None]
    found = np.concatenate([np.linspace(0, 1, places)[:, None], np.cos(angle), -np.sin(angle)], axis=1)
    return jnp.asarray(found, dtype)[None]


# Published names of the operator's parameters, and ours; see weights.py.
NAMES = (
    *(
        (f'{name}_proj.{a}', f'{name}/{b}')
        for name in ('in', 'out')
        for a, b in (('weight', 'kernel'), ('bias', 'bias'))
    ),
    ('short_filter.weight', 'conv/kernel'),
    ('short_filter.bias', 'conv/bias'),
    ('filter_fn.bias', 'bias'),
    ('filter_fn.pos_emb.z', 'filter/positions'),
    ('filter_fn.pos_emb.t', ''),
    ('filter_fn.modulation.deltas', ''),
    ('filter_fn.implicit_filter.1.freq', 'filter/frequencies'),
    *(
        (f'filter_fn.implicit_filter.{2 * index}.{a}', f'filter/linear{index}/{b}')
        for index in range(8)
        for a, b in (('weight', 'kernel'), ('bias', 'bias'))
    ),
)
