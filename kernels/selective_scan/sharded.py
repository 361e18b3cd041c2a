"""The selective scan of a sequence whose tokens are split over devices, inside of `jax.shard_map`.

Each device holds a shard of the tokens. The effect of a shard on the state that enters it is one decay,
exp(A sum_t delta_t), and one state to add. Devices compute the latter by scanning their shards from a zero state,
compose both along the mesh axis in log2(axis size) rounds, and scan their shards again from the states that really
enter. Only states are exchanged, so communication does not grow with the length of the sequence; each token is read
twice. Gradients are those of the parts.
"""

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import scans
from longview.kernels.selective_scan import api


def sequence_parallel_selective_scan(
    u: Float[Array, 'b t d'],
    delta: Float[Array, 'b t d'],
    A: Float[Array, 'd n'],
    B: Float[Array, 'b t n'] | Float[Array, 'b t g n'],
    C: Float[Array, 'b t n'] | Float[Array, 'b t g n'],
    D: Float[Array, ' d'] | None = None,
    *,
    axis_name: Hashable,
    z: Float[Array, 'b t d'] | None = None,
    delta_bias: Float[Array, ' d'] | None = None,
    softplus: bool = False,
    initial_state: Float[Array, 'b d n'] | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b d n']]:
    """`selective_scan` of the whole sequence, called on each device with its shard of the tokens.

    Args:
      u, delta, B, C, z: as in `selective_scan`, for the shard.
      A, D, delta_bias: as in `selective_scan`, the same on all devices.
      axis_name: the mesh axis over which the tokens are split, in order.
      initial_state: the state before the first token of the whole sequence, the same on all devices.
      softplus, reverse, implementation: as in `selective_scan`.

    Returns:
      The outputs of the shard, and the last state of the whole sequence, the same on all devices.

    Raises:
      ValueError, NotImplementedError: as in `selective_scan`.
    """
    how = {'delta_bias': delta_bias, 'softplus': softplus, 'reverse': reverse}
    scan = partial(api.selective_scan, u, delta, A, B, C, **how, implementation=implementation)
    start = scans.at_first(axis_name, reverse, initial_state)
    _, state = scan(initial_state=start)
    decay = _decay(delta, A, delta_bias, softplus).astype(state.dtype)
    _, entering = scans.over_devices(axis_name, reverse, decay, state)
    if start is not None:
        entering += start
    y, state = scan(D, z=z, initial_state=entering)
    return y, scans.from_last(axis_name, reverse, state)


def _decay(delta: jax.Array, A: jax.Array, delta_bias: jax.Array | None, softplus: bool) -> jax.Array:
    """The factor on a state (B, D, N) after all tokens of the shard."""
    delta, A = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (delta, A))
    if delta_bias is not None:
        delta += delta_bias.astype(delta.dtype)[None, None]
    delta = jax.nn.softplus(delta) if softplus else delta
    return jnp.exp(jnp.sum(delta, axis=1)[..., None] * A[None])
