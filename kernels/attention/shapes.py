"""Named shapes of attention: one list for tests, benchmarks and tuning."""

from typing import NamedTuple


class Shape(NamedTuple):
    """B, T queries, S keys, H heads, G heads of keys and values, K and V channels a head, as in `kernels.attention`."""

    batch: int
    queries: int
    keys: int
    heads: int
    shared: int
    key_width: int
    value_width: int


SHAPES = {
    'one_token': Shape(2, 1, 1, 2, 2, 4, 4),
    'odd': Shape(2, 21, 21, 2, 2, 8, 6),
    'cross': Shape(2, 5, 33, 4, 4, 8, 8),
    'grouped': Shape(2, 17, 17, 6, 2, 8, 8),
    'one_shared': Shape(1, 9, 9, 4, 1, 8, 8),
    'mesh': Shape(8, 12, 12, 2, 2, 8, 8),
    'tpu': Shape(1, 300, 300, 4, 2, 64, 64),
    'vision': Shape(8, 197, 197, 6, 6, 64, 64),
    'language_2k': Shape(8, 2048, 2048, 12, 12, 64, 64),
}
