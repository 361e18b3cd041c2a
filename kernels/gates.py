"""Gates before and after a long convolution, and a skip connection around it; for sequences and images.

FlashFFTConv (Fu et al., 2023, https://arxiv.org/abs/2311.05908) fuses them into its kernel; the functions here are for
implementations that do not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


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


def check(u: jax.Array, gates: dict[str, jax.Array | None], skip: jax.Array | None) -> None:
    """Raises ValueError unless gates have the shape of `u` and the skip has one number per channel."""
    for name, x in gates.items():
        if x is not None and x.shape != u.shape:
            raise ValueError(f'{name} has shape {x.shape}; wanted that of u, {u.shape}.')
    if skip is not None and skip.shape != u.shape[-1:]:
        raise ValueError(f'skip has shape {skip.shape}; wanted {u.shape[-1:]}, a number a channel.')


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
