"""H3: a shift state space over the keys and a diagonal state space over keys times values, read by the queries.

Fu et al., 2022, "Hungry Hungry Hippos: Towards Language Modeling with State Space Models",
https://arxiv.org/abs/2212.14052. Reference: https://github.com/HazyResearch/zoology (Apache-2.0), commit d88d6f5,
zoology/mixers/h3; read for facts, no code was taken. The diagonal state space is S4D-Lin, discretized by the bilinear
rule. As published, channel d of head h is channel h * D + d of queries, keys and values, but d * H + h of the outputs.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers import diagonal_ssm
from longview.modelzoo.layers.mixers.long_filter import convolve, no_past
from longview.modelzoo.layers.mixers.mixer import Mixer

_ONE = jax.nn.initializers.normal(1.0)


class State(NamedTuple):
    """The last keys, and the states of the diagonal state space."""

    keys: Float[Array, 'b n d']
    states: Complex[Array, 'b e m']


class H3(Mixer):
    """``out(sum_d q_d * diagonal(shift(k)_d * v))`` for each head.

    Attributes:
        states: number of states per channel, in both state spaces.
        head: channels of a head.
        kernel_init, out_init: initial values of the first matrices and of the last one.
        dtype: compute type of the matrices; the state spaces are float32.
    """

    states: int = 64
    head: int = 2
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    out_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        states = jnp.zeros((batch, width * self.head, self.states // 2), jnp.complex64)
        return State(no_past(batch, self.states, width), states)

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State | None) -> tuple[Float[Array, 'b t d'], State | None]:
        width, heads = x.shape[-1], x.shape[-1] // self.head
        q, k, v = (Dense(width, True, self.kernel_init, self.dtype, name=name)(x).astype(jnp.float32) for name in 'qkv')
        shifted, keys = convolve(k, self._shift(width), None if state is None else state.keys)
        k = shifted + self.param('shift_D', _ONE, (width,))[None, None] * k
        q, k, v = (part.reshape(*x.shape[:2], heads, self.head) for part in (q, k, v))
        kv = jnp.einsum('bthd,bthe->btdeh', k, v)
        flat = kv.reshape(*x.shape[:2], -1)
        y, states = diagonal_ssm.read(flat, *self._diagonal(heads), None if state is None else state.states)
        y = y.reshape(kv.shape) + self.param('D', _ONE, (heads,))[None, None, None, None] * kv
        y = jnp.einsum('btdeh,bthd->bteh', y, q).reshape(x.shape)
        y = Dense(width, True, self.out_init, self.dtype, name='out')(y)
        return y, None if state is None else State(keys, states)

    def _shift(self, width: int) -> Float[Array, 'k d']:
        """Returns the taps of the shift state space: tap l is ``sum_n B_n C_{n + l}``."""
        first = lambda key, shape: jnp.zeros(shape).at[:, 0].set(1.0)
        B = self.param('shift_B', first, (width, self.states))
        C = self.param('shift_C', init.uniform_fan_in(self.states), (1, width, self.states))[0]
        padded = jnp.pad(C, ((0, 0), (0, self.states)))
        later = jnp.stack([padded[:, lag : lag + self.states] for lag in range(self.states)])
        return jnp.einsum('dn,kdn->kd', B, later)

    def _diagonal(self, heads: int) -> tuple[Complex[Array, 'h m'], Complex[Array, 'h m']]:
        """Returns the logarithm of the decays, and C, discretized by the bilinear rule."""
        half = self.states // 2
        log_real = self.param('log_A_real', jax.nn.initializers.constant(math.log(0.5)), (heads, half))
        line = lambda key, shape: jnp.broadcast_to(math.pi * jnp.arange(half)[None], shape)
        A = -jnp.exp(log_real) + 1j * self.param('A_imag', line, (heads, half))
        step = jnp.exp(self.param('log_dt', diagonal_ssm.log_steps, (heads,)))[:, None]
        one = lambda key, shape: jnp.zeros(shape).at[..., 0].set(1.0)
        B = self.param('B', one, (heads, half, 2))
        C = self.param('C', jax.nn.initializers.normal(0.5**0.5), (1, heads, half, 2))[0]
        product = (B[..., 0] + 1j * B[..., 1]) * (C[..., 0] + 1j * C[..., 1])
        before, after = 1 - A * step / 2, 1 + A * step / 2
        return jnp.log(after / before), product * step / before


# Published names of the mixer's parameters, and ours; see weights.py.
NAMES = (
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for there, here in (('q_proj', 'q'), ('k_proj', 'k'), ('v_proj', 'v'), ('output_linear', 'out'))
        for a, b in (('weight', 'kernel'), ('bias', 'bias'))
    ),
    ('ssm_k_kernel.kernel.B', 'shift_B'),
    ('ssm_k_kernel.kernel.C', 'shift_C'),
    ('ssm_k_D', 'shift_D'),
    ('D', 'D'),
    *(
        (f'kernel.kernel.{there}', here)
        for there, here in (
            ('C', 'C'),
            ('B', 'B'),
            ('log_dt', 'log_dt'),
            ('inv_A_real', 'log_A_real'),
            ('A_imag', 'A_imag'),
        )
    ),
)
