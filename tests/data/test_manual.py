"""Python's manual as a text: every byte is followed by the next one, and splits share no paragraph."""

import numpy as np
import pytest

from longview.data.manual import SPLITS, VOCABULARY, manual


def spelled(words: np.ndarray) -> str:
    return bytes(words.ravel().tolist()).decode('ascii')


@pytest.mark.quick
def test_the_label_of_a_byte_is_the_next_one():
    made = manual(split='train', length=256)
    assert made['words'].shape == made['label'].shape and made['words'].shape[1] == 256
    assert made['words'].dtype == made['label'].dtype == np.int32
    np.testing.assert_array_equal(made['words'].ravel()[1:], made['label'].ravel()[:-1])
    assert 0 < made['words'].min() and made['words'].max() < VOCABULARY
    # Versions of Python differ in the text, but not in what it is about.
    assert made['words'].size > 200_000 and 'The "while" statement' in ''.join(
        spelled(manual(split=split, length=100)['words']) for split in SPLITS
    )
    again = manual(split='train', length=256)
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_splits_share_no_paragraph():
    parts = {split: set(spelled(manual(split=split, length=1)['words']).split('\n\n')) for split in SPLITS}
    sizes = {split: len(part) for split, part in parts.items()}
    assert sizes['train'] > 6 * sizes['test'] and sizes['validation'] >= sizes['test'] > 100
    # The last paragraph of a split lacks its last byte, which is only a label.
    assert not parts['train'] & parts['validation'] and not (parts['train'] | parts['validation']) & parts['test']


def test_what_cannot_be_cut_is_refused_in_words():
    with pytest.raises(ValueError, match="no split 'eval': use one of train, validation, test"):
        manual(split='eval', length=8)
    for length in (0, 10**7):
        with pytest.raises(ValueError, match=f"length is {length}: use 1 to [0-9]+ bytes, which the split 'test' has"):
            manual(split='test', length=length)
