"""Windows of a feature map, and the shift that connects them.

Liu et al., 2021, "Swin Transformer", https://arxiv.org/abs/2103.14030.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

Pair = tuple[int, int]


def fit(size: Pair, side: int) -> tuple[Pair, Pair]:
    """Returns the window for a map of `size`, and the shift of every second block.

    The window is cropped to the map; along an axis that it covers there is no shift.
    """
    window = min(size[0], side), min(size[1], side)
    shift = tuple(0 if length <= side else side // 2 for length in size)
    return window, shift


def partition(x: Float[Array, 'b h w c'], window: Pair) -> Float[Array, 'v n c']:
    """Returns the windows of all images, row by row, with flattened pixels; the window must divide the map."""
    (rows, columns), (batch, height, width, channels) = window, x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.swapaxes(2, 3).reshape(-1, rows * columns, channels)


def merge(windows: Float[Array, 'v n c'], window: Pair, size: Pair) -> Float[Array, 'b h w c']:
    """Undoes `partition` for maps of `size`."""
    (rows, columns), (height, width) = window, size
    x = windows.reshape(-1, height // rows, width // columns, rows, columns, windows.shape[-1])
    return x.swapaxes(2, 3).reshape(-1, height, width, windows.shape[-1])


def apart(size: Pair, window: Pair, shift: Pair) -> Bool[np.ndarray, 'v n n']:
    """Returns which pairs of pixels in each window of a shifted map come from different regions of the original map.

    Args:
        size: rows and columns of the map, a multiple of the window's.
        window: rows and columns of the window.
        shift: rows and columns by which the map was rolled towards its start.
    """
    rows, columns = (_regions(*axis) for axis in zip(size, window, shift))
    regions = (3 * rows[:, None] + columns[None]).reshape(len(rows) // window[0], window[0], -1, window[1])
    regions = regions.swapaxes(1, 2).reshape(-1, window[0] * window[1])
    return regions[:, :, None] != regions[:, None]


def relative_index(window: Pair) -> Int[np.ndarray, 'n n']:
    """Returns the index into a table of (2 h - 1) (2 w - 1) relative offsets for each pair of pixels of a window."""
    rows, columns = np.indices(window).reshape(2, -1)
    return (
        (rows[:, None] - rows[None] + window[0] - 1) * (2 * window[1] - 1)
        + columns[:, None]
        - columns[None]
        + window[1]
        - 1
    )


def _regions(length: int, side: int, shift: int) -> np.ndarray:
    places = np.arange(length)
    return (places >= length - side).astype(int) + (places >= length - shift) if shift else np.zeros(length, int)
