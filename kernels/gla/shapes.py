"""Named shapes of gated linear attention: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, T, H, K, V as in `kernels.gla`; benchmarks run the shapes marked `timed`."""

    batch: int
    tokens: int
    heads: int
    keys: int
    values: int
    timed: bool = False


SHAPES = {
    'one_token': Shape(2, 1, 2, 16, 16),
    'odd': Shape(2, 63, 2, 60, 32),
    'even': Shape(1, 64, 2, 16, 48),
    'prime': Shape(2, 127, 1, 16, 64),
    'class_token': Shape(1, 197, 3, 64, 16),
    'batch': Shape(12, 40, 8, 32, 64),  # more than a CPU works on at a time
    'mesh': Shape(128, 16, 4, 16, 16),
    'split': Shape(2, 64, 2, 16, 24),  # over eight devices
    'wide': Shape(1, 1000, 1, 128, 60),
    'long_prime': Shape(1, 4097, 1, 16, 16),
    'very_long': Shape(1, 65536, 1, 16, 16),
    'unaligned': Shape(1, 17, 9, 60, 64),  # on a TPU no group of heads fills whole rows of lanes
    'unaligned_groups': Shape(2, 37, 6, 96, 96),  # the same, and more heads than fill them: two blocks of four and two
    'state_space': Shape(2, 37, 2, 128, 64),  # of Mamba-2: on a TPU two heads share lanes of values, and none of keys
    'digits': Shape(128, 25, 2, 16, 32, timed=True),
    'vig_small_224': Shape(32, 196, 6, 32, 64, timed=True),
    'vig_small_448': Shape(8, 784, 6, 32, 64, timed=True),
    'language_2k': Shape(1, 2048, 4, 64, 128, timed=True),
    'language_4k': Shape(1, 4096, 4, 64, 128, timed=True),
}
