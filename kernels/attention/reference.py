"""Attention as a loop over queries that reads like its definition; float32, or float64 with x64."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from longview.kernels.attention.arrays import Bias, Keys, Mask, Outputs, Queries, Values


def attend(
    q: Queries, k: Keys, v: Values, bias: Bias | None, mask: Mask | None, *, scale: float, reach: tuple[int, int] | None
) -> Outputs:
    """Returns ``sum_s w_ts v_s / sum_s w_ts`` for each query t, one after the other; `reach` is how far it sees."""
    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    wide = jnp.promote_types(jnp.result_type(q, k, v), jnp.float32)
    k, v = (jnp.repeat(x.astype(wide), heads // x.shape[2], axis=2) for x in (k, v))
    every = (q.shape[0], heads, queries, keys)
    bias = jnp.zeros(every, wide) if bias is None else jnp.broadcast_to(bias, every)
    mask = jnp.ones(every, bool) if mask is None else jnp.broadcast_to(mask, every)

    def one(t: jax.Array) -> Float[Array, 'b h v']:
        logits = jnp.einsum('bhk,bshk->bhs', scale * q[:, t].astype(wide), k) + bias[:, :, t]
        seen = mask[:, :, t]
        if reach is not None:
            seen &= _within(t, keys, *reach)[None, None]
        logits = jnp.where(seen, logits, -1e30)
        w = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        return jnp.einsum('bhs,bshv->bhv', w, v) / jnp.sum(w, axis=-1)[..., None]

    return jax.lax.map(one, jnp.arange(queries)).swapaxes(0, 1).astype(q.dtype)


def _within(t: jax.Array, keys: int, before: int, after: int) -> Bool[Array, ' s']:
    s = jnp.arange(keys)
    return (s >= t - before) & (s <= t + after)
