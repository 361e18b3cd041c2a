"""Square neighbourhoods on a grid of tokens, with zeros outside of the grid.

What local attention is made of. Nothing here holds a copy of the tokens for each neighbour, but `unfold`, which is for
coarse grids. The neighbours of a token are counted row by row, and the middle one is the token itself.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


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
    views = [_views(parts[..., index, :], side)[-1 - index] for index in range(side * side)]
    return sum(views[1:], views[0])


def scores(
    q: Float[Array, '*b h w k'], k: Float[Array, '*b h w k'], side: int = 3, dilation: int = 1
) -> Float[Array, '*b h w n']:
    """Returns the products of each query with the side x side keys around it; 0 where a key lies outside."""
    return jnp.stack([jnp.sum(q * view, axis=-1) for view in _views(k, side, dilation)], axis=-1)


def mix(
    weights: Float[Array, '*b h w n'], v: Float[Array, '*b h w c'], side: int = 3, dilation: int = 1
) -> Float[Array, '*b h w c']:
    """Returns the weighted sum of the side x side values around each token."""
    terms = [weights[..., index, None] * view for index, view in enumerate(_views(v, side, dilation))]
    return sum(terms[1:], terms[0])


def _views(x: Array, side: int, dilation: int = 1) -> list[Array]:
    """Returns the grid as each of the side x side neighbours has it."""
    height, width = x.shape[-3:-1]
    reach = side // 2 * dilation
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, reach), (reach, reach), (0, 0)])
    steps = range(0, side * dilation, dilation)
    return [padded[..., row : row + height, column : column + width, :] for row in steps for column in steps]
