"""Every output and gradient of the long convolution compared with a direct sum in float64, and with published code."""

from functools import partial

import jax
import numpy as np
import pytest

from longview.kernels.long_conv import transforms, xla
from longview.kernels.long_conv.transforms import fft_size, monarch_sides
from tests import goldens
from tests.goldens.table import NETWORKS
from tests.kernels.long_conv import cases
from tests.kernels.long_conv.cases import Case

CASES = [
    Case('one_token'),
    Case('one_token', backward=True, circular=True),
    Case('two_tokens', backward=True),
    pytest.param(Case('odd', gates=True, skip=True, backward=True), marks=pytest.mark.quick),
    Case('odd', circular=True),
    Case('odd', apart=True, circular=True, backward=True),
    Case('prime', apart=True, backward=True),
    Case('prime', gates=True, skip=True, dtype='bfloat16'),
    Case('partial', backward=True),
    Case('partial', circular=True, skip=True),
    Case('longer', backward=True),
    Case('long', gates=True),
    Case('prime', gates=True, frequencies=0.25),
    Case('partial', frequencies=0.5),
    Case('long', frequencies=0.125),
    Case('power'),
    Case('behind_power'),
]


@pytest.mark.parametrize('implementation', ['fft', 'monarch'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_outputs_and_gradients(case, implementation):
    cases.check(case, implementation)


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', gates=True, skip=True, backward=True),
        Case('odd', circular=True),
        Case('odd', frequencies=0.25),
    ],
    ids=str,
)
def test_reference_outputs_and_gradients(case):
    cases.check(case, 'reference')


@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_float64(implementation):
    with jax.enable_x64(True):
        cases.check(Case('odd', gates=True, backward=True, dtype='float64'), implementation)


@pytest.mark.heavy
@pytest.mark.parametrize('implementation', ['fft', 'monarch'])
@pytest.mark.parametrize('shape', ['path_x', 'longest'])
def test_long_sequences(shape, implementation):
    cases.check(Case(shape), implementation)


@pytest.mark.parametrize('order', [1, 2, 3, 4])
@pytest.mark.parametrize('tokens, taps, before', [(1, 1, 0), (37, 20, 0), (21, 30, 11)])
def test_a_monarch_of_any_order_is_a_convolution(order, tokens, taps, before):
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=(2, n, 3)).astype(np.float32) for n in (tokens, taps))
    run = cases.jit(partial(xla.convolve, before=before, way='monarch', order=order))
    found = np.asarray(run(x, kernel))
    for row in range(2):
        for channel in range(3):
            whole = np.convolve(*(np.float64(a[row, :, channel]) for a in (x, kernel)))
            np.testing.assert_allclose(found[row, :, channel], whole[before:][:tokens], atol=1e-5)


def test_a_large_table_of_twiddles_is_put_together_from_parts(monkeypatch):
    level = transforms.Level(16, 512, 1, 16)
    whole = level.twiddles()
    monkeypatch.setattr(transforms, '_TABLE', 1024)
    np.testing.assert_allclose(jax.jit(level.twiddles)(), whole, atol=2e-7)


def test_sizes():
    assert [fft_size(n) for n in (1, 2, 7, 4097, 131071)] == [1, 2, 8, 4320, 131072]
    assert monarch_sides(1) == (2,) and monarch_sides(128) == (128,)
    assert monarch_sides(129) == (16, 16) and monarch_sides(2**21) == (128, 128, 128)
    assert monarch_sides(2**22, None) == (64, 64, 32, 32) and monarch_sides(100, 3) == (8, 4, 4)


@pytest.mark.parametrize('name', [name for name in NETWORKS if name.startswith('fftconv')])
def test_published_code_by_matrix_products(name):
    """The reference of HazyResearch/flash-fft-conv; tests/test_goldens.py compares it with the `fft` form."""
    row = NETWORKS[name]
    row = row._replace(build={**row.build, 'implementation': 'monarch'})
    report = goldens.compare(goldens.read(goldens.FOLDER / f'{name}.json.gz'), row)
    assert report.passed, str(report)
