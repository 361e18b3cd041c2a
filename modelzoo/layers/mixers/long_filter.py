"""Convolution along a sequence with a kernel as long as it may get, all at once or going on from what was read.

A layer that convolves keeps the inputs that its kernel reaches back to: the memory of decoding is the kernel's length,
whatever was read, and an element costs a product with the kernel.
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
    """``out(gelu(convolution(x) + D x))``; a final class makes the taps and `_out`.

    Attributes:
        places: the longest distance that the kernel spans; further back no element sees.
        bidirectional: a second kernel looks ahead.
        dtype: compute type of what comes after the convolution, which is float32.
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
            NotImplementedError: it looks ahead.
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
        """Returns the taps of each channel, for each of one or two directions."""

    @abc.abstractmethod
    def _out(self, y: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        """Returns what is made of the convolution."""


def convolve(
    x: Float[Array, 'b t d'], kernel: Float[Array, 'k d'], past: Float[Array, 'b n d'] | None
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b n d'] | None]:
    """Returns the sequence convolved, in float32, and the last inputs.

    Args:
        x: the sequence, or the next elements of it.
        kernel: taps from lag 0 on.
        past: the last K - 1 inputs before, zeros at the start; None for a whole sequence.
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
    """Returns the inputs before the first element."""
    return jnp.zeros((batch, taps - 1, width))
