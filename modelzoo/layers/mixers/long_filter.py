"""Causal convolution of a sequence with a long kernel, in parallel or continuing from the inputs read before.

For decoding, a layer keeps the last inputs that its kernel reaches, so the memory is the length of the kernel, and each
element costs one product with the kernel.
"""

import abc

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.long_conv import long_conv
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.mixers.mixer import Mixer

State = Float[Array, 'b n d']


class LongFilter(Mixer):
    """``out(gelu(convolution(x) + D x))``; a final class implements `_kernel`, the taps, and `_out`.

    Attributes:
        places: number of taps, the longest distance that an element sees.
        bidirectional: whether a second kernel looks ahead.
        dtype: compute type of what follows the convolution, which itself is float32.
    """

    places: int = 1024
    bidirectional: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def _span(self) -> int:
        """Returns the number of taps."""
        return self.places

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element.

        Raises:
            NotImplementedError: the layer is bidirectional.
        """
        if self.bidirectional:
            raise NotImplementedError(
                f'{type(self).__name__} with bidirectional=True sees what comes after, so it '
                'cannot read element by element: set bidirectional to False.'
            )
        return no_past(batch, self._span, width)

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State | None) -> tuple[Float[Array, 'b t d'], State | None]:
        width, u = x.shape[-1], x.astype(jnp.float32)
        kernel = self._kernel(width)
        if self.bidirectional:
            y = long_conv(u, kernel[..., 0], backward_kernel=kernel[..., 1])
        else:
            y, state = convolve(u, kernel[..., 0], state)
        D = self.param('D', jax.nn.initializers.normal(1.0), (1, width))
        return self._out(gelu(y + D[None] * u)), state

    @abc.abstractmethod
    def _kernel(self, width: int) -> Float[Array, 'k d s']:
        """Returns the taps (K, D, S) of each channel in S = 1 or 2 directions."""

    @abc.abstractmethod
    def _out(self, y: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        """Returns the output of the layer, given the activated output of the convolution."""


def convolve(
    x: Float[Array, 'b t d'], kernel: Float[Array, 'k d'], past: Float[Array, 'b n d'] | None
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b n d'] | None]:
    """Returns the convolved sequence in float32, and the last K - 1 inputs.

    Args:
        x: the sequence, or its next elements.
        kernel: taps from lag 0 on.
        past: the last K - 1 inputs before `x`, which are zeros at the start; None for a whole sequence.
    """
    x = x.astype(jnp.float32)
    if past is None:
        return long_conv(x, kernel), None
    length, seen = x.shape[1], jnp.concatenate([past, x], axis=1)
    if length == 1:
        y = jnp.sum(seen * kernel[None, ::-1], axis=1, keepdims=True)
    else:
        y = long_conv(seen, kernel)[:, -length:]
    return y, seen[:, length:]


def no_past(batch: int, taps: int, width: int) -> Float[Array, 'b n d']:
    """Returns the `past` before the first element: zeros."""
    return jnp.zeros((batch, taps - 1, width))
