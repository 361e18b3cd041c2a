"""Every output and gradient of the convolution of images compared with a direct sum in float64."""

import jax
import pytest

from tests.kernels import tpu
from tests.kernels.long_conv2d import cases
from tests.kernels.long_conv2d.cases import Case

CASES = [
    Case('one', spectral=True),
    Case('narrow', spectral=True),
    Case('narrow', origin=(2, 0)),
    pytest.param(Case('seven', gates=True, origin=(3, 3)), marks=pytest.mark.quick),
    Case('seven', apart=True, circular=True),
    Case('seven', spectral=True, dtype='bfloat16'),
    pytest.param(Case('odd', spectral=True), marks=pytest.mark.quick),
    Case('odd', gates=True, apart=True, origin=(0, 2)),
    Case('fourteen', gates=True, dtype='bfloat16'),
    Case('thirty_one', origin=(15, 15)),
    Case('fifty_six', circular=True),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_outputs_and_gradients(case):
    cases.check(case)


@pytest.mark.parametrize('case', [Case('seven', gates=True, origin=(2, 1)), Case('odd', spectral=True)], ids=str)
def test_reference_outputs_and_gradients(case):
    cases.check(case, 'reference')


@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_float64(implementation):
    with jax.enable_x64(True):
        cases.check(Case('seven', origin=(1, 4), dtype='float64'), implementation)


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', spectral=True),
        Case('seven', origin=(3, 3), apart=True),
        Case('seven', spectral=True, dtype='bfloat16'),
    ],
    ids=str,
)
def test_tpu_kernels(case):
    """Interpreted: unwritten memory is NaN, races and out-of-bounds reads fail."""
    with tpu.interpreted():
        cases.check(case, 'kernels')


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('one', spectral=True),
        Case('narrow', origin=(2, 0)),
        Case('fourteen', circular=True),
        Case('thirty_one'),
    ],
    ids=str,
)
def test_tpu_kernels_of_more_shapes(case):
    with tpu.interpreted():
        cases.check(case, 'kernels')
