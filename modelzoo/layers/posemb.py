"""Learned position tables, and their resizing as PyTorch's ``interpolate(mode='bicubic', align_corners=False)``.

Cubic convolution with a = -0.75, clamped at the border, no antialiasing (Keys, 1981; torch's upsample_bicubic2d).
jax.image.resize has a = -0.5 and antialiases.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_A = -0.75


def resize(table: Float[Array, '1 n d'], source: tuple[int, int], target: tuple[int, int]
           ) -> Float[Array, '1 m d']:
    """Resizes a row-major table of positions; returns it as it is where the grids are the same.

    Args:
        table: one vector for each position.
        source: rows and columns of the table.
        target: rows and columns wanted.

    Raises:
        ValueError: the table does not have source[0] * source[1] positions.
    """
    if table.shape[1] != source[0] * source[1]:
        raise ValueError(f'a table of {table.shape[1]} positions is not a grid of {source[0]}x{source[1]}: '
                         'give the image_size it was made for.')
    if source == target:
        return table
    grid = table.reshape(*source, table.shape[-1])
    rows, columns = (jnp.asarray(cubic_matrix(*sides), table.dtype) for sides in zip(source, target))
    grid = jnp.einsum('ph,hwd,qw->pqd', rows, grid, columns, precision=lax.Precision.HIGHEST)
    return grid.reshape(1, target[0] * target[1], -1)


def cubic_matrix(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the weights of `source` points in each of `target` points along one axis."""
    position = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(position).astype(int)
    weights = np.zeros((target, source))
    for tap in range(-1, 3):
        distance = np.abs(position - first - tap)
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        index = np.clip(first + tap, 0, source - 1)
        np.add.at(weights, (np.arange(target), index), np.where(distance <= 1, near, far))
    return weights
