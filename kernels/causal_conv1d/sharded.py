"""The causal convolution of a sequence whose tokens are split over devices, inside of `jax.shard_map`.

Each device holds a shard of the tokens and receives the last K - 1 tokens before it: from its neighbour, or where
shards are shorter than that, from the devices before it too. Nothing else is exchanged, whatever the length of the
sequence. Gradients are those of the parts.
"""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.causal_conv1d import api


def sequence_parallel_causal_conv1d(
    x: Float[Array, 'b t d'],
    kernel: Float[Array, 'k d'],
    *,
    axis_name: Hashable,
    bias: Float[Array, ' d'] | None = None,
    initial_state: Float[Array, 'b s d'] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b s d']]:
    """`causal_conv1d` of the whole sequence, called on each device with its shard of the tokens.

    Args:
      x: the shard of the sequence, of any length.
      kernel, bias, implementation: as in `causal_conv1d`, the same on all devices.
      axis_name: the mesh axis over which the tokens are split, in order.
      initial_state: the K - 1 tokens before the first one of the whole sequence, the same on all devices; zeros by
        default.

    Returns:
      The outputs of the shard, and the last K - 1 tokens of the whole sequence, the same on all devices.

    Raises:
      ValueError: as in `causal_conv1d`.
    """
    before = _before(x, initial_state, len(kernel) - 1, axis_name)
    y, last = api.causal_conv1d(x, kernel, bias=bias, initial_state=before, implementation=implementation)
    at_the_end = lax.axis_index(axis_name) == lax.axis_size(axis_name) - 1
    return y, lax.psum(jnp.where(at_the_end, last, jnp.zeros_like(last)), axis_name)


def _before(x: jax.Array, initial: jax.Array | None, count: int, axis_name: Hashable) -> jax.Array:
    """Returns the `count` tokens before the shard: those of the devices before it, then those of the first state."""
    tokens, received = x.shape[1], [x[:, :0]]
    for distance in range(-(-count // tokens), 0, -1):
        wanted = min(tokens, count - (distance - 1) * tokens)
        received.append(_from_before(x[:, tokens - wanted :], distance, axis_name))
    found = jnp.concatenate(received, axis=1)
    if initial is None:
        return found
    # A device further on sees less of the first state, and zeros behind it, which are the places of what it received.
    start = jnp.minimum(lax.axis_index(axis_name) * tokens, count)
    state = jnp.pad(initial, ((0, 0), (0, count), (0, 0)))
    return found + lax.dynamic_slice_in_dim(state, start, count, axis=1)


def _from_before(x: jax.Array, distance: int, axis_name: Hashable) -> jax.Array:
    """Returns the array of the device `distance` places before this one; zeros where there is none."""
    size = lax.axis_size(axis_name)
    return lax.ppermute(x, axis_name, [(n, n + distance) for n in range(size - distance)])
