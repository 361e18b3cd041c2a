"""Named shapes of the convolution of images: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, H, W, C and the sides of the kernel; benchmarks run the shapes marked `timed`."""

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    timed: bool = False


SHAPES = {
    'one': Shape(2, 1, 1, 3, (1, 1)),
    'narrow': Shape(2, 5, 1, 3, (4, 1)),
    'seven': Shape(3, 7, 7, 4, (7, 7)),
    'odd': Shape(2, 7, 12, 3, (5, 4)),
    'fourteen': Shape(2, 14, 14, 3, (14, 14)),
    'thirty_one': Shape(1, 31, 31, 2, (31, 31)),
    'fifty_six': Shape(1, 56, 56, 2, (56, 56)),
    'mesh': Shape(8, 6, 6, 8, (6, 6)),
    'stage2': Shape(8, 14, 14, 192, (14, 14), timed=True),
    'stage1': Shape(8, 56, 56, 96, (56, 56), timed=True),
}
