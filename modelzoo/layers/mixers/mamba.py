"""Mamba's mixer, and the parts of it that other networks use: step sizes and decay rates.

Gu & Dao, 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", https://arxiv.org/abs/2312.00752.
Reference: https://github.com/state-spaces/mamba (Apache-2.0), commit e9594ce, mamba_ssm/modules/mamba_simple.py; no
code was taken. Step sizes, decay rates and states are float32 whatever the compute type.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.causal_conv1d import causal_conv1d
from longview.kernels.selective_scan import selective_scan
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense

_SHORTEST, _LONGEST, _LEAST = 1e-3, 1e-1, 1e-4


class State(NamedTuple):
    """The last inputs of the convolution, and the states of the scan."""

    inputs: Float[Array, 'b k d']
    states: Float[Array, 'b d n']


class Mamba(nn.Module):
    """``out(scan(silu(conv(x))) * silu(z))`` with ``[x | z] = in(input)``.

    Attributes:
        expand: inner channels over the width.
        states: number of states per channel.
        taps: taps of the causal depthwise convolution.
        rank: rank of the projection to the step sizes; by default a sixteenth of the width, rounded up.
        dtype: compute type.
        out_init: initial values of the last matrix; by default torch's, as those of the others.
    """

    expand: int = 2
    states: int = 16
    taps: int = 4
    rank: int | None = None
    dtype: DTypeLike = jnp.float32
    out_init: init.Initializer | None = None

    def __call__(self, x: Float[Array, 'b t d'], *, train: bool = False) -> Float[Array, 'b t d']:
        """Mixes a sequence causally."""
        del train
        return self._mix(x, self.init_state(x.shape[0], x.shape[-1]))[0]

    def extend(self, x: Float[Array, 'b t d'], state: State) -> tuple[Float[Array, 'b t d'], State]:
        """Returns the outputs of the next tokens, one or many, and the state after them."""
        return self._mix(x, state)

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first token."""
        inner = self.expand * width
        return State(jnp.zeros((batch, self.taps - 1, inner), self.dtype), jnp.zeros((batch, inner, self.states)))

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State) -> tuple[Float[Array, 'b t d'], State]:
        width, inner = x.shape[-1], self.expand * x.shape[-1]
        rank = math.ceil(width / 16) if self.rank is None else self.rank
        u, z = jnp.split(_linear(width, 2 * inner, self.dtype, 'in')(x), 2, axis=-1)
        u, inputs = CausalConv(self.taps, self.dtype, name='conv')(u, state.inputs)
        u = nn.silu(u)
        low, B, C = jnp.split(
            _linear(inner, rank + 2 * self.states, self.dtype, 'select')(u), (rank, rank + self.states), axis=-1
        )
        delta, bias = StepSizes(inner, name='step')(low)
        A, D = rates(self, inner, self.states)
        y, states = selective_scan(
            u, delta, A, B, C, D, z=z, delta_bias=bias, softplus=True, initial_state=state.states
        )
        return _linear(inner, width, self.dtype, 'out', self.out_init)(y), State(inputs, states)


def _linear(
    fan_in: int, features: int, dtype: DTypeLike, name: str, kernel_init: init.Initializer | None = None
) -> Dense:
    return Dense(features, False, kernel_init or init.uniform_fan_in(fan_in), dtype, name=name)


class CausalConv(nn.Module):
    """A causal depthwise convolution.

    Attributes:
        taps: length of the kernel.
        dtype: compute type.
        use_bias: whether there is a bias.
    """

    taps: int
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b t d'], before: Float[Array, 'b k d']
    ) -> tuple[Float[Array, 'b t d'], Float[Array, 'b k d']]:
        """Returns the convolved sequence and its last inputs; `before` are the last inputs before `x`."""
        initial = init.uniform_fan_in(self.taps)
        kernel = self.param('kernel', initial, (self.taps, 1, x.shape[-1])).astype(self.dtype)
        bias = self.param('bias', initial, (x.shape[-1],)).astype(self.dtype) if self.use_bias else None
        return causal_conv1d(x.astype(self.dtype), kernel[:, 0], bias=bias, initial_state=before.astype(self.dtype))


class StepSizes(nn.Module):
    """The projection to the step sizes, and its bias apart: the scan adds it and applies the softplus.

    Attributes:
        features: number of channels.
        kernel_init, bias_init: initial values; by default Mamba's: the kernel keeps the variance of its input, and the
            bias makes the step sizes log-uniform between 0.001 and 0.1.
    """

    features: int
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b t r']) -> tuple[Float[Array, 'b t d'], Float[Array, ' d']]:
        """Returns the projection and the bias in float32."""
        rank = x.shape[-1]
        kernel = self.param('kernel', self.kernel_init or init.uniform_fan_in(rank), (rank, self.features))
        bias = self.param('bias', self.bias_init or steps, (self.features,))
        return x.astype(jnp.float32) @ kernel, bias


def steps(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Biases whose softplus is log-uniform between 0.001 and 0.1."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(_SHORTEST), math.log(_LONGEST)))
    step = jnp.maximum(step, _LEAST)
    return step + jnp.log(-jnp.expm1(-step))


def rates(module: nn.Module, channels: int, states: int) -> tuple[Float[Array, 'd n'], Float[Array, ' d']]:
    """Returns the decay rates ``A = -exp(A_log)`` and the weights `D` of the skip, as parameters of `module`.

    Initial rates of each channel are -1, -2, ..., -states (S4D-Real, https://arxiv.org/abs/2206.11893).
    """
    initial = lambda key, shape: jnp.broadcast_to(jnp.log(jnp.arange(1.0, states + 1))[None], shape)
    A_log = module.param('A_log', initial, (channels, states))
    return -jnp.exp(A_log), module.param('D', jax.nn.initializers.ones, (channels,))


# Published names of the mixer's parameters, and ours; see weights.py.
NAMES = (
    ('A_log', 'A_log'),
    ('D', 'D'),
    ('in_proj.weight', 'in/kernel'),
    ('conv1d.weight', 'conv/kernel'),
    ('conv1d.bias', 'conv/bias'),
    ('x_proj.weight', 'select/kernel'),
    ('dt_proj.weight', 'step/kernel'),
    ('dt_proj.bias', 'step/bias'),
    ('out_proj.weight', 'out/kernel'),
)
