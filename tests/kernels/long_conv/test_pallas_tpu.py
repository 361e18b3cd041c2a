"""The TPU kernels of the long convolution, interpreted: unwritten memory is NaN, races and out-of-bounds reads fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.long_conv import pallas_tpu
from longview.kernels.long_conv.pallas_tpu_level import run_into, run_out
from longview.kernels.long_conv.transforms import Level
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
@pytest.mark.parametrize('dtype, error', [(jnp.bfloat16, 1e-2), (jnp.float32, 1e-6)])
def test_levels_that_are_kernels(dtype, error):
    """Two of them, of real and of complex numbers, are those of the plain form; and they are undone."""
    one, two = Level(8, 32, 1, 8), Level(2, 16, 0, 2)
    x = jax.device_put(np.random.default_rng(0).standard_normal((1, 250, 128)).astype(dtype))
    with tpu.interpreted():
        z = run_into(two, run_into(one, x, dtype, whole=False), dtype, whole=True)
        y = jax.block_until_ready(run_out(one, run_out(two, z, 32, dtype, None), 250, dtype, dtype))
    wanted = jax.device_get(two.into(one.into(x[None], jnp.float32), jnp.float32))
    if dtype == jnp.bfloat16:
        found = np.moveaxis(np.asarray(z).view(dtype).reshape(*z.shape, 2), -1, 0)
    else:
        found = np.stack([z[:, 0::2], z[:, 1::2]])
    found, wanted = {'z': found, 'y': y}, {'z': wanted, 'y': jax.device_get(x)}
    close.assert_close(found, wanted, dict.fromkeys(wanted, error))


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
