"""Kernels of long convolutions: compared with the papers' equations, their initial values, and their errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weights
from longview.modelzoo.layers.mixers import diagonal_ssm, hyena
from longview.modelzoo.sequence import long_conv, sgconv
from tests.modelzoo.tiny import filled, jit


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('length', [1, 2, 9, 23])
def test_powers_are_those_of_the_exponent(length):
    rng = np.random.default_rng(0)
    exponent = -rng.uniform(0.01, 1, (3, 4)) + 1j * rng.normal(size=(3, 4))
    C = rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))
    wanted = 2 * np.einsum('dn,dnt->td', C, np.exp(exponent[..., None] * np.arange(length))).real
    powers_sum = jit(diagonal_ssm.powers_sum, static_argnums=2)
    ours = powers_sum(exponent.astype(np.complex64), C.astype(np.complex64), length)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_a_band_is_stretched_by_lines_between_the_middles_of_its_taps():
    taps = np.array([0.0, 4.0, 2.0], np.float32)[:, None, None]
    stretched = jit(sgconv.stretched, static_argnums=1)
    np.testing.assert_allclose(stretched(taps, 2).ravel(), [0, 1, 3, 3.5, 2.5, 2], atol=1e-6)
    np.testing.assert_array_equal(stretched(taps, 1), taps)
    np.testing.assert_array_equal(stretched(taps[:1] + 3, 4).ravel(), [3, 3, 3, 3])


def test_sgconv_is_divided_by_the_length_it_had_at_the_start_and_has_no_gradient_through_it():
    mixer = sgconv.SGConv(places=8, band=2)
    x = jnp.asarray(noise(1, 8, 3))
    variables = jax.device_get(dict(jit(mixer.init)(jax.random.key(1), x)))
    bands = variables['params']
    assert sorted(bands) == ['D', 'band0', 'band1', 'band2', 'out']
    stretched = jit(sgconv.stretched, static_argnums=1)
    kernel = np.concatenate(
        [2.0 ** (2 - i) * np.asarray(stretched(bands[f'band{i}']['kernel'], n)) for i, n in enumerate((1, 1, 2))]
    )
    length = variables['constants']['length']
    np.testing.assert_allclose(length[0], np.linalg.norm(kernel[..., 0], axis=0), rtol=1e-5)
    weights.load_published(
        sgconv.MIXER_NAMES,
        weights.merge(variables),
        {
            **weights.to_published(sgconv.MIXER_NAMES, weights.merge(variables)),
            'multiplier': np.ones((1, 3, 1)),
            'kernel_norm_initialized': np.ones(()),
        },
    )
    doubled = jax.tree.map(lambda leaf: 2 * leaf, {name: bands[name] for name in ('band0', 'band1', 'band2')})
    with_D = {
        **variables,
        'params': {**bands, 'D': jnp.zeros((1, 3)), 'out': {'kernel': jnp.eye(3), 'bias': jnp.zeros(3)}},
    }
    run = jit(lambda change: mixer.apply({**with_D, 'params': with_D['params'] | change}, 1e-3 * x))
    once, twice = run({name: bands[name] for name in doubled}), run(doubled)
    np.testing.assert_allclose(twice, 2 * once, rtol=0.02, atol=1e-6)


def test_small_taps_are_zero_after_smoothing():
    squashed = jit(functools.partial(long_conv.squashed, smooth=3, squash=1.0))
    taps = np.asarray(squashed(np.array([0.0, 6.0, 3.0, -3.0, -6.0], np.float32)[:, None, None]))
    np.testing.assert_allclose(taps[:, 0, 0], [1, 2, 1, -1, -2], atol=1e-6)


def test_initial_taps_decay_faster_in_later_channels():
    taps = abs(np.asarray(jit(long_conv.decaying, static_argnums=1)(jax.random.key(0), (400, 64, 1))))[..., 0]
    early, late = taps[:40].mean(0), taps[-40:].mean(0)
    assert late[:8].mean() / early[:8].mean() > 0.2 and late[-8:].mean() / early[-8:].mean() < 1e-3


def test_places_have_a_clock_and_waves():
    found = np.asarray(jit(hyena.waves, static_argnums=1)(jax.random.key(0), (1, 8, 5)))[0]
    np.testing.assert_allclose(found[:, 0], np.linspace(0, 1, 8), rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], np.cos(2 * np.pi * np.arange(8) / 8), atol=1e-6)
    np.testing.assert_allclose(found[:, 4], -np.sin(2 * np.pi * np.arange(8) / 8), atol=1e-6)


def test_what_looks_ahead_cannot_read_element_by_element():
    for name in ('long_conv_example', 'sgconv_example'):
        model = modelzoo.create_model(name)
        with pytest.raises(NotImplementedError, match='with bidirectional=True sees what comes after'):
            model.apply({}, 1, method='init_state')


def test_a_second_kernel_sees_ahead_and_the_first_does_not():
    x = noise(1, 6, 4)
    pair = np.concatenate([x, x + np.eye(6, dtype=np.float32)[4][None, :, None]])
    for bidirectional in (False, True):
        module = long_conv.LongConv(places=6, squash=0.0, bidirectional=bidirectional)
        one, other = np.asarray(jit(module.apply)(filled(module, pair), pair))
        changed = abs(one - other).max(1) > 1e-3
        assert changed[4:].all() and changed[:4].all() == bidirectional and changed[:4].any() == bidirectional


def test_hyena_refuses_what_is_longer_than_its_positions():
    with pytest.raises(ValueError, match='a sequence of 9 is longer than the 8 places that Hyena has positions for'):
        jax.eval_shape(hyena.Hyena(places=8).init, jax.random.key(0), jnp.zeros((1, 9, 4)))
