"""The long convolution as Pallas kernels for TPUs that fuse transform, product and inverse transform.

The order-2 decomposition of Fu et al., FlashFFTConv, 2023, https://arxiv.org/abs/2311.05908, Algorithm 1. For longer
sequences further levels are computed outside (see `transforms.Monarch`), and the kernel computes the last two. No code
was taken from others.

Gates and skip are applied while a block is in VMEM. Gradients are convolutions too, with conjugated spectra and
exchanged gates, and are computed by the same kernels.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from longview.kernels import dispatch
from longview.kernels.long_conv.pallas_tpu_tile import LANES, run
from longview.kernels.long_conv.transforms import Monarch, monarch_sides, period_for, wrapped

_LARGEST = 2**13  # most complex numbers per lane in VMEM: 8 of the 16 MiB of a v4


def convolve(
    u: jax.Array,
    taps: jax.Array,
    pre: jax.Array | None = None,
    post: jax.Array | None = None,
    skip: jax.Array | None = None,
    *,
    before: int,
    keep: float = 1.0,
) -> jax.Array:
    """`kernels.long_conv.long_conv` with joined taps; see `reference.convolve`."""
    batch, tokens, channels = u.shape
    size = period_for(tokens, taps.shape[-2], before)
    narrow = u.dtype == taps.dtype == jnp.bfloat16
    monarch = Monarch(_sides(size), jnp.bfloat16 if narrow else jnp.float32).keeping(keep)
    taps = wrapped(taps, before, monarch.size)
    # The largest kernel has no VMEM left to look for what is not finite, and outside of it that would cost a pass.
    looks = before < tokens - 1 and keep == 1 and monarch.size < _LARGEST
    ahead = before if looks else None
    # Several sequences are concatenated along the channels to fill the lanes.
    fits = lambda n: batch % n == 0 and n * channels <= max(LANES, channels)
    beside = max(filter(fits, range(1, batch + 1)))
    full = -(-beside * channels // LANES) * LANES
    shared = partial(_lanes, beside=1, full=full)
    if taps.ndim == 3:
        taps = _lanes(taps, beside, full)
    else:
        taps = shared(jnp.tile(taps, (1, beside))[None])
    skip = None if skip is None else shared(jnp.tile(skip, beside)[None, None])
    u, pre, post = (None if x is None else _lanes(x, beside, full) for x in (u, pre, post))
    y = _convolve(monarch, ahead, u, taps, pre, post, skip)
    y = y[..., : beside * channels].reshape(batch // beside, tokens, beside, channels)
    return jnp.swapaxes(y, 1, 2).reshape(batch, tokens, channels)


def missing(u: jax.Array, taps: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    return dispatch.lacking((u, taps, others), ('float32', 'bfloat16'))


def _sides(size: int) -> tuple[int, ...]:
    """Returns the sides: the last two are for the kernel, as large as VMEM allows, the others for levels outside."""
    bits = size.bit_length() - 1
    within = min(bits, _LARGEST.bit_length() - 1)
    outer = monarch_sides(2 ** (bits - within)) if bits > within else ()
    return *outer, *monarch_sides(2**within, 2)


def _lanes(x: jax.Array, beside: int, full: int) -> jax.Array:
    """Returns (B / beside, T, full) for x (B, T, D): `beside` sequences concatenated along the channels, and zeros."""
    batch, tokens, channels = x.shape
    x = jnp.swapaxes(x.reshape(batch // beside, beside, tokens, channels), 1, 2)
    x = x.reshape(batch // beside, tokens, beside * channels)
    return jnp.pad(x, ((0, 0), (0, 0), (0, full - beside * channels)))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(
    monarch: Monarch, ahead: int | None, u: jax.Array, taps: jax.Array, *factors: jax.Array | None
) -> jax.Array:
    """ahead: how many later tokens a token sees, further than which no NaN reaches; None if it sees all of them."""
    return _product(monarch, u, _spectrum(monarch, taps, None), *factors, dtype=u.dtype, ahead=ahead)


def _convolve_forward(monarch: Monarch, ahead: int | None, *inputs: jax.Array | None) -> tuple[jax.Array, tuple]:
    return _convolve(monarch, ahead, *inputs), inputs


def _convolve_backward(monarch: Monarch, ahead: int | None, inputs: tuple, dy: jax.Array) -> tuple:
    u, taps, pre, post, skip = inputs
    back = partial(_product, monarch, conjugated=True)
    spectrum = _spectrum(monarch, taps, None)
    dx = back(dy, spectrum, post, None, skip, dtype=jnp.float32 if pre is not None else u.dtype)
    du, dpre = dx, None
    if pre is not None:
        du, dpre = (dx * x for x in (pre, u))
    dpost = None
    if post is not None:
        dpost = _product(monarch, u, spectrum, pre, dy, skip, dtype=post.dtype)
    of_x = _spectrum(monarch, u, pre)
    dtaps = back(dy, of_x, post, None, None, count=taps.shape[1], dtype=jnp.float32)
    if len(taps) == 1:
        dtaps = jnp.sum(dtaps, axis=0, keepdims=True)
    dskip = None
    if skip is not None:
        product = math.prod(x.astype(jnp.float32) for x in (dy, u, pre, post) if x is not None)
        dskip = jnp.sum(product, axis=(0, 1), keepdims=True)
    cast = lambda x, like: None if x is None else x.astype(like.dtype)
    found = (du, dtaps, dpre, dpost, dskip)
    return tuple(cast(*pair) for pair in zip(found, inputs))


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _spectrum(monarch: Monarch, x: jax.Array, gate: jax.Array | None) -> jax.Array:
    """Returns the spectrum of real x (B, t, D): (2, B * frequencies of outer levels, rows, kept, D)."""
    outer = monarch.levels[:-2]
    if not outer:
        return run(monarch, {'x': x[None], 'pre': gate}, x.shape[1], None, False)
    x = x[None] if gate is None else (x * gate)[None]
    for level in outer:
        x = level.into(x, monarch.dtype)
    return run(monarch, {'x': x}, x.shape[2], None, False)


def _product(
    monarch: Monarch,
    x: jax.Array,
    spectrum: jax.Array,
    pre: jax.Array | None,
    post: jax.Array | None,
    skip: jax.Array | None,
    *,
    dtype: DTypeLike,
    count: int | None = None,
    conjugated: bool = False,
    ahead: int | None = None,
) -> jax.Array:
    """Returns `post * (c + skip * pre * x)`, where the spectrum of c is that of `pre * x` times `spectrum`."""
    outer = monarch.levels[:-2]
    count = count or x.shape[1]
    if not outer:
        ins = {'x': x[None], 'pre': pre, 'post': post, 'skip': skip, 'kernel': spectrum}
        return run(monarch, ins, count, dtype, conjugated, ahead)[0]
    x = x if pre is None else x * pre
    z = x[None]
    for level in outer:
        z = level.into(z, monarch.dtype)
    z = run(monarch, {'x': z, 'kernel': spectrum}, z.shape[2], jnp.float32, conjugated)
    for level in outer[:0:-1]:
        z = level.out(z, 2, level.side * level.rest, monarch.dtype)
    y = outer[0].out(z, 1, count, monarch.dtype)[0]
    y = y if skip is None else y + skip * x
    return (y if post is None else y * post).astype(dtype)
