"""Position embeddings: resizing of learned tables in the way of each reference, and fixed sines.

A table is resized along its rows and its columns by two small matrices:
  * `cubic_matrix`: PyTorch's ``interpolate(mode='bicubic', align_corners=False)``: cubic convolution with a = -0.75,
    clamped at the border (Keys, 1981; torch's upsample_bicubic2d);
  * `smooth_cubic_matrix`: the same with ``antialias=True``, as timm resizes: a = -0.5, the kernel stretched for
    downsampling, and weights outside of the table dropped;
  * `linear_matrix`: ``mode='bilinear'``.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def cubic_matrix(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the matrix that interpolates `source` points at `target` points along one axis."""
    return _clamped(source, target, (-1, 0, 1, 2), lambda distance: _cubic(distance, -0.75))


def linear_matrix(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the matrix that interpolates `source` points at `target` points along one axis."""
    return _clamped(source, target, (0, 1), lambda distance: 1 - distance)


def smooth_cubic_matrix(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the matrix that interpolates `source` points at `target` points along one axis."""
    step = source / target
    centers = (np.arange(target)[:, None] + 0.5) * step
    distance = np.abs(np.arange(source)[None] + 0.5 - centers) / max(step, 1.0)
    weights = np.where(distance < 2, _cubic(distance, -0.5), 0.0)
    return weights / weights.sum(1, keepdims=True)


def resize(
    table: Float[Array, '1 n d'],
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    matrix: Callable[[int, int], np.ndarray] = cubic_matrix,
) -> Float[Array, '1 m d']:
    """Resizes a row-major table of positions; a table of the wanted size is returned unchanged.

    Args:
        table: one vector per position.
        source: rows and columns of the table.
        target: rows and columns wanted.
        matrix: the interpolation, one of the functions above.

    Raises:
        ValueError: the table does not have source[0] * source[1] positions.
    """
    if table.shape[1] != source[0] * source[1]:
        raise ValueError(
            f'a table of {table.shape[1]} positions is not a grid of {source[0]}x{source[1]}: '
            'give the image_size it was made for.'
        )
    if source == target:
        return table
    grid = table.reshape(*source, table.shape[-1])
    rows, columns = (jnp.asarray(matrix(*sides), table.dtype) for sides in zip(source, target))
    grid = jnp.einsum('ph,hwd,qw->pqd', rows, grid, columns, precision=lax.Precision.HIGHEST)
    return grid.reshape(1, target[0] * target[1], -1)


def refit(
    table: Float[np.ndarray, '1 n d'],
    grid: tuple[int, int],
    *,
    before: int = 0,
    matrix: Callable[[int, int], np.ndarray] = cubic_matrix,
) -> Float[np.ndarray, '1 m d']:
    """Resizes a published table of a square grid when weights are loaded; inside of a network see `resize`.

    Args:
        table: one vector per position, row by row.
        grid: rows and columns wanted.
        before: number of leading positions that belong to learned tokens; they are not resized.
        matrix: the interpolation, one of the functions above.

    Raises:
        ValueError: the grid of the table is not a square.
    """
    side = math.isqrt(table.shape[1] - before)
    if side * side != table.shape[1] - before:
        raise ValueError(
            f'a table of {table.shape[1]} positions, {before} of them for learned tokens, is not that of '
            'a square image: resize it first.'
        )
    rows, columns = (matrix(side, target) for target in grid)
    places = table[0, before:].astype(np.float64).reshape(side, side, -1)
    places = np.einsum('ph,hwd,qw->pqd', rows, places, columns, optimize=True).reshape(1, -1, table.shape[2])
    return np.concatenate([table[:, :before], places.astype(table.dtype)], axis=1)


def sincos2d(grid: tuple[int, int], width: int, temperature: float = 10_000.0) -> Float[np.ndarray, '1 n d']:
    """Returns fixed sine positions; sin x, cos x, sin y and cos y get a quarter of the channels each.

    Chen et al., 2021, https://arxiv.org/abs/2104.02057; frequencies as in Beyer et al., 2022,
    https://arxiv.org/abs/2205.01580: from 1 to 1 / temperature, both included.

    Raises:
        ValueError: the width is not a multiple of 4, or is 4.
    """
    if width % 4 or width == 4:
        raise ValueError(f'sines of two axes need a width that is a multiple of 4 above 4, not {width}: change width.')
    frequencies = temperature ** -np.linspace(0, 1, width // 4)
    y, x = (axis.ravel()[:, None] * frequencies[None] for axis in np.indices(grid))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1, dtype=np.float32)[None]


def _clamped(source: int, target: int, taps: tuple[int, ...], kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    position = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(position).astype(int)
    weights = np.zeros((target, source))
    for tap in taps:
        index = np.clip(first + tap, 0, source - 1)
        np.add.at(weights, (np.arange(target), index), kernel(np.abs(position - first - tap)))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns Keys' kernel at distances below 2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)
