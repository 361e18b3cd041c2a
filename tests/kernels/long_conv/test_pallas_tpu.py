"""The TPU kernels of the long convolution, interpreted: unwritten memory is NaN, races and out-of-bounds reads fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.long_conv import pallas_tpu
from tests.kernels import close, tpu
from tests.kernels.long_conv import cases
from tests.kernels.long_conv.cases import Case


def _check(case, name='kernels'):
    arrays = cases.inputs(case)
    with tpu.interpreted():
        found = jax.block_until_ready(cases.run(case, name, cases.device(case, arrays)))
    target = cases.wanted(case, arrays)
    close.assert_close(found, target, dict.fromkeys(target, cases.BARS[case.dtype]))


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', frequencies=0.25),
        Case('prime', gates=True, skip=True, backward=True, dtype='bfloat16'),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    _check(case)


@pytest.mark.parametrize(
    'case',
    [
        Case('long'),
        pytest.param(Case('long', gates=True, skip=True), marks=pytest.mark.heavy),
        pytest.param(Case('long', apart=True, backward=True), marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_further_levels_are_outside_of_the_kernel(case, monkeypatch):
    """As for a sequence that does not fit into VMEM."""
    monkeypatch.setattr(pallas_tpu, '_LARGEST', 256)
    _check(case, 'kernels, and levels outside')


def test_a_nan_reaches_no_earlier_token():
    """Nor another channel. This convolution sees one token ahead."""
    u = jnp.cos(jnp.arange(2.0 * 200 * 3)).reshape(2, 200, 3)
    taps = jnp.sin(jnp.arange(120.0 * 3)).reshape(120, 3)
    run = jax.jit(lambda u: pallas_tpu.convolve(u, taps, before=1))
    with tpu.interpreted():
        clean, found = (jax.device_get(run(x)) for x in (u, u.at[1, 150, 2].set(jnp.nan)))
    lost = np.zeros(u.shape, bool)
    lost[1, 149:, 2] = True
    np.testing.assert_allclose(found, np.where(lost, np.nan, clean), rtol=1e-4, atol=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('odd', gates=True, skip=True, backward=True),
        Case('one_token', backward=True),
        Case('two_tokens', apart=True, circular=True),
        Case('long', frequencies=0.125),
        Case('partial', circular=True, skip=True),
        Case('longer', backward=True),
        Case('prime', apart=True, backward=True),
        Case('long', dtype='bfloat16'),
        Case('behind_power'),
        Case('path_x'),
    ],
    ids=str,
)
def test_more_outputs_and_gradients(case):
    _check(case)


@pytest.mark.heavy
def test_vmap():
    """Over the tokens only; other inputs are broadcast."""
    case = Case('odd')
    arrays = cases.device(case, cases.inputs(case))
    run = lambda u: pallas_tpu.convolve(u, arrays['kernel'], before=0)
    u = arrays['u']
    with tpu.interpreted():
        found = jax.block_until_ready(jax.jit(jax.vmap(run))(jnp.stack([u, -2 * u])))
        wanted = jax.block_until_ready(jax.jit(run)(u))
    found, wanted = {'one': found[0], 'two': found[1]}, {'one': wanted, 'two': -2 * wanted}
    close.assert_close(found, wanted, dict.fromkeys(wanted, 1e-6))
