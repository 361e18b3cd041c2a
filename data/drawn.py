"""Examples that are drawn one by one: each is a function of seed, split and number, and no split has one of another.

An example belongs to the split that a checksum of its content says, and one that belongs elsewhere is drawn anew: so
splits share nothing whatever their seeds are. The draws are NumPy's legacy ones, whose stream does not change.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

SPLITS = ('train', 'validation', 'test')
# Of so many examples one belongs to each of the other splits, and the rest to the one to train on.
_SHARES = 10

Arrays = dict[str, np.ndarray]


def drawn(
    one: Callable[[np.random.RandomState], Arrays | None], *, key: str, split: str, examples: int, seed: int
) -> Arrays:
    """Makes a split; fewer examples are the first of more.

    Args:
        one: draws an example, or returns None where it comes to nothing; it is then called again.
        key: the column that tells examples apart.
        split: one of `SPLITS`.
        examples: how many.
        seed: 0 <= seed < 2**32.

    Returns:
        The columns of all examples, with the example on the first axis.

    Raises:
        ValueError: there is no such split, or no example.
    """
    if split not in SPLITS:
        raise ValueError(f'There is no split {split!r}: use one of {", ".join(SPLITS)}.')
    if examples < 1:
        raise ValueError(f'examples is {examples}: draw at least 1.')
    rows = [_row(one, key, split, np.random.RandomState([seed, index])) for index in range(examples)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _row(
    one: Callable[[np.random.RandomState], Arrays | None], key: str, split: str, draws: np.random.RandomState
) -> Arrays:
    while True:
        row = one(draws)
        if row is not None and _split_of(row[key]) == split:
            return row


def _split_of(content: np.ndarray) -> str:
    share = zlib.crc32(content.tobytes()) % _SHARES
    return {1: 'validation', 2: 'test'}.get(share, 'train')
