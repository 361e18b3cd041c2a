"""Multi-query associative recall (MQAR): pairs of a key and a value, and later the keys again, to be answered.

Arora et al., 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models",
https://arxiv.org/abs/2312.04927. Reference: https://github.com/HazyResearch/zoology (Apache-2.0), commit d88d6f5,
zoology/data/multiquery_ar.py; read for facts, no code was taken. The same seed gives the reference's numbers: its draws
are NumPy's legacy ones, whose stream does not change, and those of its filler are a Mersenne twister's, too.

    words   5 80 9 77  9  0  0  0  5  0
    label   . .  . .  77  .  .  .  80 .

Keys are words 1 .. V/2 - 1 and values V/2 .. V - 1. How far behind the pairs a key comes again follows a power law.
Where we differ: one pass over the pairs only (with more the reference fails), and the filler has a seed of its own.
"""

from __future__ import annotations

import numpy as np

IGNORED = -100

Arrays = dict[str, np.ndarray]


def mqar(
    *,
    vocabulary: int,
    examples: int,
    length: int,
    pairs: int,
    seed: int,
    power: float = 0.01,
    filler_seed: int | None = None,
) -> Arrays:
    """Makes a data set.

    Args:
        vocabulary: number of words V.
        examples: number of sequences N.
        length: words of each, an even number T.
        pairs: keys with values in each.
        seed: 0 <= seed < 2**32.
        power: of the law of distances: p(i) ~ i ** (power - 1); 1 is uniform.
        filler_seed: what is neither key, value nor question is a word at random where this is given (what the
            reference does by default, from torch's generator with this seed), and word 0 otherwise.

    Returns:
        words int32 (N, T); label int32 (N, T), the value at each question and `IGNORED` elsewhere.

    Raises:
        ValueError: the numbers do not fit each other.
    """
    _check(vocabulary, length, pairs)
    draws = np.random.RandomState(seed)
    half, context = vocabulary // 2, 2 * pairs
    keys = _chosen(draws, np.arange(1, half), examples, pairs)
    values = _chosen(draws, np.arange(half, vocabulary), examples, pairs)
    space = (length - context) // 2
    law = np.arange(1, space + 1) ** (power - 1)
    gaps = _chosen(draws, np.arange(space), examples, pairs, law / law.sum())
    words = np.zeros((examples, length), np.int32)
    words[:, 0:context:2], words[:, 1:context:2] = keys, values
    label = np.full((examples, length), IGNORED, np.int32)
    np.put_along_axis(words, context + 2 * gaps, keys, axis=1)
    np.put_along_axis(label, context + 2 * gaps, values, axis=1)
    if filler_seed is not None:
        filler = np.random.RandomState(filler_seed).randint(0, 2**32, words.shape, np.uint32)
        words = np.where(words == 0, (filler % np.uint32(vocabulary)).astype(np.int32), words)
    return {'words': words, 'label': label}


def segment_seeds(seed: int, train: int = 1, test: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the reference's seeds of so many parts of the training and of the test set, for a run's seed."""
    draws = np.random.RandomState(seed)
    return draws.randint(0, 2**31, train), draws.randint(2**31, 2**32, test)


def _chosen(
    draws: np.random.RandomState,
    words: np.ndarray,
    examples: int,
    count: int,
    law: np.ndarray | None = None,
) -> np.ndarray:
    """`count` of `words` without repetition for each example, int (examples, count)."""
    chosen = [draws.choice(words, count, replace=False, p=law) for _ in range(examples)]
    return np.array(chosen).reshape(examples, count)


def _check(vocabulary: int, length: int, pairs: int) -> None:
    if length % 2 or vocabulary <= length:
        raise ValueError(
            f'length is {length} and vocabulary {vocabulary}: the length must be even, and the '
            'vocabulary larger than it.'
        )
    if 4 * pairs > length:
        raise ValueError(
            f'{pairs} pairs and their questions need {4 * pairs} words and length is {length}: '
            'lower pairs or raise length.'
        )
