"""Feed-forward layers.

Mlp: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762. SwiGLU: Shazeer, 2020, https://arxiv.org/abs/2002.05202.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """``x * Phi(x)`` by the error function, torch's default; Hendrycks and Gimpel, 2016.

    Computed as torch does, in float32. `jax.nn.gelu` uses the complementary error function, both of whose branches are
    computed on a CPU: with its gradient it took 1.7 times as long there (25088x384, one core). The slope is written
    out, so that at most one array is kept for the gradient; of the factors above JAX would keep three.
    """
    wide = _wide(x)
    return (0.5 * wide * (1 + lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@gelu.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    # Else a TPU keeps the float32 copy of a bfloat16 `x`, 0.4 of 2.8 GiB of a step of ViT-S, and not `x` itself.
    wide = _wide(lax.optimization_barrier(x))
    below = 0.5 * (1 + lax.erf(wide * math.sqrt(0.5)))
    slope = below + wide * (jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5)
    return gelu(x), (slope * dx.astype(slope.dtype)).astype(dx.dtype)


def _wide(x: Array) -> Array:
    """Returns `x` with at least 32 bits: in bfloat16, 1 + erf would cancel for negative numbers."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def quick_gelu(x: Array) -> Array:
    """``x * sigmoid(1.702 x)``, the sigmoid approximation of Hendrycks and Gimpel."""
    return x * jax.nn.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """``down(activation(up(x)))``, with biases.

    Attributes:
        ratio: hidden width over width.
        activation: between the two matrices.
        kernel_init: initial values of both matrices.
        dtype: compute type.
        out_init: initial values of the second matrix, if they differ.
        hidden: hidden width, if it is another than ``int(ratio * width)``.
        hidden_norm: factory of a norm after the activation; None for none.
    """

    ratio: float = 4.0
    activation: Callable[[Array], Array] = gelu
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32
    out_init: init.Initializer | None = None
    hidden: int | None = None
    hidden_norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
        """Acts on the last axis."""
        hidden = self.hidden or int(x.shape[-1] * self.ratio)
        up = Dense(hidden, True, self.kernel_init, self.dtype, name='up')
        down = Dense(x.shape[-1], True, self.out_init or self.kernel_init, self.dtype, name='down')
        y = self.activation(up(x))
        return down(y if self.hidden_norm is None else self.hidden_norm(dtype=self.dtype, name='hidden_norm')(y))


class SwiGLU(nn.Module):
    """``down(silu(gate) * value)`` with ``[gate | value] = up(x)`` or ``[value | gate]``, no biases.

    Attributes:
        ratio: hidden width over width of the plain `Mlp` with as many parameters; the hidden width here is 2/3 of it.
        multiple_of: the hidden width is rounded up to a multiple of this.
        kernel_init: initial values of both matrices.
        dtype: compute type.
        gate_first: whether the gate is the first half, or the second.
    """

    ratio: float = 4
    multiple_of: int = 256
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32
    gate_first: bool = True

    def hidden(self, width: int) -> int:
        """Returns the hidden width."""
        return -(-int(width * self.ratio * 2 / 3) // self.multiple_of) * self.multiple_of

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
        """Acts on the last axis."""
        width, hidden = x.shape[-1], self.hidden(x.shape[-1])
        up = Dense(2 * hidden, False, self.kernel_init, self.dtype, name='up')
        down = Dense(width, False, self.kernel_init, self.dtype, name='down')
        gate, value = jnp.split(up(x), 2, axis=-1)[:: 1 if self.gate_first else -1]
        return down(nn.silu(gate) * value)


class GatedMlp(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases; `SwiGLU` is the same with gate and up in one matrix.

    Attributes:
        ratio: hidden width over width.
        multiple_of: the hidden width is rounded up to a multiple of this.
        kernel_init, out_init: initial values of the first two matrices and of the last one.
        dtype: compute type.
    """

    ratio: float = 8 / 3
    multiple_of: int = 1
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    out_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
        """Acts on the last axis."""
        hidden = -(-int(x.shape[-1] * self.ratio) // self.multiple_of) * self.multiple_of
        gate, up = (Dense(hidden, False, self.kernel_init, self.dtype, name=name) for name in ('gate', 'up'))
        return Dense(x.shape[-1], False, self.out_init, self.dtype, name='down')(nn.silu(gate(x)) * up(x))
