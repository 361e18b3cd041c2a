"""Named shapes of the long convolution: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, T, D and the taps K as in `kernels.long_conv`; benchmarks run the shapes marked `timed`."""

    batch: int
    tokens: int
    channels: int
    taps: int
    timed: bool = False


SHAPES = {
    'one_token': Shape(2, 1, 3, 1),
    'two_tokens': Shape(1, 2, 4, 2),
    'odd': Shape(3, 63, 5, 63),
    'prime': Shape(2, 127, 4, 127),
    'partial': Shape(2, 100, 3, 7),
    'longer': Shape(2, 40, 3, 57),  # more taps than tokens
    'long': Shape(2, 1000, 2, 1000),
    'levels': Shape(1, 1100, 2, 1100),  # three levels, with the least vector memory
    'power': Shape(2, 4096, 2, 4096),
    'behind_power': Shape(1, 4097, 2, 4097),
    'path_x': Shape(1, 14113, 1, 14113),
    'longest': Shape(1, 65536, 1, 65536),
    'mesh': Shape(8, 48, 8, 48),
    'language_1k': Shape(4, 1024, 64, 1024, timed=True),
    'language_4k': Shape(4, 4096, 64, 4096, timed=True),
    'language_16k': Shape(4, 16384, 64, 16384, timed=True),
}
