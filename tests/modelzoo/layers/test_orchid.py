"""Orchid: what is made of a sequence does not change when it is rolled, and without it a kernel is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.mixers.orchid import Orchid
from tests.modelzoo.tiny import filled, jit

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 4)), jnp.float32)
SMALL = {'places': 9, 'hidden': 4, 'inner': 1}


@pytest.mark.parametrize('kind', ['magnitude', 'correlation', None])
def test_the_paper_s_form_rolls_with_its_sequence(kind):
    layer = Orchid(kind=kind, transform='fft', exact=True, **SMALL)
    rolled = jnp.stack([jnp.roll(X, steps, axis=1) for steps in range(9)])

    @jit
    def run():
        variables = filled(layer, X)
        return jax.vmap(lambda x: layer.apply(variables, x))(rolled)

    y = np.array(jax.device_get(run()))
    for steps in range(9):
        np.testing.assert_allclose(y[steps], np.roll(y[0], steps, axis=1), atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize('fields', [{'transform': 'dct'}, {'transform': 'fft'}, {'transform': 'fft', 'exact': True}])
def test_a_network_that_answers_nothing_leaves_the_fixed_kernel(fields):
    layer = Orchid(**SMALL, **fields)

    @jit
    def run():
        params = filled(layer, X)['params']
        silent = params | {'frequency_norm': jax.tree.map(jnp.zeros_like, params['frequency_norm'])}
        fixed = layer.clone(kind=None).apply({'params': params}, X)
        return layer.apply({'params': silent}, X), fixed, layer.apply({'params': params}, X)

    silent, fixed, made = jax.device_get(run())
    np.testing.assert_allclose(silent, fixed, atol=1e-6 * np.abs(fixed).max())
    assert np.abs(made - fixed).max() > 1e-3


def test_correlations_of_a_sequence_with_itself_have_a_positive_spectrum():
    spectrum = jnp.fft.rfft(X, axis=1)
    found = Orchid(kind='correlation', transform='fft', exact=True)._compared([spectrum, spectrum])
    np.testing.assert_allclose(found.imag, 0, atol=1e-5)
    assert found.real.min() >= 0


def test_what_cannot_be_is_refused():
    new = lambda **fields: Orchid(**SMALL | fields).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="Orchid with exact=True needs circular convolutions: use transform='fft'"):
        new(exact=True)
    with pytest.raises(ValueError, match='has no correlation of Fourier transforms: use exact=True'):
        new(kind='correlation', transform='fft')
    with pytest.raises(ValueError, match="Orchid has kind='power' and transform='dct': use one of magnitude"):
        new(kind='power')
    with pytest.raises(ValueError, match='a sequence of 9 is longer than the 8 places'):
        new(places=8)
    with pytest.raises(NotImplementedError, match='so it cannot read element by element: use it as an encoder'):
        Orchid().init_state(1, 4)
