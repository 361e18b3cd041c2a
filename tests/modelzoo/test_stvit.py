"""STViT: how pixels are assigned to super tokens, what that lets through to the gradient, and limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention import window
from longview.modelzoo.vision import stvit
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes


@pytest.mark.parametrize('name', deep_ones_heavy(stvit.PUBLISHED))
def test_parameter_counts_are_published(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count / 1e6 - stvit.PUBLISHED[name].params) < 0.6  # whole millions


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def passing(width: int, heads: int) -> dict:
    """Parameters with which super tokens attend equally to all, and values and results are what comes in."""
    linear = lambda kernel: {'kernel': jnp.asarray(kernel)[None, None], 'bias': jnp.zeros(kernel.shape[1])}
    unit = np.eye(width, dtype=np.float32)
    values = np.stack([part.reshape(width, heads, -1) for part in (0 * unit, 0 * unit, unit)], axis=2)
    return {'qkv': linear(values.reshape(width, -1)), 'out': linear(unit)}


def slowly_mixed(x: np.ndarray, cell: int, steps: int) -> np.ndarray:
    """Returns what `passing` parameters make of an image, pixel by pixel."""
    height, width, channels = x.shape
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((rows * cell, columns * cell, channels))
    padded[:height, :width] = x
    tokens = padded.reshape(rows, cell, columns, cell, channels).mean((1, 3))
    around = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    inside = lambda row, column: 0 <= row < rows and 0 <= column < columns
    for _ in range(steps):
        shares, sums, total = {}, np.zeros(tokens.shape), np.full((rows, columns, 1), 1e-12)
        for row, column in np.ndindex(padded.shape[:2]):
            places = [(row // cell + down, column // cell + right) for down, right in around]
            logits = [padded[row, column] @ tokens[at] if inside(*at) else 0.0 for at in places]
            odds = np.exp(np.array(logits) * channels**-0.5)
            shares[row, column] = {at: odd / odds.sum() for at, odd in zip(places, odds) if inside(*at)}
            for at, share in shares[row, column].items():
                sums[at] += share * padded[row, column]
                total[at] += share
        tokens = sums / total
    mean = tokens.mean((0, 1))
    return np.array([[sum(shares[row, column].values()) * mean for column in range(width)] for row in range(height)])


@pytest.mark.parametrize('steps', [1, 2])
def test_pixels_are_assigned_and_read_back_as_in_a_loop(steps):
    x = normal(0, 1, 5, 8, 4)
    mixer = stvit.SuperTokenAttention(2, 2, steps)
    mixed = np.asarray(jit(mixer.apply)({'params': passing(4, heads=2)}, x))
    np.testing.assert_allclose(mixed[0], slowly_mixed(x[0], 2, steps), atol=1e-5)


def test_a_constant_comes_back_but_at_the_rim():
    value = normal(0, 4)
    x = np.broadcast_to(value, (1, 8, 8, 4))
    mixed = np.asarray(jit(stvit.SuperTokenAttention(1, 2).apply)({'params': passing(4, heads=1)}, x))[0]
    np.testing.assert_allclose(mixed[2:6, 2:6], x[0, 2:6, 2:6], rtol=1e-5)
    odds = np.exp(value @ value * 4**-0.5)  # of each super token inside, against 1 for each outside
    np.testing.assert_allclose(mixed[0, 0], value * 4 * odds / (4 * odds + 5), rtol=1e-5)
    np.testing.assert_allclose(mixed[0, 3], value * 6 * odds / (6 * odds + 3), rtol=1e-5)


def test_cells_of_a_pixel_are_attention_between_pixels():
    x = normal(0, 1, 3, 5, 4)
    mixer = stvit.SuperTokenAttention(2, 1)
    params = jax.device_get(filled(mixer, x))['params']
    linear = lambda x, layer: x @ layer['kernel'][0, 0] + layer['bias']
    q, k, v = np.moveaxis(linear(x[0].reshape(15, 4), params['qkv']).reshape(15, 2, 3, 2), 2, 0)
    odds = np.exp(np.einsum('nhk,mhk->hnm', q, k) * 2**-0.5)
    mixed = np.einsum('hnm,mhk->nhk', odds / odds.sum(-1, keepdims=True), v).reshape(3, 5, 4)
    wanted = linear(mixed, params['out'])
    np.testing.assert_allclose(jit(mixer.apply)({'params': params}, x)[0], wanted, atol=1e-5)


def test_shares_have_no_gradient(monkeypatch):
    x, mixer = normal(0, 1, 4, 6, 4), stvit.SuperTokenAttention(2, 2)
    variables = jax.device_get(filled(mixer, x))
    loss = lambda x: jnp.sum(jnp.sin(mixer.apply(variables, x)))
    ours = np.asarray(jit(jax.grad(loss))(x))
    shares = np.asarray(stvit.associate(window.partition(jnp.asarray(x), (2, 2)).reshape(1, 6, 4, 4), (2, 3)))
    monkeypatch.setattr(stvit, 'associate', lambda *_: jnp.asarray(shares))
    wanted = np.asarray(jit(jax.grad(lambda x: loss(x)))(x))
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
