"""Digits with captions: pictures of 8 x 12 pixels in which a digit stands left or right, bright or dark.

The digits are those of data/digits.py, with the same test split. A caption is one of a few sentences that name the
digit and, some of them, how it is shown:

    a photo of the digit seven        a dark seven on the left

The vocabulary is closed, and each text ends with the word `END`. The same arguments give the same arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longview.data.digits import arrays

NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
LIGHTS = ('bright', 'dark')
SIDES = ('left', 'right')
# The first ones name the digit alone.
SENTENCES = (
    'a photo of the digit {number}',
    'this is the number {number}',
    'a {light} photo of the number {number}',
    'the digit {number} is on the {side}',
    'a {light} {number} on the {side}',
)
_NAMING = SENTENCES[:2]
END = '<end>'
_PLACES = 1 + max(len(sentence.split()) for sentence in SENTENCES)
_SPOKEN = {word for sentence in SENTENCES for word in sentence.split() if not word.startswith('{')}
VOCABULARY = (END, *sorted(_SPOKEN), *NUMBERS, *LIGHTS, *SIDES)

Arrays = dict[str, np.ndarray]


def encode(texts: Sequence[str], places: int = _PLACES) -> Arrays:
    """Returns texts as words, each followed by `END`.

    Args:
        texts: N texts, words apart by spaces.
        places: T, the length that they are filled up to.

    Returns:
        words int32 (N, T), numbers in `VOCABULARY` and 0 as padding; words_valid bool (N, T).

    Raises:
        ValueError: a text has a word that is not in the vocabulary, or is too long.
    """
    numbers = {word: number for number, word in enumerate(VOCABULARY)}
    words, valid = np.zeros((len(texts), places), np.int32), np.zeros((len(texts), places), bool)
    for row, text in enumerate(texts):
        spoken = [*text.split(), END]
        unknown = [word for word in spoken if word not in numbers]
        if unknown:
            raise ValueError(f'{unknown[0]!r} in {text!r} is not in the vocabulary: use {", ".join(VOCABULARY)}.')
        if len(spoken) > places:
            raise ValueError(f'{text!r} has {len(spoken)} words, the end included, and places is {places}: raise it.')
        words[row, : len(spoken)], valid[row, : len(spoken)] = [numbers[word] for word in spoken], True
    return {'words': words, 'words_valid': valid}


def digits(*, test: bool = False, copies: int = 1, seed: int = 0) -> Arrays:
    """Makes a split.

    Args:
        test: the test split, 359 digits, or the one to train on, 1,438.
        copies: pictures of each digit; they differ in place and light.
        seed: of what is drawn, 0 <= seed < 2**32.

    Returns:
        image uint8 (N, 8, 12, 1); label int32 (N,); words and words_valid as of `encode`.
    """
    image, label = arrays(test)
    image, label = np.tile(image, (copies, 1, 1, 1)), np.tile(label, copies)
    draws = np.random.RandomState(seed)
    draw = lambda count: draws.randint(count, size=len(image))
    light, side, shift, sentence = draw(2), draw(2), draw(2), draw(len(SENTENCES))
    image = np.where(light[:, None, None, None] == 0, image, image // 2)
    canvas = np.zeros((len(image), 8, 12, 1), np.uint8)
    # Left is the column 0 or 1, right 3 or 4.
    columns = (3 * side + shift)[:, None, None] + np.arange(8)[None, None]
    canvas[np.arange(len(image))[:, None, None], np.arange(8)[None, :, None], columns] = image
    texts = [
        SENTENCES[s].format(number=NUMBERS[number], light=LIGHTS[bright], side=SIDES[where])
        for s, number, bright, where in zip(sentence, label, light, side)
    ]
    return {'image': canvas, 'label': label.astype(np.int32), **encode(texts)}


def prompts() -> Arrays:
    """Returns the captions of each digit that name only the digit: words and words_valid, (10, captions, T)."""
    texts = [sentence.format(number=number) for number in NUMBERS for sentence in _NAMING]
    return {name: array.reshape(len(NUMBERS), -1, array.shape[1]) for name, array in encode(texts).items()}
