"""Named shapes of blocks: odd sides, widths that no tile divides, taps that reach over the image."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, H, W, C, channels of a group, expanded channels, and sides of the kernel."""

    batch: int
    height: int
    width: int
    channels: int
    group: int = 8
    expanded: int = 32
    rows: int = 3
    columns: int = 3


SHAPES = {
    'pixel': Shape(2, 1, 1, 8),
    'odd': Shape(3, 5, 7, 16, 8, 64),
    'band': Shape(2, 4, 9, 12, 4, 20, 1, 5),
    'depthwise': Shape(2, 6, 5, 6, 1, 10, 5, 3),
    'one_group': Shape(2, 3, 4, 6, 6, 9),
    'lanes': Shape(1, 9, 8, 256, 8, 600),  # two products of channels, two parts of the expanded ones
    'mesh': Shape(8, 5, 4, 16, 8, 32),
}
