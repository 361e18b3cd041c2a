"""What is done around a long convolution, of sequences and of images: gates before and after it, and a skip.

The convolutions of FlashFFTConv, Fu et al., 2023, https://arxiv.org/abs/2311.05908, have them inside of the kernel; the
forms here are for implementations that have no such kernel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def gated(core: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Returns `run(u, kernel, pre, post, skip)`, `post * (core(pre * u) + skip * pre * u)`.

    Each of the three may be None. `core(x, kernel)` is a convolution that has none of them, its channels last.
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
    """Refuses in words gates that are not of the shape of `u`, and a skip that is not a number a channel."""
    for name, x in gates.items():
        if x is not None and x.shape != u.shape:
            raise ValueError(f'{name} has shape {x.shape}; wanted that of u, {u.shape}.')
    if skip is not None and skip.shape != u.shape[-1:]:
        raise ValueError(f'skip has shape {skip.shape}; wanted {u.shape[-1:]}, a number a channel.')


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
