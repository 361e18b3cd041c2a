"""PyTorch's initializers, by its formulas (https://pytorch.org/docs/stable/nn.init.html).

They take ``(key, shape, dtype)`` like those of jax.nn.initializers. Shapes are (in, out) and (h, w, in, out).
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

Initializer = Callable[..., Array]


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with bound ``gain * sqrt(6 / (fan_in + fan_out))``; kernel taps count in both fans."""
    return jax.nn.initializers.variance_scaling(gain**2, 'fan_avg', 'uniform')


def trunc_normal(std: float, low: float = -2.0, high: float = 2.0) -> Initializer:
    """Normal, truncated at the values `low` and `high`, which are not in units of the standard deviation.

    With the usual standard deviation of 0.02 nothing is cut. Bounds beyond six standard deviations are taken as six:
    there float32's error function is 1, and its inverse would now and then return the bound itself, a weight of 2.
    """
    low, high = max(low / std, -6.0), min(high / std, 6.0)

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return std * jax.random.truncated_normal(key, low, high, shape, dtype)

    return init


def uniform_fan_in(fan_in: int) -> Initializer:
    """Uniform with bound ``1 / sqrt(fan_in)``: torch's default for convolutions and linear layers, biases included."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
