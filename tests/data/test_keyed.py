"""Counter-based randomness: the published generator, and orders and draws made of it."""

import math

import numpy as np
import pytest

from longview.data import keyed


@pytest.mark.parametrize(
    ('counter', 'key', 'want'),
    [
        (
            '00000000 00000000 00000000 00000000',
            '00000000 00000000',
            '6627e8d5 e169c58d bc57ac4c 9b00dbd8',
        ),
        (
            'ffffffff ffffffff ffffffff ffffffff',
            'ffffffff ffffffff',
            '408f276d 41c83b0e a20bc7c6 6d5451fd',
        ),
        (
            '243f6a88 85a308d3 13198a2e 03707344',
            'a4093822 299f31d0',
            'd16cfe09 94fdcceb 5001e420 24126ea1',
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, want):
    words = [int(word, 16) for word in counter.split()]
    got = keyed.philox(np.array(words, np.uint64), tuple(int(word, 16) for word in key.split()))
    assert ' '.join(f'{int(word):08x}' for word in got) == want


def test_draws_are_uniform_and_belong_to_the_example():
    index = np.arange(5000)
    draws = keyed.uniforms(3, np.zeros_like(index), index, 23)
    assert draws.shape == (5000, 23) and draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    expected = draws.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi squared, 19 degrees: p < 1e-4
    assert abs(np.corrcoef(draws, rowvar=False) - np.eye(23)).max() < 4.5 / math.sqrt(5000)

    shuffled = np.random.default_rng(0).permutation(5000)[:100]
    again = keyed.uniforms(3, np.zeros(100, int), shuffled, 23)
    assert (again == draws[shuffled]).all()
    assert (keyed.uniforms(3, np.ones(100, int), shuffled, 23) != again).mean() > 0.99
    assert (keyed.uniforms(4, np.zeros(100, int), shuffled, 23) != again).mean() > 0.99
    assert (keyed.uniforms(3, np.zeros(100, int), shuffled, 5) == again[:, :5]).all()


def test_each_epoch_is_another_permutation():
    orders = [keyed.permutation(0, epoch, 1000) for epoch in range(3)] + [keyed.permutation(1, 0, 1000)]
    for order in orders:
        assert (np.sort(order) == np.arange(1000)).all()
    for k, order in enumerate(orders):
        for other in orders[:k]:
            assert (order == other).sum() < 12  # 1 is expected
    # Where an example stands says nothing of where it stands next.
    places = np.argsort(orders[0]), np.argsort(orders[1])
    assert abs(np.corrcoef(*places)[0, 1]) < 4.5 / math.sqrt(1000)
    assert abs(np.corrcoef(orders[0], np.arange(1000))[0, 1]) < 4.5 / math.sqrt(1000)


def test_the_examples_are_a_stream_that_can_be_entered_anywhere():
    epoch, index = keyed.stream(5, 0, 70, 30)
    assert (epoch == np.arange(70) // 30).all()
    assert (np.sort(index[:30]) == np.arange(30)).all() and (np.sort(index[30:60]) == np.arange(30)).all()
    for start, stop in ((0, 7), (25, 35), (20, 70), (69, 70)):
        part = keyed.stream(5, start, stop, 30)
        assert (part[0] == epoch[start:stop]).all() and (part[1] == index[start:stop]).all()
    far = keyed.stream(5, 30 * 10**9, 30 * 10**9 + 30, 30)
    assert (far[0] == 10**9).all() and (np.sort(far[1]) == np.arange(30)).all()


def test_orders_of_several_epochs_at_once_are_those_of_each():
    orders = keyed.permutations(5, np.array([7, 0, 2**20]), 40)
    assert [order.tolist() for order in orders] == [keyed.permutation(5, e, 40).tolist() for e in (7, 0, 2**20)]


def test_derived_seeds_differ_and_are_seeds():
    seeds = [keyed.derived(seed, number) for seed in (0, 1, 2**32 - 1) for number in range(100)]
    assert len(set(seeds)) == 300 and all(0 <= seed < 2**32 for seed in seeds)
