"""Counter-based randomness for the host: draws and orders that are functions of (seed, epoch,
index) alone.

Philox4x32-10, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011,
https://doi.org/10.1145/2063384.2063405. NumPy has a Philox too, but one generator per example costs
more than a batch of small images, and the streams behind NumPy's `Generator` methods may change
between versions (NEP 19). Here the words are computed for a whole batch at once and turned into
numbers by rules written in this file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

# Second word of the key: one use never sees the words of another.
AUGMENT, ORDER, SEED = 0, 1, 2

_MULTIPLY = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox4x32.

    Args:
        counter: uint64 (..., 4), each value below 2**32.
        key: two numbers below 2**32.

    Returns:
        Random words, uint64 (..., 4), each below 2**32.
    """
    a, b, c, d = np.moveaxis(counter.astype(np.uint64), -1, 0)
    for turn in range(10):
        k0, k1 = (np.uint64((word + turn * step) & 0xFFFFFFFF) for word, step in zip(key, _WEYL))
        first, second = a * _MULTIPLY[0], c * _MULTIPLY[1]
        a, b, c, d = (
            (second >> _HALF) ^ b ^ k0,
            second & _LOW,
            (first >> _HALF) ^ d ^ k1,
            first & _LOW,
        )
    return np.stack([a, b, c, d], axis=-1)


def uniforms(seed: int, epoch: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Draws for the augmentation of each example.

    Args:
        seed: the run's seed, 0 <= seed < 2**32.
        epoch: int (B,), how often the example was seen before.
        index: int (B,), its position in the split.
        count: draws per example.

    Returns:
        float64 (B, count), multiples of 2**-32 in [0, 1).
    """
    counter = np.zeros((len(index), -(-count // 4), 4), np.uint64)
    counter[..., 0] = np.arange(counter.shape[1])
    counter[..., 1] = np.asarray(index)[:, None]
    counter[..., 2] = np.asarray(epoch)[:, None]
    words = philox(counter, (seed, AUGMENT))
    return words.reshape(len(index), -1)[:, :count] * 2.0**-32


@functools.lru_cache(maxsize=1024)
def derived(seed: int, number: int) -> int:
    """The seed of the part of that number, below 2**32, whose orders and draws are not those of the whole."""
    return int(philox(np.array([number, 0, 0, 0]), (seed, SEED))[0])


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """An epoch's order, int64 (size,), read-only: examples sorted by 64 random bits each."""
    return _orders(seed, size)(epoch)


@functools.lru_cache(maxsize=64)
def _orders(seed: int, size: int) -> Callable[[int], np.ndarray]:
    """Epoch -> its order; the last two of each stream are kept, which is what batches of a mixture straddle."""

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        (found,) = permutations(seed, np.array([epoch]), size)
        found.flags.writeable = False
        return found

    return order


def permutations(seed: int, epochs: np.ndarray, size: int) -> np.ndarray:
    """The orders of several epochs at once, int64 (epochs, size), each as `permutation` has it."""
    counter = np.zeros((len(epochs), size, 4), np.uint64)
    counter[..., 1] = np.arange(size)
    counter[..., 2] = epochs[:, None]
    words = philox(counter, (seed, ORDER))
    return np.argsort((words[..., 0] << _HALF) | words[..., 1], kind='stable', axis=-1)


def stream(seed: int, start: int, stop: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Places [start, stop) of the endless stream of shuffled epochs.

    The stream is epoch 0's permutation of the `size` examples, then epoch 1's, and so on: every
    example appears exactly once per epoch, and a batch may straddle two epochs. Costs the
    permutations of the epochs touched, wherever it starts.

    Returns:
        (epoch, index), each int64 (stop - start,).
    """
    position = np.arange(start, stop)
    epoch, place = np.divmod(position, size)
    index = np.empty_like(place)
    for one in np.unique(epoch):
        index[epoch == one] = permutation(seed, int(one), size)[place[epoch == one]]
    return epoch, index
