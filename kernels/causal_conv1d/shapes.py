"""Named shapes of the causal convolution: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, T, D and the taps K as in `kernels.causal_conv1d`; benchmarks run the shapes marked `timed`."""

    batch: int
    tokens: int
    channels: int
    taps: int = 4
    timed: bool = False


SHAPES = {
    'one_token': Shape(2, 1, 6),
    'two_tokens': Shape(2, 2, 5),
    'odd': Shape(3, 63, 4),
    'prime': Shape(70, 127, 3, 3),  # more sequences than one block of the weight gradient has rows
    'one_tap': Shape(2, 5, 3, 1),
    'long': Shape(2, 1000, 5, 7),
    'power': Shape(1, 4096, 4),
    'behind_power': Shape(1, 4097, 3, 3),
    'path_x': Shape(1, 14113, 2),
    'longest': Shape(1, 65536, 2),
    'short': Shape(2, 8, 3, 7),  # split over devices, shards are shorter than what a token sees
    'mesh': Shape(8, 50, 8),
    'vision': Shape(8, 197, 384, timed=True),
    'language_2k': Shape(1, 2048, 768, timed=True),
    'language_16k': Shape(1, 16384, 256, timed=True),
}
