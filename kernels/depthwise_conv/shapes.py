"""Named shapes of the depthwise convolution: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, H, W, C and the sides of the kernel as in `kernels.depthwise_conv`; benchmarks run those marked `timed`."""

    batch: int
    height: int
    width: int
    channels: int
    rows: int
    columns: int
    timed: bool = False


SHAPES = {
    'pixel': Shape(2, 1, 1, 3, 3, 3),
    'small': Shape(3, 5, 4, 6, 3, 3),
    'seven': Shape(2, 7, 7, 5, 7, 7),
    'fourteen': Shape(2, 14, 14, 3, 13, 13),
    'thirty_one': Shape(2, 31, 31, 2, 5, 5),
    'fifty_six': Shape(1, 56, 56, 2, 7, 7),
    'large': Shape(1, 56, 56, 2, 51, 51),  # transforms of 81 points
    'larger': Shape(2, 14, 14, 2, 31, 31),  # a kernel larger than the image
    'row': Shape(2, 9, 31, 3, 1, 11),
    'column': Shape(2, 31, 9, 3, 11, 1),
    'wide': Shape(2, 6, 5, 33, 3, 3),  # enough channels for a loop over them
    'wide_row': Shape(1, 4, 13, 33, 1, 11),
    'wide_column': Shape(2, 13, 4, 33, 11, 1),
    'even': Shape(2, 9, 8, 3, 4, 2),
    'mesh': Shape(8, 9, 9, 8, 3, 3),
    'convnext_56': Shape(8, 56, 56, 96, 7, 7, timed=True),
    'convnext_14': Shape(8, 14, 14, 384, 7, 7, timed=True),
    'unireplknet_14': Shape(8, 14, 14, 384, 13, 13, timed=True),
    'replknet_14': Shape(8, 14, 14, 384, 31, 31, timed=True),
    'row_56': Shape(8, 56, 56, 96, 1, 11, timed=True),
    'column_56': Shape(8, 56, 56, 96, 11, 1, timed=True),
    'square_56': Shape(8, 56, 56, 96, 3, 3, timed=True),
}
