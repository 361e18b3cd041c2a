"""BaseConv: a convolution times a gate, the simplest gated convolution of Zoology.

Arora et al., 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models",
https://arxiv.org/abs/2312.04927. Reference: https://github.com/HazyResearch/zoology (Apache-2.0), commit d88d6f5,
zoology/mixers/base_conv.py and convolution.py; read for facts, no code was taken. As published, the mixer adds its
input to its output, in addition to the residual connection of the block, and so does the long convolution inside it;
the table of positions from which the long kernel is computed is a parameter without a gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.hyena import waves
from longview.modelzoo.layers.mixers.long_filter import convolve, no_past
from longview.modelzoo.layers.mixers.mamba import CausalConv
from longview.modelzoo.layers.mixers.mixer import Mixer

_FEATURES, _HIDDEN = 3, 16


class BaseConv(Mixer):
    """``conv(x) * gate(x) + x``.

    Attributes:
        taps: taps of the convolution; None for one as long as the sequence, whose kernel a small network computes.
        places: length of the longest sequence, for a long convolution.
        kernel_init: initial values of the matrices, also of those in the network.
        dtype: compute type; a long convolution is computed in float32.
    """

    taps: int | None = 3
    places: int = 64
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32

    @property
    def longest(self) -> int | None:
        """The length of the longest sequence; None if there is no limit."""
        return self.places if self.taps is None else None

    def init_state(self, batch: int, width: int) -> Any:
        """Returns the state before the first element: the last inputs."""
        if self.taps is None:
            return no_past(batch, self.places, width)
        return jnp.zeros((batch, self.taps - 1, width), self.dtype)

    def _sequence_state(self, x: Float[Array, 'b t d']) -> Any:
        if self.taps is not None:
            return self.init_state(*x.shape[::2])
        if x.shape[1] > self.places:
            raise ValueError(
                f'a sequence of {x.shape[1]} is longer than the {self.places} places that BaseConv has '
                'a kernel for: set places.'
            )
        return None

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: Any) -> tuple[Float[Array, 'b t d'], Any]:
        gate = Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='gate')(x)
        if self.taps is None:
            y, state = convolve(x, Filter(x.shape[-1], self.places, self.kernel_init, name='filter')(), state)
            y = (y + x.astype(jnp.float32)).astype(self.dtype)
        else:
            y, state = CausalConv(self.taps, self.dtype, name='conv')(x, state)
        return y * gate + x, state


class Filter(nn.Module):
    """A network that maps each position to the taps of all channels: two matrices with ReLU between them.

    Attributes:
        channels: number of kernels.
        places: number of taps.
        kernel_init: initial values of the matrices.
    """

    channels: int
    places: int
    kernel_init: init.Initializer

    @nn.compact
    def __call__(self) -> Float[Array, 'k d']:
        """Returns all taps, in float32."""
        z = jax.lax.stop_gradient(self.param('positions', waves, (1, self.places, _FEATURES))[0])
        z = nn.relu(Dense(_HIDDEN, True, self.kernel_init, name='linear0')(z))
        return Dense(self.channels, True, self.kernel_init, name='linear1')(z)


# Published names of the mixer's parameters, and ours; see weights.py.
NAMES = (
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for there, here in (
            ('projection', 'gate'),
            ('conv.conv', 'conv'),
            ('conv.mlp.0', 'filter/linear0'),
            ('conv.mlp.2', 'filter/linear1'),
        )
        for a, b in (('weight', 'kernel'), ('bias', 'bias'))
    ),
    ('conv.pos_emb.z', 'filter/positions'),
)
