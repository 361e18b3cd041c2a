"""Named shapes of the convolution: sides, strides and both sides of each threshold."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, H, W, C, outputs, sides of the kernel and stride as in `kernels.conv2d`."""

    batch: int
    height: int
    width: int
    channels: int
    outputs: int
    rows: int
    columns: int
    stride: int = 1


SHAPES = {
    'pixel': Shape(2, 1, 1, 3, 4, 1, 1),
    'odd': Shape(3, 5, 4, 6, 5, 3, 3),
    'odd_strided': Shape(2, 7, 6, 3, 4, 3, 3, 2),
    'matrix': Shape(3, 5, 4, 6, 5, 1, 1),
    'matrix_strided': Shape(2, 7, 6, 3, 4, 1, 1, 2),
    'matrix_thinned': Shape(2, 5, 9, 3, 4, 1, 1, 3),
    'band': Shape(2, 5, 6, 3, 4, 1, 3),
    'even': Shape(2, 6, 8, 3, 5, 2, 2, 2),
    'below': Shape(2, 19, 20, 32, 3, 3, 3),  # too few pixels for products
    'narrow': Shape(2, 20, 20, 31, 3, 3, 3),  # too few channels
    'many_taps': Shape(2, 20, 20, 32, 3, 5, 5),
    'large': Shape(2, 20, 20, 32, 3, 3, 3),
    'large_strided': Shape(2, 40, 39, 32, 3, 3, 3, 2),
    'groups': Shape(2, 7, 6, 6, 9, 3, 3, 2),  # three of two channels
    'channels': Shape(2, 7, 6, 5, 5, 3, 2, 2),  # five of one
    'fours': Shape(2, 9, 7, 16, 16, 3, 3),  # in groups of 4
    'eights': Shape(2, 9, 8, 24, 48, 3, 3, 2),  # in groups of 8, with 16 outputs
    'mesh': Shape(8, 20, 20, 32, 4, 3, 3),
    'mesh_matrix': Shape(8, 4, 4, 8, 4, 1, 1),
}
