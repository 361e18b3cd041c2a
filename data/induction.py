"""Induction heads: a word that comes twice, and after the second time what followed the first one is wanted.

Fu et al., 2023, "Hungry Hungry Hippos", https://arxiv.org/abs/2212.14052, section 3.1, after Olsson et al., 2022,
https://arxiv.org/abs/2209.11895. Mamba (https://arxiv.org/abs/2312.00752, section 4.1.2) trains on sequences of 256
words, of which there are 16, and is asked in sequences of up to 2^20. No code was taken.

    words   3 5 0 9 7 1 4 0
    label   . . . . . . . 9

Word 0 is the one that comes twice: at a random place of the first half, and at the end.
"""

from __future__ import annotations

import numpy as np

IGNORED = -100

Arrays = dict[str, np.ndarray]


def induction(*, vocabulary: int, examples: int, length: int, seed: int) -> Arrays:
    """Makes a data set.

    Args:
        vocabulary: number of words, with word 0.
        examples: number of sequences N.
        length: words of each, T.
        seed: of the draws.

    Returns:
        words int32 (N, T); label int32 (N, T), the wanted word at the last place and `IGNORED` elsewhere.

    Raises:
        ValueError: there are fewer than 2 words or than 4 places.
    """
    if vocabulary < 2 or length < 4:
        raise ValueError(
            f'vocabulary is {vocabulary} and length {length}: use at least 2 words, and 4 places for a word that comes '
            'twice.'
        )
    draws = np.random.default_rng(seed)
    words = draws.integers(1, vocabulary, (examples, length), dtype=np.int32)
    place, rows = draws.integers(0, length // 2, examples), np.arange(examples)
    words[rows, place], words[:, -1] = 0, 0
    label = np.full_like(words, IGNORED)
    label[:, -1] = words[rows, place + 1]
    return {'words': words, 'label': label}
