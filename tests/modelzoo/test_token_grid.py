"""Neighbourhoods on a grid of tokens, against loops over tokens."""

import jax
import numpy as np
import pytest

from longview.modelzoo.layers import token_grid
from tests.modelzoo.tiny import jit

HEIGHT, WIDTH, CHANNELS = 4, 5, 3


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def neighbours(side: int, dilation: int) -> np.ndarray:
    """Returns which token (a row of ones and zeros) each token sees as its n-th neighbour; none outside."""
    seen = np.zeros((HEIGHT, WIDTH, side * side, HEIGHT, WIDTH), np.float32)
    offsets = [(row, column) for row in range(side) for column in range(side)]
    for place in np.ndindex(HEIGHT, WIDTH):
        for index, offset in enumerate(offsets):
            row, column = np.array(place) + (np.array(offset) - side // 2) * dilation
            if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                seen[(*place, index, row, column)] = 1
    return seen


@pytest.mark.parametrize('side, dilation', [(3, 1), (3, 2), (5, 1)])
def test_scores_and_mixtures_are_those_of_a_loop(side, dilation):
    seen = neighbours(side, dilation)
    q, k, v = (tokens(seed, 2, HEIGHT, WIDTH, CHANNELS) for seed in range(3))
    weights = tokens(3, 2, HEIGHT, WIDTH, side * side)
    run = jit(lambda *a: (token_grid.scores(*a[:2], side, dilation), token_grid.mix(*a[2:], side, dilation)))
    scores, mixed = jax.device_get(run(q, k, weights, v))
    outside = seen.sum((3, 4)) == 0
    np.testing.assert_array_equal(token_grid.inside((HEIGHT, WIDTH), side, dilation), ~outside)
    np.testing.assert_allclose(scores, np.einsum('bhwc,hwnij,bijc->bhwn', q, seen, k), atol=1e-5)
    np.testing.assert_allclose(mixed, np.einsum('bhwn,hwnij,bijc->bhwc', weights, seen, v), atol=1e-5)


def test_fold_is_the_transpose_of_unfold():
    seen, x = neighbours(3, 1), tokens(0, 2, HEIGHT, WIDTH, CHANNELS)
    parts = tokens(1, 2, HEIGHT, WIDTH, 9, CHANNELS)
    unfolded, folded = jax.device_get(jit(lambda x, parts: (token_grid.unfold(x), token_grid.fold(parts)))(x, parts))
    np.testing.assert_allclose(unfolded, np.einsum('hwnij,bijc->bhwnc', seen, x), atol=1e-6)
    np.testing.assert_allclose(folded, np.einsum('hwnij,bhwnc->bijc', seen, parts), atol=1e-5)


@pytest.mark.parametrize('side, dilation', [(3, 1), (3, 2)])
def test_gradients_are_those_of_the_loop(side, dilation):
    seen = neighbours(side, dilation)
    q, k, v, dy = (tokens(seed, 2, HEIGHT, WIDTH, CHANNELS) for seed in range(4))
    weights, ds = (tokens(seed, 2, HEIGHT, WIDTH, side * side) for seed in (4, 5))

    def pulled(q, k, ds, weights, v, dy):
        back = lambda function, *a: jax.vjp(lambda *a: function(*a, side, dilation), *a[:2])[1](a[2])
        return *back(token_grid.scores, q, k, ds), *back(token_grid.mix, weights, v, dy)

    ours = jax.device_get(jit(pulled)(q, k, ds, weights, v, dy))
    wanted = (
        np.einsum('bhwn,hwnij,bijc->bhwc', ds, seen, k),
        np.einsum('bhwn,hwnij,bhwc->bijc', ds, seen, q),
        np.einsum('bhwc,hwnij,bijc->bhwn', dy, seen, v),
        np.einsum('bhwn,hwnij,bhwc->bijc', weights, seen, dy),
    )
    for one, other in zip(ours, wanted):
        np.testing.assert_allclose(one, other, atol=1e-5)
