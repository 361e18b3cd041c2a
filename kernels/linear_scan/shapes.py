"""Named shapes of the linear scan: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, T, D as in `kernels.linear_scan`; benchmarks run the shapes marked `timed`."""

    batch: int
    tokens: int
    channels: int
    timed: bool = False


SHAPES = {
    'one_token': Shape(2, 1, 6),
    'odd': Shape(2, 63, 12),
    'prime': Shape(3, 127, 10),
    'class_token': Shape(2, 197, 24),
    'mesh': Shape(8, 300, 32),
    'split': Shape(2, 1040, 12),  # 130 tokens on each of 8 devices
    'long': Shape(1, 1000, 8),
    'long_prime': Shape(1, 4097, 4),
    'longest': Shape(1, 65536, 2),
    'tile': Shape(2, 300, 256),  # whole lanes of a TPU
    'lanes': Shape(1, 24, 1100),  # two groups of them, the last one partial
    'vision_tiny': Shape(8, 197, 384, timed=True),
    'language_2k': Shape(1, 2048, 384, timed=True),
    'language_64k': Shape(1, 65536, 64, timed=True),
}
