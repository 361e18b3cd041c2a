"""Texts as bytes in one of two grammars, which differ only in marks that are far apart.

A text is made of words of random letters, some of them in brackets of one of four kinds. One bracket opens in the first
tenth of the text and closes in the last: with its own mark in texts of label 1, and with another in those of label 0.
Nothing nearby tells: all kinds are equally likely at both ends, whatever the label, and the brackets around single
words always agree. The task is ours, in place of the films' reviews that Tay et al., 2020, "Long Range Arena",
https://arxiv.org/abs/2011.04006, classify by their bytes.

    ab{cde fghi[jk]lmn op}qr    label 1
    ab{cde fghi[jk]lmn op>qr    label 0
"""

from __future__ import annotations

import functools

import numpy as np

from longview.data.drawn import Arrays, drawn

# Words are bytes of ASCII; byte 0 is padding.
VOCABULARY = 128
OPENING, CLOSING = (np.frombuffer(marks, np.uint8) for marks in (b'([{<', b')]}>'))
_SPACE, _A, _LETTERS = ord(' '), ord('a'), 26
_LONGEST_WORD, _BRACKETED = 8, 0.2
# A tenth of the shortest text holds two whole words, so there is a place for a mark.
SHORTEST = 10 * 2 * (_LONGEST_WORD + 1)


def marks(*, split: str, examples: int, lengths: tuple[int, int] = (1000, 2000), seed: int = 0) -> Arrays:
    """Makes a split, in which both labels are equally likely.

    Args:
        split: 'train', 'validation' or 'test'.
        examples: number of texts N.
        lengths: bytes of the shortest and of the longest text, T.
        seed: 0 <= seed < 2**32.

    Returns:
        words int32 (N, T), below `VOCABULARY`; words_valid bool (N, T), False in the padding; label int32 (N,).

    Raises:
        ValueError: texts are too short, or there is no such split.
    """
    if not SHORTEST <= lengths[0] <= lengths[1]:
        raise ValueError(f'lengths is {lengths}: use at least {SHORTEST} bytes, and the longest length last.')
    return drawn(functools.partial(_text, lengths=lengths), key='words', split=split, examples=examples, seed=seed)


def _text(draws: np.random.RandomState, lengths: tuple[int, int]) -> Arrays:
    label, length = draws.randint(2), draws.randint(lengths[0], lengths[1] + 1)
    text = _A + draws.randint(_LETTERS, size=length)
    spaces = np.cumsum(1 + draws.randint(1, _LONGEST_WORD + 1, size=length))
    spaces = spaces[spaces < length]
    text[spaces] = _SPACE
    first = draws.choice(np.flatnonzero(spaces < length // 10))
    last = draws.choice(np.flatnonzero(spaces >= length - length // 10))
    opening = draws.randint(4)
    closing = opening if label else (opening + draws.randint(1, 4)) % 4
    # Every other word may be bracketed, so that no two of them want the same space.
    words = np.arange(0, len(spaces) - 1, 2)
    words = words[draws.random_sample(len(words)) < _BRACKETED]
    words = words[~np.isin(words, (first, last)) & ~np.isin(words + 1, (first, last))]
    kinds = draws.randint(4, size=len(words))
    text[spaces[words]], text[spaces[words + 1]] = OPENING[kinds], CLOSING[kinds]
    text[spaces[first]], text[spaces[last]] = OPENING[opening], CLOSING[closing]
    padded = np.zeros(lengths[1], np.int32)
    padded[:length] = text
    return {'words': padded, 'words_valid': padded > 0, 'label': np.int32(label)}
