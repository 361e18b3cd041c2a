"""The dual-tree complex wavelet transform in two dimensions, one level: a map, and its inverse.

Kingsbury, 2001, "Complex Wavelets for Shift Invariant Analysis and Filtering of Signals",
https://doi.org/10.1006/acha.2000.0343; Selesnick, Baraniuk and Kingsbury, 2005, "The Dual-Tree Complex Wavelet
Transform", https://doi.org/10.1109/MSP.2005.1550194. Reference: pytorch_wavelets 1.3.0
(https://github.com/fbcotter/pytorch_wavelets, MIT), ``DTCWTForward(J=1, biort='near_sym_b')`` and its inverse.

The first level filters at every pixel, with two filters of 13 and 19 taps along each side; the four pixels of a square
of 2x2 belong to the four pairs of trees. So the low-pass part keeps the size of the map, and each of the three others
becomes two complex maps of half the sides, for angles of either sign, which a real wavelet cannot tell apart.

Both directions are a matrix along the rows and one along the columns, with the map mirrored at its rim; of a map of n
pixels along a side it takes n products for each value, where a convolution takes 13 or 19, and no transposed copy.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# near_sym_b, from the first tap to the one in the middle; both are symmetric.
_LOW = np.array([-9, 0, 114, -240, -247, 1520, 2844]) / 5120
_HIGH = np.array([-81, 0, 1539, -2160, -8208, 27360, 63816, -59280, -343786, 641600]) / 1146880

ORIENTATIONS = 6


def analyze(x: Float[Array, 'b h w c']) -> tuple[Float[Array, 'b h w c'], Float[Array, 'b h2 w2 6 2 c']]:
    """Returns the low-pass map and the real and imaginary parts of six oriented maps of half the sides.

    Edges of a map seem to run at 15, 45, 75, 105, 135 and 165 degrees, in this order.

    Args:
        x: a map of even sides.

    Raises:
        ValueError: a side is odd.
    """
    height, width = x.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f'a map of {height}x{width} has no squares of 2x2: pad it to even sides.')
    rows, columns = (jnp.asarray(_analysis(side), x.dtype) for side in (height, width))
    bands = jnp.einsum('vw,buwc->buvc', columns, jnp.einsum('uh,bhwc->buwc', rows, x))
    low_high, high_low, high_high = bands[:, height:, :width], bands[:, :height, width:], bands[:, height:, width:]
    first, second = zip(*map(_to_complex, (low_high, high_high, high_low)))
    return bands[:, :height, :width], jnp.stack([*first, *reversed(second)], axis=3)


def synthesize(low: Float[Array, 'b h w c'], high: Float[Array, 'b h2 w2 6 2 c']) -> Float[Array, 'b h w c']:
    """Returns the map of which `analyze` makes these."""
    low_high, high_high, high_low = (_from_complex(high[..., n, :, :], high[..., 5 - n, :, :]) for n in range(3))
    above, below = (jnp.concatenate(pair, axis=2) for pair in ((low, high_low), (low_high, high_high)))
    rows, columns = (jnp.asarray(_synthesis(side), low.dtype) for side in low.shape[1:3])
    bands = jnp.concatenate([above, below], axis=1)
    return jnp.einsum('hu,buwc->bhwc', rows, jnp.einsum('wv,buvc->buwc', columns, bands))


def low_pass(x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Returns the low-pass map of `analyze` alone."""
    rows, columns = (jnp.asarray(_analysis(side)[:side], x.dtype) for side in x.shape[1:3])
    return jnp.einsum('vw,buwc->buvc', columns, jnp.einsum('uh,bhwc->buwc', rows, x))


def from_low_pass(low: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Returns what `synthesize` makes of a low-pass map alone."""
    rows, columns = (jnp.asarray(_synthesis(side)[:, :side], low.dtype) for side in low.shape[1:3])
    return jnp.einsum('hu,buwc->bhwc', rows, jnp.einsum('wv,buvc->buwc', columns, low))


def pairs(height: int, width: int) -> tuple[Float[np.ndarray, '3 2 h h'], Float[np.ndarray, '3 2 w w']]:
    """Returns the matrices of the rows and of the columns, of both directions, for the three pairs of orientations.

    The pairs are 15 and 165 degrees, 45 and 135, 75 and 105.
    """
    rows, columns = ([_both(side, high) for high in (False, True)] for side in (height, width))
    return np.stack([rows[1], rows[1], rows[0]]), np.stack([columns[0], columns[1], columns[1]])


def _both(side: int, high: bool) -> Float[np.ndarray, '2 n n']:
    """Returns one filter's part of `_analysis` and of `_synthesis`."""
    part = slice(side, None) if high else slice(side)
    return np.stack([_analysis(side)[part], _synthesis(side)[:, part]]).astype(np.float32)


def analyze_pair(
    x: Float[Array, 'b h w c'], rows: Float[Array, '2 h h'], columns: Float[Array, '2 w w']
) -> Float[Array, 'b h2 w2 2 2 c']:
    """Returns two of the oriented maps of `analyze`, given their matrices of `pairs`."""
    band = jnp.einsum('vw,buwc->buvc', columns[0], jnp.einsum('uh,bhwc->buwc', rows[0], x))
    return jnp.stack(_to_complex(band), axis=3)


def synthesize_pair(
    high: Float[Array, 'b h2 w2 2 2 c'], rows: Float[Array, '2 h h'], columns: Float[Array, '2 w w']
) -> Float[Array, 'b h w c']:
    """Returns what `synthesize` makes of two of the oriented maps alone."""
    band = _from_complex(high[..., 0, :, :], high[..., 1, :, :])
    return jnp.einsum('hu,buwc->bhwc', rows[1], jnp.einsum('wv,buvc->buwc', columns[1], band))


def _to_complex(band: Float[Array, 'b h w c']) -> tuple[Float[Array, 'b h2 w2 2 c'], Float[Array, 'b h2 w2 2 c']]:
    """Returns two complex maps of the squares of a band; their squares add up to those of the band."""
    batch, height, width, channels = band.shape
    squares = band.reshape(batch, height // 2, 2, width // 2, 2, channels) * 0.5**0.5
    a, b, c, d = (squares[:, :, row, :, column] for row in (0, 1) for column in (0, 1))
    return jnp.stack([a - d, b + c], axis=3), jnp.stack([a + d, b - c], axis=3)


def _from_complex(first: Float[Array, 'b h2 w2 2 c'], second: Float[Array, 'b h2 w2 2 c']) -> Float[Array, 'b h w c']:
    """Undoes `_to_complex`."""
    total, apart = first + second, first - second
    a, d, b, c = total[..., 0, :], -apart[..., 0, :], total[..., 1, :], apart[..., 1, :]
    batch, rows, columns, channels = a.shape
    squares = jnp.stack([jnp.stack([a, b], axis=3), jnp.stack([c, d], axis=3)], axis=2) * 0.5**0.5
    return squares.reshape(batch, 2 * rows, 2 * columns, channels)


@functools.cache
def _analysis(side: int) -> np.ndarray:
    """Returns the matrix (2 side, side) of both filters, low-pass above."""
    return np.concatenate([_filtering(_LOW, side), _filtering(_HIGH, side)])


@functools.cache
def _synthesis(side: int) -> np.ndarray:
    """Returns the matrix (side, 2 side) that undoes `_analysis`: each filter undoes the other with changed signs."""
    low, high = (taps * (-1.0) ** np.arange(len(taps))[::-1] for taps in (_HIGH, _LOW))
    return np.concatenate([_filtering(low, side), _filtering(high, side)], axis=1)


def _filtering(half: np.ndarray, side: int) -> np.ndarray:
    """Returns the matrix of a symmetric filter, of which `half` is given, on a side that is mirrored at its ends."""
    reach = len(half) - 1
    matrix = np.zeros((side, side))
    for offset in range(-reach, reach + 1):
        place = (np.arange(side) + offset) % (2 * side)
        np.add.at(matrix, (np.arange(side), np.minimum(place, 2 * side - 1 - place)), half[reach - abs(offset)])
    return matrix
