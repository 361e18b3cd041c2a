"""What the scans of sequences share: the loop over chunks of tokens, and the scan over devices.

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
    """Runs `step(carry, start, size, given) -> (carry, output)` over the chunks of a sequence.

    The full chunks are a loop; the rest, which is always at the end of the sequence, is a step of its own.

    Args:
      step: the body; `start` is the first token of a chunk, `size` the number of its tokens.
      carry: the initial carry.
      length: tokens of the sequence.
      chunk: tokens of a full chunk.
      backwards: whether to start with the last chunk.
      given: inputs of the steps: stacked over the full chunks, and that of the rest.

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
    """Returns the state after each device's shard of the sequence, and the state that enters the shard.

    It takes log2(number of devices) rounds. A device that has no other one before it receives zeros.

    Args:
      axis_name: the mesh axis over which the sequence is split, in order.
      reverse: whether the scan goes from the last device to the first.
      decay: the factor of a shard on a state; it broadcasts to the state.
      state: the state after a shard that starts from zero.
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
    """Returns the type in which values of `dtype` are accumulated: float32 or wider."""
    return jnp.promote_types(dtype, jnp.float32)


def power_of_two(size: int) -> int:
    """Returns the least power of two that is no smaller than `size`."""
    return 1 << (size - 1).bit_length()
