"""The linear scan of a sequence whose tokens are split over devices, inside of `jax.shard_map`.

Each device holds a shard of the tokens. The effect of a shard on the state that enters it is one decay and one state to
add. Devices compute both by scanning their shards from a zero state, compose them along the mesh axis in
log2(axis size) rounds, and scan their shards again from the states that really enter. Only states are exchanged, so
communication does not grow with the length of the sequence; each token is read twice. Gradients are those of the parts.
"""

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp

from longview.kernels import scans
from longview.kernels.linear_scan import api
from longview.kernels.linear_scan.arrays import Constant, State, Tokens


def sequence_parallel_linear_scan(
    a: Tokens | Constant,
    x: Tokens,
    *,
    axis_name: Hashable,
    initial_state: State | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> tuple[Tokens, State]:
    """`linear_scan` of the whole sequence, called on each device with its shard of the tokens.

    Args:
      a, x: as in `linear_scan`, for the shard; a constant decay is the same on all devices.
      axis_name: the mesh axis over which the tokens are split, in order.
      initial_state: the state before the first token of the whole sequence, the same on all devices.
      reverse, implementation: as in `linear_scan`.

    Returns:
      The states after each token of the shard, and the last state of the whole sequence, the same on all devices.

    Raises:
      ValueError, NotImplementedError: as in `linear_scan`.
    """
    scan = partial(api.linear_scan, a, x, reverse=reverse, implementation=implementation)
    start = scans.at_first(axis_name, reverse, initial_state)
    _, state = scan(initial_state=start)
    _, entering = scans.over_devices(axis_name, reverse, _decay(a, x).astype(state.dtype), state)
    if start is not None:
        entering += start
    h, state = scan(initial_state=entering)
    return h, scans.from_last(axis_name, reverse, state)


def _decay(a: jax.Array, x: jax.Array) -> jax.Array:
    """The factor on a state after all tokens of the shard."""
    a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    if a.ndim == 1:
        return jnp.broadcast_to(a[None] ** x.shape[1], (x.shape[0], x.shape[2]))
    return jnp.prod(a, axis=1)
