"""S4: time-invariant state spaces with a matrix that is diagonal plus rank 1, computed as a convolution.

Gu, Goel and Ré, 2021, "Efficiently Modeling Long Sequences with Structured State Spaces",
https://arxiv.org/abs/2111.00396. Reference: https://github.com/state-spaces/s4 (Apache-2.0), models/s4/s4.py, S4Block
with the mode "dplr"; read for facts, no code was taken. See layers/mixers/dplr_ssm.py for the equations.

Where we differ:
  * C is C. The reference trains ``C (1 - dA^L)``, with L the longest sequence, and can read no longer ones; ours reads
    any length, and a checkpoint of the reference has to be divided by that factor;
  * there is no dropout.
Poles, P and B have their own learning rate, and these and step sizes no weight decay; both are left to the config.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.mixers import diagonal_ssm, dplr_ssm
from longview.modelzoo.layers.mixers.mixer import Mixer
from longview.modelzoo.sequence.trunk import Trunk, s4_example_names


class S4(Mixer):
    """``glu(out(gelu(ssm(x))))``, or with a gate ``glu(out(gate_out(gelu(ssm(x))) * gate_in(x)))``.

    Attributes:
        states: number of states per channel, even; only half of them are stored, as complex numbers.
        kernels: outputs that each channel has, one convolution each.
        bidirectional: whether a second kernel looks ahead.
        spaces: number of different poles, P and B, which the channels use in turn; None for one of each a channel.
        gate: width of a multiplicative gate over the number of channels; None for none.
        dtype: compute type of the matrices; the state space is float32.
    """

    states: int = 64
    kernels: int = 1
    bidirectional: bool = False
    spaces: int | None = None
    gate: int | None = None
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> dplr_ssm.State:
        """Returns the state before the first element.

        Raises:
            NotImplementedError: the layer is bidirectional.
        """
        if self.bidirectional:
            raise NotImplementedError(
                'S4 with bidirectional=True sees what comes after, so it cannot read element by element: set '
                'bidirectional to False.'
            )
        return jnp.zeros((batch, width, self.states), jnp.float32)

    @nn.compact
    def _mix(
        self, x: Float[Array, 'b t d'], state: dplr_ssm.State | None
    ) -> tuple[Float[Array, 'b t d'], dplr_ssm.State | None]:
        width, u = x.shape[-1], x.astype(jnp.float32)
        dense = functools.partial(Dense, use_bias=True, dtype=self.dtype)
        y, state = self._convolved(u, state)
        D = self.param('D', jax.nn.initializers.normal(1.0), (self.kernels, width))
        y = gelu(y + D[None, None] * u[:, :, None]).reshape(*x.shape[:2], -1)
        if self.gate is not None:
            gated = functools.partial(dense, self.gate * width)
            y = gated(kernel_init=init.uniform_fan_in(y.shape[-1]), name='gate_out')(y)
            y = y * gated(kernel_init=init.uniform_fan_in(width), name='gate_in')(x)
        y = dense(2 * width, kernel_init=init.uniform_fan_in(y.shape[-1]), name='out')(y)
        value, gate = jnp.split(y, 2, axis=-1)
        return value * jax.nn.sigmoid(gate), state

    def _convolved(
        self, u: Float[Array, 'b t d'], state: dplr_ssm.State | None
    ) -> tuple[Float[Array, 'b t s d'], dplr_ssm.State | None]:
        space = self._space(u.shape[-1])
        if not self.bidirectional:
            return dplr_ssm.read(u, space, state)
        kernels = dplr_ssm.taps(space, u.shape[1])
        pairs = zip(kernels[: self.kernels], kernels[self.kernels :])
        y = [dplr_ssm.long_conv(u, ahead, backward_kernel=behind) for ahead, behind in pairs]
        return jnp.stack(y, axis=2), state

    def _space(self, width: int) -> dplr_ssm.Space:
        """Returns the state space of each channel.

        Raises:
            ValueError: an odd number of states, or spaces that do not divide the channels.
        """
        spaces = width if self.spaces is None else self.spaces
        if self.states % 2 or width % spaces:
            raise ValueError(
                f'S4 has states={self.states}, spaces={self.spaces} and {width} channels: use an even number of '
                'states, and spaces that divide the channels.'
            )
        half = self.states // 2
        log_dt = self.param('log_dt', diagonal_ssm.log_steps, (width, 1))
        log_real = self.param('log_A_real', jax.nn.initializers.constant(math.log(0.5)), (spaces, half))
        poles, P, B = dplr_ssm.hippo(self.states)
        imaginary = self.param('A_imag', _repeated(-poles.imag), (spaces, half))
        low_rank = self.param('P', _repeated(_parts(P)), (1, spaces, half, 2))
        enter = self.param('B', _repeated(_parts(B)), (1, spaces, half, 2))
        outputs = self.kernels * (1 + self.bidirectional)
        leave = self.param('C', jax.nn.initializers.normal(0.5**0.5), (outputs, width, half, 2))
        poles = -jnp.exp(log_real) - 1j * imaginary
        shared = [jnp.tile(part, (width // spaces, 1)) for part in (poles, _complex(low_rank)[0], _complex(enter)[0])]
        return dplr_ssm.discrete(*shared, _complex(leave), jnp.exp(log_dt)[:, 0])


def _parts(x: np.ndarray) -> np.ndarray:
    return np.stack([x.real, x.imag], axis=-1)


def _complex(x: Float[Array, '*n 2']) -> Complex[Array, '*n']:
    return x[..., 0] + 1j * x[..., 1]


def _repeated(x: np.ndarray) -> init.Initializer:
    """Returns the initial values `x`, the same for each state space."""
    return lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(jnp.asarray(x, dtype), shape)


class S4Network(Trunk):
    """`Trunk` with S4; the other published names are those of the reference's example."""


_CLASSIFIER = functools.partial(S4Network, last_norm=None, pre_norm=False)
# The network for gray CIFAR-10 as 1,024 pixels, by configs/experiment/lra/s4-lra-cifar.yaml of the reference; and the
# width and depth of its example.
VARIANTS = {
    's4_example': _CLASSIFIER(128, 4, S4),
    's4_lra_image': _CLASSIFIER(512, 6, functools.partial(S4, bidirectional=True, spaces=2)),
    's4_test': _CLASSIFIER(8, 1, functools.partial(S4, states=4)),
}
PUBLISHED: dict[str, ft.Published] = {}

# Published names of the parameters of a mixer and of a classifier, and ours; see weights.py.
_KERNEL = (('C', 'C'), ('B', 'B'), ('P', 'P'), ('inv_dt', 'log_dt'), ('A_real', 'log_A_real'), ('A_imag', 'A_imag'))
MIXER_NAMES = (
    ('layer.D', 'D'),
    *((f'layer.kernel.{there}', here) for there, here in _KERNEL),
    ('layer.kernel.l_kernel', ''),
    ('output_linear.0.weight', 'out/kernel', 1),
    ('output_linear.0.bias', 'out/bias'),
    *(
        (f'{there}.{a}', f'{here}/{b}', *axes)
        for there, here in (('input_gate', 'gate_in'), ('output_gate', 'gate_out'))
        for a, b, *axes in (('weight', 'kernel', 1), ('bias', 'bias'))
    ),
)
NAMES = {'S4Network': s4_example_names('s4_layers', MIXER_NAMES)}
