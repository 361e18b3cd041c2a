"""S4: taps by doubling are those of the recurrence, which no power of its matrix can make grow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.mixers import dplr_ssm
from longview.modelzoo.sequence.s4 import S4
from tests.modelzoo.tiny import jit

D, M = 3, 4


@functools.cache
def space() -> dplr_ssm.Space:
    """State spaces with large steps, poles near 0, and a term of rank 1 as large as the poles."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=(*shape, 2)) @ [1, 1j], jnp.complex64)
    poles = -0.01 + 1j * normal(D, M).imag
    make = jit(lambda *parts: dplr_ssm.discrete(*parts, jnp.asarray([0.01, 0.3, 3.0])))
    return make(poles, 2 * normal(D, M), normal(D, M), normal(2, D, M))


def test_taps_of_any_number_are_powers_of_the_matrix():
    step, enter, leave = (part.astype(np.float64) for part in jax.device_get(space()))
    state, wanted = enter, []
    for _ in range(130):
        wanted.append(np.einsum('sdn,dn->sd', leave, state))
        state = np.einsum('dnm,dm->dn', step, state)
    wanted = np.stack(wanted, axis=1)
    for found in jax.device_get(jit(lambda: [dplr_ssm.taps(space(), length) for length in (1, 2, 7, 130)])()):
        np.testing.assert_allclose(found, wanted[:, : found.shape[1]], atol=1e-5 * np.abs(wanted).max())


def test_no_power_of_the_matrix_makes_a_state_longer():
    step, enter, leave = jax.device_get(space())
    assert np.linalg.norm(step.astype(np.float64), ord=2, axis=(1, 2)).max() < 1 + 1e-6
    found = np.abs(jax.device_get(jit(lambda: dplr_ssm.taps(space(), 2**15))()))
    largest = (np.linalg.norm(leave, axis=-1) * np.linalg.norm(enter, axis=-1)).max()
    assert found.max() <= largest and found[:, -100:].max() < found[:, :100].max()


def test_hippo_has_the_poles_of_its_triangular_matrix():
    poles, P, B = dplr_ssm.hippo(8)
    both = lambda x: np.concatenate([x, x.conj()])
    whole = np.diag(both(poles)) - np.outer(both(P), both(P).conj())
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(whole).real), -np.arange(8.0, 0, -1), rtol=1e-6)
    wanted = np.sum(np.sqrt((np.arange(8) + 0.5) * (2 * np.arange(8) + 1)))  # P and B before their change of basis
    np.testing.assert_allclose(2 * (P.conj() @ B).real, wanted, rtol=1e-6)


def test_a_sequence_read_in_parts_of_any_length_gives_what_the_whole_gives():
    layer = S4(states=4, kernels=2, spaces=3, gate=2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 134, 6)), jnp.float32)

    @jit
    def run():
        variables = layer.init(jax.random.key(0), x)
        state, parts = layer.apply(variables, 2, 6, method='init_state'), []
        for part in (x[:, :131], x[:, 131:133], x[:, 133:]):
            y, state = layer.apply(variables, part, state, method='extend')
            parts.append(y)
        return layer.apply(variables, x), jnp.concatenate(parts, axis=1), variables['params']

    whole, parts, params = jax.device_get(run())
    np.testing.assert_allclose(parts, whole, atol=2e-5 * np.abs(whole).max())
    assert params['P'].shape == (1, 3, 2, 2) and params['C'].shape == (2, 6, 2, 2) and params['D'].shape == (2, 6)


def test_what_cannot_be_is_refused():
    x = jnp.zeros((1, 4, 6))
    with pytest.raises(ValueError, match='S4 has states=3, spaces=None and 6 channels: use an even number'):
        S4(states=3).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match='spaces=4 and 6 channels'):
        S4(spaces=4).init(jax.random.key(0), x)
    with pytest.raises(NotImplementedError, match='S4 with bidirectional=True sees what comes after'):
        S4(bidirectional=True).init_state(1, 6)
