"""Named shapes of the selective scan: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, T, D, N and groups as in `kernels.selective_scan`; benchmarks run the shapes marked `timed`."""

    batch: int
    tokens: int
    channels: int
    states: int
    groups: int = 1
    timed: bool = False


SHAPES = {
    'one_token': Shape(2, 1, 6, 4),
    'odd': Shape(2, 63, 12, 4),
    'grouped': Shape(2, 63, 12, 5, groups=3),
    'prime': Shape(2, 127, 10, 16),
    'class_token': Shape(1, 197, 24, 16),
    'wide': Shape(2, 40, 1280, 16),  # more than a CPU works on at a time
    'mesh': Shape(8, 40, 32, 4, groups=2),
    'split': Shape(2, 520, 12, 4, groups=2),  # 65 tokens on each of 8 devices
    'long': Shape(1, 1000, 8, 16),
    'long_prime': Shape(1, 4097, 4, 8),
    'longest': Shape(1, 65536, 2, 4),
    'tile': Shape(1, 300, 256, 16, groups=2),  # whole lanes of a TPU
    'lanes': Shape(1, 20, 600, 5),  # two blocks of channels on a TPU, the last one partial
    'vision_tiny': Shape(8, 197, 384, 16, timed=True),
    'language_2k': Shape(1, 2048, 384, 16, timed=True),
    'language_4k': Shape(1, 4096, 1536, 16, timed=True),
}
