"""Gated linear attention of a sequence that is split over devices; to be called inside `jax.shard_map`.

Each device scans its shard of the tokens from a zero state. The effect of a shard on a state is a pair: the product of
its decays, and a state to add. Such pairs compose, so the states that enter the shards are an exclusive scan over the
devices, in about log2 n rounds in which a pair is sent to the device 1, 2, 4, .. further. Then each device adds what
its queries read from the state that enters: one matrix product. Only states are exchanged, whatever the length.

The split of a linear scan over processors is that of Blelloch, Prefix Sums and Their Applications,
1990, https://www.cs.cmu.edu/~guyb/papers/Ble93.pdf; the op is that of `kernels.gla`. No code was
taken from others.
"""

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import scans
from longview.kernels.gla import api


def sequence_parallel_gla(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b t h k'],
    v: Float[Array, 'b t h v'],
    g: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    *,
    axis_name: Hashable,
    scale: float | None = None,
    initial_state: Float[Array, 'b h k v'] | None = None,
    reverse: bool = False,
    implementation: str | None = None,
    chunk: int | None = None,
) -> tuple[Float[Array, 'b t h v'], Float[Array, 'b h k v']]:
    """`gla` of the whole sequence, whose tokens are split evenly over the mesh axis `axis_name` in its order.

    Arrays are the shard of a device; `initial_state` and the last state are those of the whole sequence, the same on
    all devices. Other arguments and errors are as in `gla`.
    """
    start = scans.at_first(axis_name, reverse, initial_state)
    how = {'scale': scale, 'implementation': implementation, 'chunk': chunk}
    o, state = api.gla(q, k, v, g, initial_state=start, reverse=reverse, **how)
    inclusive, entering = scans.over_devices(axis_name, reverse, _decay(g, state), state)
    return o + _read(q, g, entering, v, scale, reverse), scans.from_last(axis_name, reverse, inclusive)


def sequence_parallel_bidirectional_gla(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b t h k'],
    v: Float[Array, 'b t h v'],
    g_forward: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    g_backward: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    *,
    axis_name: Hashable,
    scale: float | None = None,
    implementation: str | None = None,
    chunk: int | None = None,
) -> Float[Array, 'b t h v']:
    """`bidirectional_gla` of the whole sequence; see `sequence_parallel_gla`."""
    how = {'scale': scale, 'implementation': implementation, 'chunk': chunk}
    o = api.bidirectional_gla(q, k, v, g_forward, g_backward, **how)
    for g, reverse in ((g_forward, False), (g_backward, True)):
        state = _state(k, v, g, reverse)
        _, entering = scans.over_devices(axis_name, reverse, _decay(g, state), state)
        o += _read(q, g, entering, v, scale, reverse)
    return o


def _decay(g: jax.Array, state: jax.Array) -> jax.Array:
    """Returns the factor on a state (B, H, K, V) after all tokens of a shard, (B, H, K, 1) or (B, H, 1, 1)."""
    decay = jnp.exp(jnp.sum(g.astype(state.dtype), axis=1))
    return decay.reshape(*decay.shape, *[1] * (state.ndim - decay.ndim))


@partial(jax.checkpoint, static_argnums=(4, 5))
def _read(q: jax.Array, g: jax.Array, state: jax.Array, v: jax.Array, scale: float | None, reverse: bool) -> jax.Array:
    """Returns what the queries of a shard read from the state that enters it."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    faded = _faded(q, lax.cumsum(g.astype(state.dtype), axis=1, reverse=reverse))
    return jnp.einsum('bthk,bhkv->bthv', faded * scale, state, precision='highest').astype(v.dtype)


@partial(jax.checkpoint, static_argnums=3)
def _state(k: jax.Array, v: jax.Array, g: jax.Array, reverse: bool) -> jax.Array:
    """Returns the state that a shard adds; each key is multiplied by the decays read after it."""
    wide = jnp.promote_types(jnp.result_type(k, v, g), jnp.float32)
    none = jnp.zeros_like(g[:, :1], wide)
    rest = g.astype(wide)[:, :-1] if reverse else g.astype(wide)[:, 1:]
    after = jnp.concatenate([none, rest] if reverse else [rest, none], axis=1)
    faded = _faded(k, lax.cumsum(after, axis=1, reverse=not reverse))
    return jnp.einsum('bthk,bthv->bhkv', faded, v.astype(wide), precision='highest')


def _faded(x: jax.Array, log_decay: jax.Array) -> jax.Array:
    decay = jnp.exp(log_decay)
    return x * (decay if decay.ndim == x.ndim else decay[..., None])
