"""Codebooks: which code is chosen, where gradients go, and averages that microbatches do not change."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from longview.methods.ema import Ema
from longview.methods.generate import codebook as cb
from longview.methods.generate.codebook import CODEBOOK, Codebook, VectorQuantized
from longview.methods.task import chain, init_state, make_step
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.dense import Dense
from tests.modelzoo import tiny

RNG = jax.random.key(0)
DRAWS = np.random.default_rng(0)
BATCH = {
    'image': DRAWS.normal(size=(8, 4, 4, 1)).astype(np.float32),
    'epoch': np.zeros(8, np.int32),
    'index': np.arange(8, dtype=np.int32),
}
BATCH = jax.tree.map(jnp.asarray, BATCH)


class Encoder(nn.Module):
    """An image -> four vectors of two numbers."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return Conv(2, 2, 2, name='conv')(x)


class Decoder(nn.Module):
    """Four vectors -> an image."""

    @nn.compact
    def __call__(self, z, *, train=False):
        x = Dense(16, name='paint', kernel_init=nn.initializers.normal(0.5))(z.reshape(len(z), -1))
        return x.reshape(len(z), 4, 4, 1)


TASK = VectorQuantized(Encoder(), Decoder(), codes=6, weight_of_commitment=0.5, decay=0.8)


def test_the_nearest_code_is_chosen_and_gradients_pass_by_it():
    z, codes = DRAWS.normal(size=(2, 3, 4)).astype(np.float32), DRAWS.normal(size=(7, 4)).astype(np.float32)
    pulled = DRAWS.normal(size=z.shape).astype(np.float32)

    @tiny.jit
    def run(z, codes, pulled):
        index = cb.nearest(z, codes)
        through = lambda z, codes: jnp.sum(pulled * cb.straight_through(z, codes[index]))
        committed = lambda z, codes: cb.commitment(z, codes[index]).sum()
        grad = lambda loss: jax.grad(loss, (0, 1))(z, codes)
        return index, cb.straight_through(z, codes[index]), grad(through), grad(committed)

    index, quantized, through, committed = jax.device_get(run(z, codes, pulled))
    distances = ((z[..., None, :] - codes) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(index, distances.argmin(axis=-1))
    np.testing.assert_allclose(quantized, codes[index], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(through[0], pulled)
    np.testing.assert_allclose(committed[0], (z - codes[index]) / 2, rtol=1e-5, atol=1e-6)
    assert not through[1].any() and not committed[1].any()


def test_averages_move_as_in_the_paper_whatever_the_microbatches():
    """Two steps; those of four microbatches begin with the same codes, and count all that have chosen one."""
    task, tx = Ema(TASK, 0.5), optax.sgd(0.1)

    @tiny.jit
    def run():
        first = init_state(task, tx, RNG, BATCH, chain(()))
        step = lambda state, parts: make_step(task, tx, transform=chain(()), accumulate=parts)(state, BATCH, RNG)[0]
        second = step(first, 1)
        encoded = lambda state: Encoder().apply({'params': state.variables.params['encoder']}, BATCH['image'])
        return (first, second, step(second, 1)), step(second, 4), (encoded(first), encoded(second))

    states, parts, encoded = jax.device_get(run())
    assert int(states[-1].bad_step) == -1
    chex.assert_trees_all_close(states[-1], parts, rtol=1e-4, atol=1e-6)
    of = lambda state: state.variables.state['inner'][CODEBOOK]['codebook']
    codes = of(states[0])['codes']
    count, total = np.ones(6), codes.copy()
    for state, vectors in zip(states[1:], encoded):
        vectors = vectors.reshape(-1, 2)
        index = ((vectors[:, None] - codes) ** 2).sum(axis=-1).argmin(axis=1)
        chosen = np.eye(6)[index]
        count, total = 0.8 * count + 0.2 * chosen.sum(axis=0), 0.8 * total + 0.2 * chosen.T @ vectors
        codes = total / count[:, None]
        found = of(state)
        np.testing.assert_allclose(found['count'], count, rtol=1e-5)
        np.testing.assert_allclose(found['codes'], codes, rtol=1e-4, atol=1e-5)
        assert not found['new_count'].any() and not found['new_sum'].any()
    unused = np.setdiff1d(np.arange(6), index)
    assert 0 < len(unused) < 5


def test_a_code_that_nobody_chooses_stays_and_one_that_is_chosen_again_goes_where_it_is_chosen():
    averages = {'codes': np.float32([[1, 2], [3, 4]]), 'count': np.float32([0, 1e-30]), 'sum': np.zeros((2, 2))}
    averages |= {'new_count': np.float32([2, 0]), 'new_sum': np.float32([[6, 8], [0, 0]])}
    averages = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), averages)
    moved = jax.device_get(tiny.jit(lambda given: cb.moved(given, 0.9))(averages))
    np.testing.assert_allclose(moved['codes'], [[3, 4], [3, 4]], rtol=1e-6)


def test_losses_figures_and_networks():
    seen = BATCH | {'mask': jnp.arange(8) < 5, 'row': jnp.arange(8)}

    @tiny.jit
    def run():
        v = TASK.init(RNG, BATCH)
        parts = [
            TASK.measure(v, {name: x[rows] for name, x in seen.items()}, None, RNG) for rows in (slice(3), slice(3, 8))
        ]
        network = TASK.deployed(v)
        z = network['encoder'].module.apply(network['encoder'].variables, BATCH['image'])
        codes, index = network['codebook'].module.apply(network['codebook'].variables, z)
        pixels = network['decoder'].module.apply(network['decoder'].variables, codes)
        return parts, (z, codes, index, pixels), TASK.predict(v, BATCH), TASK.loss(v, seen, RNG, jnp.int32(0))[0]

    parts, (z, codes, index, pixels), predicted, loss = jax.device_get(run())
    image = np.asarray(BATCH['image'])
    error, committed = ((pixels - image) ** 2).mean(axis=(1, 2, 3)), ((z - codes) ** 2).mean(axis=(1, 2, 3))
    assert loss == pytest.approx((error + 0.5 * committed).mean(), rel=1e-5)
    np.testing.assert_allclose(predicted['pixels'], pixels, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predicted['index'], index)
    figures = TASK.figures(jax.tree.map(np.add, *parts), {})
    share = np.bincount(index[:5].ravel(), minlength=6) / 20
    assert figures['used'] == (share > 0).sum() > 1
    assert figures['perplexity'] == pytest.approx(np.exp(-sum(p * np.log(p) for p in share if p)), rel=1e-6)
    assert figures['error'] == pytest.approx(error[:5].mean(), rel=1e-5)
    assert list(TASK.figures(jax.tree.map(np.zeros_like, parts[0]), {})) == list(figures)
    shown = jax.eval_shape(lambda: TASK.pictures(TASK.init(RNG, BATCH), BATCH))
    assert {picture.shape for picture in shown.values()} == {(8, 128, 128, 3)}


def test_a_codebook_counts_in_training_only():
    book, z = Codebook(3), jnp.asarray(DRAWS.normal(size=(5, 2)), jnp.float32)

    @tiny.jit
    def run(z):
        v = book.init(RNG, z)
        return v, [book.apply(v, z, train=train, mutable=[CODEBOOK])[1] for train in (False, True)]

    v, (still, counted) = jax.device_get(run(z))
    chex.assert_trees_all_equal(v, still)
    assert counted[CODEBOOK]['new_count'].sum() == 5
