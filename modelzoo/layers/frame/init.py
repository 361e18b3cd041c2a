"""PyTorch's initializers, by its formulas (https://pytorch.org/docs/stable/nn.init.html), and the rectifiers' own.

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


def rectifier(slope: float = 0.0, mode: str = 'fan_in') -> Initializer:
    """Normal with variance ``2 / ((1 + slope^2) fan)``, for the kernel before a rectifier with this negative slope.

    He et al., 2015, https://arxiv.org/abs/1502.01852: through any number of layers the second moment of the activations
    (fan_in) or of their gradients (fan_out) stays as it is. A slope of 1 is that of a linear layer, 0 that of ReLU.

    Args:
        slope: of the negative side.
        mode: 'fan_in' or 'fan_out'; kernel taps count in both.

    Raises:
        ValueError: another mode.
    """
    if mode not in ('fan_in', 'fan_out'):
        raise ValueError(f"mode is {mode!r}: use 'fan_in' or 'fan_out'.")
    return jax.nn.initializers.variance_scaling(2 / (1 + slope**2), mode, 'normal')


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
