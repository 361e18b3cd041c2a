"""Square neighbourhoods on a grid of tokens, with zeros outside of the grid.

What local attention is made of. Neighbours are shifted views of one padded grid; only `unfold`, which is for coarse
grids, stacks them. JAX's own gradients of `scores` and `mix` would keep a copy of each view, so theirs are written out:
of aggregated attention (modelzoo/vision/transnext.py) a training step without its biases needed 186 MB with the former
and 123 with the latter (8x56x56x48), of which XLA on a CPU still spends 80 on views that its reductions read.

The neighbours of a token are counted row by row, and the middle one is the token itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def unfold(x: Float[Array, '*b h w c'], side: int = 3) -> Float[Array, '*b h w n c']:
    """Returns the side x side tokens around each, itself among them; `side` is odd."""
    return jnp.stack(_views(x, side), axis=-2)


def fold(parts: Float[Array, '*b h w n c'], side: int = 3) -> Float[Array, '*b h w c']:
    """Returns the sum of what each token is given by those around it, the transpose of `unfold`.

    Args:
        parts: what each token has for its neighbours; what lies outside of the grid is left out.
        side: of the neighbourhood, odd.
    """
    # The neighbour that sees this token as its n-th is this token's n-th counted from the end.
    return _sum([_views(parts[..., index, :], side)[-1 - index] for index in range(side * side)])


def scores(
    q: Float[Array, '*b h w k'], k: Float[Array, '*b h w k'], side: int = 3, dilation: int = 1
) -> Float[Array, '*b h w n']:
    """Returns the products of each query with the side x side keys around it; 0 where a key lies outside."""
    return _scores(q, k, side, dilation)


def mix(
    weights: Float[Array, '*b h w n'], v: Float[Array, '*b h w c'], side: int = 3, dilation: int = 1
) -> Float[Array, '*b h w c']:
    """Returns the weighted sum of the side x side values around each token."""
    return _mix(weights, v, side, dilation)


def inside(size: tuple[int, int], side: int = 3, dilation: int = 1) -> Bool[np.ndarray, 'h w n']:
    """Returns which neighbours of each token lie on a grid of this size."""
    steps = (np.arange(side) - side // 2) * dilation
    rows, columns = (
        (np.arange(length)[:, None] + steps[None] >= 0) & (np.arange(length)[:, None] + steps[None] < length)
        for length in size
    )
    return (rows[:, None, :, None] & columns[None, :, None]).reshape(*size, side * side)


def _views(x: Array, side: int, dilation: int = 1) -> list[Array]:
    """Returns the grid as each of the side x side neighbours has it."""
    height, width = x.shape[-3:-1]
    reach = side // 2 * dilation
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, reach), (reach, reach), (0, 0)])
    steps = range(0, side * dilation, dilation)
    return [padded[..., row : row + height, column : column + width, :] for row in steps for column in steps]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scores(q: Array, k: Array, side: int, dilation: int) -> Array:
    return jnp.stack([jnp.sum(q * view, axis=-1) for view in _views(k, side, dilation)], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _mix(weights: Array, v: Array, side: int, dilation: int) -> Array:
    return _sum([weights[..., index, None] * view for index, view in enumerate(_views(v, side, dilation))])


def _spread(weights: Array, x: Array, side: int, dilation: int) -> Array:
    """Returns the sum of what each token is given by those around it; `weights` say how much of `x` they give."""
    views = zip(_views(weights, side, dilation), _views(x, side, dilation))
    return _sum([given[..., -1 - index, None] * view for index, (given, view) in enumerate(views)])


def _sum(terms: list[Array]) -> Array:
    return sum(terms[1:], terms[0])


def _scores_backward(side: int, dilation: int, kept: tuple[Array, Array], ds: Array) -> tuple[Array, Array]:
    q, k = kept
    return _mix(ds, k, side, dilation), _spread(ds, q, side, dilation)


def _mix_backward(side: int, dilation: int, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    weights, v = kept
    return _scores(dy, v, side, dilation), _spread(weights, dy, side, dilation)


_scores.defvjp(lambda q, k, *sizes: (_scores(q, k, *sizes), (q, k)), _scores_backward)
_mix.defvjp(lambda weights, v, *sizes: (_mix(weights, v, *sizes), (weights, v)), _mix_backward)
