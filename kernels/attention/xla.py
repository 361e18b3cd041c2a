"""Attention by two matrix products and a softmax, which XLA fuses; the default on all platforms.

Heads stand before tokens in the products: of the layouts that were tried this was the fastest on a CPU, and the
transposes disappear where the caller has them so. Its memory grows with queries times keys.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from longview.kernels.attention.arrays import Bias, Keys, Mask, Outputs, Queries, Values

# In the place of a logit: beside one that is seen its weight is 0, and where nothing is seen there is no NaN, as
# -inf would give, but the mean of all values.
_HIDDEN = -1e30


def attend(
    q: Queries, k: Keys, v: Values, bias: Bias | None, mask: Mask | None, *, scale: float, reach: tuple[int, int] | None
) -> Outputs:
    """Returns ``softmax(scale * q k^T + bias) v``, the softmax in float32 (float64 for float64)."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    wide = jnp.result_type(q, k, v)
    w = weights(q, k, bias, mask, scale=scale, reach=reach).astype(wide)
    return _per_group(w, v.astype(wide)).astype(q.dtype).swapaxes(1, 2)


def weights(
    q: Float[Array, 'b h t k'],
    k: Float[Array, 'b g s k'],
    bias: Bias | None,
    mask: Mask | None,
    *,
    scale: float,
    reach: tuple[int, int] | None,
) -> Float[Array, 'b h t s']:
    """Returns ``softmax(scale * q k^T + bias)`` over the keys that each query sees."""
    logits = _per_group(q * scale, jnp.swapaxes(k, -1, -2))
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, _HIDDEN)
    if reach is not None:
        logits = jnp.where(within(*logits.shape[2:], *reach)[None, None], logits, _HIDDEN)
    return jax.nn.softmax(logits, axis=-1)


def within(queries: int, keys: int, before: int, after: int) -> Bool[np.ndarray, 't s']:
    """Returns whether key s is among the `before` tokens before query t, itself and the `after` tokens after it."""
    offset = np.arange(keys) - np.arange(queries)[:, None]
    return (offset >= -before) & (offset <= after)


def _per_group(x: Float[Array, 'b h t n'], y: Float[Array, 'b g n m']) -> Float[Array, 'b h t m']:
    """Multiplies matrices by heads; the h / g neighbouring heads of a group share theirs of `y`."""
    batch, heads, rows, inner = x.shape
    groups = y.shape[1]
    if heads == groups:
        return x @ y
    return (x.reshape(batch, groups, -1, inner) @ y).reshape(batch, heads, rows, -1)
