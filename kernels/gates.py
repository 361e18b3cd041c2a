"""Gates before and after a long convolution, and a skip connection around it; for sequences and images.

FlashFFTConv (Fu et al., 2023, https://arxiv.org/abs/2311.05908) fuses them into its kernel; the functions here are for
implementations that do not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from longview.kernels import dispatch


def gated(core: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function `run(u, kernel, pre, post, skip)` that computes `post * (core(pre * u) + skip * pre * u)`.

    `pre`, `post` and `skip` may each be None. `core(x, kernel)` is the convolution, with channels last.
    """

    def run(
        u: jax.Array,
        kernel: jax.Array,
        pre: jax.Array | None,
        post: jax.Array | None,
        skip: jax.Array | None,
    ) -> jax.Array:
        x = _wide(u) if pre is None else _wide(u) * _wide(pre)
        y = core(x.astype(u.dtype), kernel)
        y = y if skip is None else y + _wide(skip).reshape((1,) * (u.ndim - 1) + skip.shape) * x
        y = y if post is None else y * _wide(post)
        return y.astype(u.dtype)

    return run


def finite(x: jax.Array, before: int) -> tuple[jax.Array, jax.Array]:
    """Returns which numbers of a sequence (B, T, D) are finite, and where its convolution is NaN since others are not.

    That is from the first token on that sees one, `before` tokens ahead. A Fourier transform would spread them over the
    whole sequence, so they are replaced by 0 before it.
    """
    known, token = jnp.isfinite(x), jnp.arange(x.shape[1])[None, :, None]
    first = jnp.min(jnp.where(known, x.shape[1] + before, token), axis=1, keepdims=True)
    return known, token >= first - before


def check(u: jax.Array, gates: dict[str, jax.Array | None], skip: jax.Array | None) -> None:
    """Raises ValueError unless gates have the shape of `u` and the skip has one number per channel, none an integer."""
    dispatch.check_floats(**gates, skip=skip)
    for name, x in gates.items():
        if x is not None and x.shape != u.shape:
            raise ValueError(f'{name} has shape {x.shape}; wanted that of u, {u.shape}.')
    if skip is not None and skip.shape != u.shape[-1:]:
        raise ValueError(f'skip has shape {skip.shape}; wanted {u.shape[-1:]}, a number a channel.')


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
