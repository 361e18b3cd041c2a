"""S4D: time-invariant state spaces with a diagonal matrix, computed as a convolution.

Gu et al., 2022, "On the Parameterization and Initialization of Diagonal State Space Models",
https://arxiv.org/abs/2206.11893. Reference: https://github.com/state-spaces/s4 (Apache-2.0), commit e757cef,
models/s4/s4d.py and the network of example.py; read for facts, no code was taken.

    h_t = exp(dt A) h_{t-1} + u_t    y_t = 2 Re(C (exp(dt A) - 1) / A h_t) + D u_t

which is S4D-Lin (A = -1/2 + i pi n, zero-order hold, B = 1). Where we differ: there is no dropout. The kernel is
computed from two short tables of powers (layers/mixers/diagonal_ssm.py). In the published recipes dt and A have their
own learning rate (0.001) and no weight decay, which is left to the config.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.mixers import diagonal_ssm
from longview.modelzoo.layers.mixers.mixer import Mixer
from longview.modelzoo.sequence.trunk import Trunk, s4_example_names

State = Complex[Array, 'b d n']


class S4D(Mixer):
    """``glu(out(gelu(ssm(x))))``.

    Attributes:
        states: number of states per channel; only half of them are stored, since the others are their conjugates.
        dtype: compute type of the last matrix; the state space is float32.
    """

    states: int = 64
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        return jnp.zeros((batch, width, self.states // 2), jnp.complex64)

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State | None) -> tuple[Float[Array, 'b t d'], State | None]:
        width, u = x.shape[-1], x.astype(jnp.float32)
        y, state = diagonal_ssm.read(u, *self._space(width), state)
        D = self.param('D', jax.nn.initializers.normal(1.0), (width,))
        y = gelu(y + D[None, None] * u)
        y = Dense(2 * width, True, init.uniform_fan_in(width), self.dtype, name='out')(y)
        value, gate = jnp.split(y, 2, axis=-1)
        return value * jax.nn.sigmoid(gate), state

    def _space(self, width: int) -> tuple[Complex[Array, 'd n'], Complex[Array, 'd n']]:
        """Returns ``dt A`` and ``C (exp(dt A) - 1) / A``."""
        half = self.states // 2
        shape = (width, half)
        log_dt = self.param('log_dt', diagonal_ssm.log_steps, (width,))
        log_real = self.param('log_A_real', jax.nn.initializers.constant(math.log(0.5)), shape)
        imaginary = self.param(
            'A_imag', lambda key, shape: jnp.broadcast_to(math.pi * jnp.arange(half)[None], shape), shape
        )
        C = self.param('C', jax.nn.initializers.normal(0.5**0.5), (*shape, 2))
        A = -jnp.exp(log_real) + 1j * imaginary
        exponent = A * jnp.exp(log_dt)[:, None]
        return exponent, (C[..., 0] + 1j * C[..., 1]) * (jnp.exp(exponent) - 1) / A


class S4DNetwork(Trunk):
    """`Trunk` with S4D; the published names are those of the reference's example."""


# The network of the example (128 channels, 4 blocks), for images as sequences of pixels.
_CLASSIFIER = functools.partial(S4DNetwork, last_norm=None, pre_norm=False)
VARIANTS = {
    's4d_example': _CLASSIFIER(128, 4, S4D),
    's4d_test': _CLASSIFIER(8, 1, functools.partial(S4D, states=4)),
}
PUBLISHED: dict[str, ft.Published] = {}


# Published names of the parameters of a mixer and of a classifier, and ours; see weights.py.
MIXER_NAMES = (
    ('D', 'D'),
    *((f'kernel.{name}', name) for name in ('C', 'log_dt', 'log_A_real', 'A_imag')),
    ('output_linear.0.weight', 'out/kernel', 1),
    ('output_linear.0.bias', 'out/bias'),
)
NAMES = {'S4DNetwork': s4_example_names('s4_layers', MIXER_NAMES)}
