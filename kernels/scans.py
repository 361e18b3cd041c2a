"""What the scans over sequences share: the walk over chunks of tokens, and the scan over devices.

The doubling along the devices is that of Hillis & Steele, Data Parallel Algorithms, 1986. No code was taken from
others.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def sweep(
    step: Callable, carry: Any, length: int, chunk: int, backwards: bool, given: tuple[Any, Any]
) -> tuple[Any, tuple[Any, Any]]:
    """Runs `step(carry, start, size, given)` over the chunks of a sequence.

    The full chunks are a loop. The rest, always at the end of the sequence, is a step of its own.

    Args:
      step: returns the next carry and an output; `start` is its first token, `size` their number.
      carry: what the first step gets.
      length: tokens of the sequence.
      chunk: tokens of a full chunk.
      backwards: whether the last chunk comes first.
      given: what the steps get: stacked over the full chunks, and that of the rest.

    Returns:
      The last carry, and the outputs: stacked over the full chunks, and that of the rest.
    """
    full, rest = (0, length) if length <= chunk else divmod(length, chunk)
    stacked = tail = None
    if rest and backwards:
        carry, tail = step(carry, full * chunk, rest, given[1])
    if full:
        body = lambda carry, x: step(carry, x[0] * chunk, chunk, x[1])
        carry, stacked = lax.scan(body, carry, (jnp.arange(full), given[0]), reverse=backwards)
    if rest and not backwards:
        carry, tail = step(carry, full * chunk, rest, given[1])
    return carry, (stacked, tail)


def over_devices(axis_name: Hashable, reverse: bool, decay: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The state after each device's piece of the sequence, and the state that enters it.

    In log2 of the number of devices rounds. A device without another before it receives zeros.

    Args:
      axis_name: the mesh axis along which the pieces lie in order.
      reverse: whether the last device reads first.
      decay: what a piece multiplies a state by; of the shape of the state, or broadcast to it.
      state: what a piece makes of a state of zeros.
    """
    size = lax.axis_size(axis_name)

    def received(x: jax.Array, steps: int) -> jax.Array:
        pairs = [(n, n + steps) for n in range(size - steps)]
        pairs = [pair[::-1] for pair in pairs] if reverse else pairs
        return lax.ppermute(x, axis_name, pairs)

    steps = 1
    while steps < size:
        state = state + decay * received(state, steps)
        decay = decay * received(decay, steps)
        steps *= 2
    return state, received(state, 1)


def wide(dtype: Any) -> Any:
    """The type of sums over values of `dtype`: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def power_of_two(size: int) -> int:
    """The least power of two that is no smaller than `size`."""
    return 1 << (size - 1).bit_length()
