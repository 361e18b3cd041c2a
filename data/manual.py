"""The reference pages of Python's manual as a text to be continued, byte by byte: it is installed with Python.

The text is what `help('while')` and the other topics of `pydoc` show (the package pydoc_data, PSF licence), topic by
topic in the order of their names; a paragraph that several topics share comes once. It is NOT the same in all versions
of Python: 3.11.7 has 373 thousand characters, and losses of different versions are not to be compared.
"""

from __future__ import annotations

import numpy as np

SPLITS = ('train', 'validation', 'test')
# Words are bytes of ASCII; what has no place there is written as a question mark.
VOCABULARY = 128
# Of ten paragraphs in a row, the last is for tests and the one before it for validation.
_SHARES = 10
_BREAK = '\n\n'

Arrays = dict[str, np.ndarray]


def manual(*, split: str, length: int) -> Arrays:
    """Makes a split, of the paragraphs that belong to it, one after another.

    Args:
        split: 'train', 'validation' or 'test'.
        length: bytes of a sequence, T; what is left at the end of the text is dropped.

    Returns:
        words int32 (N, T), bytes; label int32 (N, T), the byte that follows each of them.

    Raises:
        ValueError: there is no such split, or its text is shorter than a sequence.
    """
    if split not in SPLITS:
        raise ValueError(f'The manual has no split {split!r}: use one of {", ".join(SPLITS)}.')
    text = np.frombuffer(_BREAK.join(_split(split)).encode('ascii'), np.uint8).astype(np.int32)
    count = (len(text) - 1) // length if length > 0 else 0
    if count < 1:
        raise ValueError(f'length is {length}: use 1 to {len(text) - 1} bytes, which the split {split!r} has.')
    cut = lambda part: part[: count * length].reshape(count, length)
    return {'words': cut(text[:-1]), 'label': cut(text[1:])}


def _split(split: str) -> list[str]:
    paragraphs = _paragraphs()
    place = np.arange(len(paragraphs)) % _SHARES
    kind = np.maximum(place - (_SHARES - len(SPLITS)), 0)
    return [paragraphs[row] for row in np.flatnonzero(kind == SPLITS.index(split))]


def _paragraphs() -> list[str]:
    from pydoc_data.topics import topics  # half a million characters, needed only here

    texts = (topics[name].strip().encode('ascii', 'replace').decode('ascii') for name in sorted(topics))
    return list(dict.fromkeys(part for text in texts for part in text.split(_BREAK) if part.strip()))
