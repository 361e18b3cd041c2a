"""Convolution along a sequence with a kernel as long as it may get, all at once or going on from what was read.

A layer that convolves keeps the inputs that its kernel reaches back to: the memory of decoding is the kernel's length,
whatever was read, and an element costs a product with the kernel.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.long_conv import long_conv


def convolve(x: Float[Array, 'b t d'], kernel: Float[Array, 'k d'], past: Float[Array, 'b n d'] | None
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


def refuse_to_step(mixer: str) -> None:
    """Says why a mixer that sees both sides cannot read element by element.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(f'{mixer} with bidirectional=True sees what comes after, so it cannot read element by '
                              'element: set bidirectional to False.')
