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


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('levels', dtype='bfloat16'),
        Case('levels', gates=True, skip=True),
        Case('levels', apart=True, backward=True),
    ],
    ids=str,
)
def test_further_levels_are_kernels_of_their_own(case, monkeypatch):
    """As for a sequence that does not fit into VMEM."""
    monkeypatch.setattr(pallas_tpu.vmem, 'limit', lambda: 4 * pallas_tpu.vmem.MIB)
    _check(case, 'kernels, and levels around')


@pytest.mark.parametrize('value, dtype, error', [(np.nan, jnp.bfloat16, 0.3), (-np.inf, jnp.float32, 1e-4)])
def test_a_nan_reaches_no_earlier_token(value, dtype, error):
    """Nor another channel. This convolution sees one token ahead."""
    u = jnp.cos(jnp.arange(2.0 * 200 * 3)).reshape(2, 200, 3).astype(dtype)
    taps = jnp.sin(jnp.arange(120.0 * 3)).reshape(120, 3).astype(dtype)
    run = jax.jit(lambda u: pallas_tpu.convolve(u, taps, before=1))
    with tpu.interpreted():
        clean, found = (jax.device_get(run(x)).astype(np.float32) for x in (u, u.at[1, 150, 2].set(value)))
    lost = np.zeros(u.shape, bool)
    lost[1, 149:, 2] = True
    np.testing.assert_allclose(found, np.where(lost, np.nan, clean), rtol=1e-4, atol=error)


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
        Case('long', dtype='bfloat16', gates=True, skip=True),
        Case('behind_power'),
        Case('path_x', dtype='bfloat16'),
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
