"""Generalized divisive normalization: each channel over the root of a weighted sum of the squares of all.

Ballé et al., 2015, "Density Modeling of Images using a Generalized Normalization Transformation",
https://arxiv.org/abs/1511.06281. Reference: CompressAI 1.2.8 (https://github.com/InterDigitalInc/CompressAI,
BSD-3-Clause-Clear), compressai/layers/gdn.py.

Offsets and weights are stored as roots: the value of a parameter p is ``max(p, bound)^2 - 2^-36``. The gradient passes
the bound where p is not below it, and where a step would raise p.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Added before the root is taken, so that its slope is finite at 0.
_PEDESTAL = 2.0**-36


class GDN(nn.Module):
    """``x_i / sqrt(bias_i + sum_j kernel_ji x_j^2)`` for each pixel; at the start bias is 1 and kernel 0.1 times one.

    Attributes:
        inverse: whether to multiply by the root in place of dividing.
        least: smallest value of an offset.
        dtype: of the result; computed in float32.
    """

    inverse: bool = False
    least: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Normalizes the channels of each pixel."""
        bias = self.param('bias', _ones, (x.shape[-1],))
        kernel = self.param('kernel', _tenth, (x.shape[-1],) * 2)
        return gdn(x, bias, kernel, inverse=self.inverse, least=self.least).astype(self.dtype)


def gdn(
    x: Float[Array, '*n c'],
    bias: Float[Array, ' c'],
    kernel: Float[Array, 'c c'],
    *,
    inverse: bool = False,
    least: float = 1e-6,
) -> Float[Array, '*n c']:
    """Returns the normalized channels, the last axis; arguments as stored, see `GDN`."""
    x = x.astype(jnp.float32)
    squares = (x * x).reshape(-1, x.shape[-1]) @ _value(kernel, 0.0) + _value(bias, least)[None]
    root = jnp.sqrt(squares) if inverse else jax.lax.rsqrt(squares)
    return x * root.reshape(x.shape)


def _value(stored: Float[Array, '*n'], least: float) -> Float[Array, '*n']:
    return jnp.square(_at_least(stored, (least + _PEDESTAL) ** 0.5)) - _PEDESTAL


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _at_least(x: Array, bound: float) -> Array:
    return jnp.maximum(x, bound)


def _forward(x: Array, bound: float) -> tuple[Array, Array]:
    return jnp.maximum(x, bound), x >= bound


def _backward(bound: float, inside: Array, g: Array) -> tuple[Array]:
    return (jnp.where(inside | (g < 0), g, 0),)


_at_least.defvjp(_forward, _backward)


def _ones(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    return jnp.full(shape, (1 + _PEDESTAL) ** 0.5, dtype)


def _tenth(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    return jnp.sqrt(0.1 * jnp.eye(*shape, dtype=dtype) + _PEDESTAL)


# CompressAI's names of the parameters and of what follows from them.
_BUFFERS = [f'{part}_reparam.{name}' for part in ('beta', 'gamma') for name in ('pedestal', 'lower_bound.bound')]
NAMES = (('gamma', 'kernel'), ('beta', 'bias'), ('beta_scale', 'bias'), *((name, '') for name in _BUFFERS))
