"""The causal convolution in plain XLA, with gradients: a sum of shifted sequences, in float32.

One fusion reads and writes each token once, on every platform. So a TPU needs no kernel of its own, nor for the
gradients, which read two arrays and write one (docs/kernels.md). On a CPU sums over tokens are slow; there the
gradients of kernel and bias are accumulated over blocks of rows and summed over the rows of a block at the end. All
operations are elementwise in batch and channels, so these stay split on a mesh.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import derivatives

_ROWS = 64  # rows (of batch and tokens) of a block on a CPU

Optional = jax.Array | None


@derivatives.own_derivative('causal_conv1d')
def convolve(
    x: Float[Array, 'b t d'],
    kernel: Float[Array, 'k d'],
    bias: Float[Array, ' d'] | None,
    before: Float[Array, 'b s d'] | None,
) -> Float[Array, 'b t d']:
    """See `reference.convolve`; sums are float32, or float64 if an input is float64."""
    wide, tokens = _wide(x, kernel), x.shape[1]
    seen = _joined(x, before, len(kernel))
    y = _weighed(kernel, wide, [seen[:, j : j + tokens] for j in range(len(kernel))])
    y = y if bias is None else y + bias[None, None].astype(wide)
    return y.astype(x.dtype)


def _convolve_forward(*inputs: Optional) -> tuple[jax.Array, tuple]:
    return convolve(*inputs), inputs


def _convolve_backward(inputs: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array, Optional, Optional]:
    x, kernel, bias, before = inputs
    last, tokens = len(kernel) - 1, x.shape[1]
    wide = _wide(x, kernel)
    ahead = 0 if before is None else last
    behind = jnp.pad(dy, ((0, 0), (ahead, last), (0, 0)))
    reach = tokens + ahead
    dseen = _weighed(kernel, wide, [behind[:, last - j :][:, :reach] for j in range(last + 1)])
    seen = _joined(x, before, last + 1)
    sums = lax.platform_dependent(seen, dy, cpu=_sums_by_rows, default=_sums)
    dkernel, dbias = sums[:-1].astype(kernel.dtype), sums[-1]
    dbias = None if bias is None else dbias.astype(bias.dtype)
    dbefore = None if before is None else dseen[:, :ahead].astype(before.dtype)
    return dseen[:, ahead:].astype(x.dtype), dkernel, dbias, dbefore


convolve.defvjp(_convolve_forward, _convolve_backward)


def _sums(seen: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns (K + 1, D): sums over batch and tokens of dy times each shift of the sequence, and of dy itself."""
    wide, tokens = _wide(seen, dy), dy.shape[1]
    dy = dy.astype(wide)
    shifts = range(seen.shape[1] - tokens + 1)
    products = [seen[:, j : j + tokens].astype(wide) * dy for j in shifts]
    return jnp.stack([jnp.sum(x, axis=(0, 1)) for x in (*products, dy)])


def _sums_by_rows(seen: jax.Array, dy: jax.Array) -> jax.Array:
    """`_sums`, accumulated over blocks of tokens."""
    wide, last = _wide(seen, dy), seen.shape[1] - dy.shape[1]
    block = min(max(1, _ROWS // dy.shape[0]), dy.shape[1])
    blocks = -(-dy.shape[1] // block)
    fill = ((0, 0), (0, blocks * block - dy.shape[1]), (0, 0))
    seen, dy = jnp.pad(seen, fill), jnp.pad(dy, fill)

    def add(sums: list[jax.Array], place: jax.Array) -> tuple[list[jax.Array], None]:
        window = lax.dynamic_slice_in_dim(seen, place, block + last, axis=1).astype(wide)
        rows = lax.dynamic_slice_in_dim(dy, place, block, axis=1).astype(wide)
        products = [window[:, j : j + block] * rows for j in range(last + 1)]
        return [total + x for total, x in zip(sums, (*products, rows))], None

    zeros = [jnp.zeros_like(dy, wide, (dy.shape[0], block, dy.shape[2]))] * (last + 2)
    sums, _ = lax.scan(add, zeros, block * jnp.arange(blocks))
    return jnp.stack([x.sum((0, 1)) for x in sums])


def _joined(x: jax.Array, before: Optional, taps: int) -> jax.Array:
    """Returns the sequence with the tokens before it."""
    if before is None:
        return jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    wide = jnp.result_type(x, before)
    return jnp.concatenate([before.astype(wide), x.astype(wide)], axis=1)


def _weighed(kernel: jax.Array, wide: jnp.dtype, shifted: list[jax.Array]) -> jax.Array:
    """Returns the weighted sum of shifts, each cast by itself: a TPU would otherwise store a float32 copy of all."""
    return sum(x.astype(wide) * tap[None, None].astype(wide) for x, tap in zip(shifted, kernel))


def _wide(*arrays: jax.Array) -> jnp.dtype:
    return jnp.result_type(*arrays, jnp.float32)
