"""Output and gradients of the convolution compared with a direct sum in float64, in every form."""

import jax
import pytest

from tests.kernels.conv2d import cases
from tests.kernels.conv2d.cases import Case


@pytest.mark.parametrize(
    'case',
    [
        Case('pixel'),
        pytest.param(Case('odd'), marks=pytest.mark.quick),
        Case('odd_strided', padding=1),
        Case('matrix'),
        Case('matrix_strided', padding=0),
        Case('matrix_thinned', padding=0),
        Case('matrix', padding=2),
        Case('band', padding=((0, 2), (3, 1))),
        Case('even', padding='VALID'),
        Case('odd', dtype='bfloat16'),
        Case('matrix_strided', dtype='bfloat16'),
    ],
    ids=str,
)
def test_products(case):
    cases.check(case, 'products')


@pytest.mark.parametrize(
    'case',
    [
        Case('matrix_strided', padding=0),
        Case('large'),
        Case('large_strided', padding=1),
        Case('below'),
    ],
    ids=str,
)
def test_what_a_cpu_takes_by_itself(case):
    cases.check(case, None)


@pytest.mark.parametrize(
    'case',
    [
        Case('mesh_matrix', groups=4),
        Case('groups', padding=((0, 2), (1, 1)), groups=3),
        Case('groups', dtype='bfloat16', groups=3),
        Case('channels', padding=1, groups=5),
        Case('channels', dtype='bfloat16', groups=5),
    ],
    ids=str,
)
def test_channels_in_groups(case):
    cases.check(case, None)


@pytest.mark.parametrize('implementation', ['conv', 'reference', None])
def test_xla_s_convolution_and_the_reference(implementation):
    cases.check(Case('odd_strided', padding=((0, 2), (1, 1))), implementation)
    cases.check(Case('mesh_matrix', groups=4), implementation)


def test_double_precision():
    with jax.enable_x64(True):
        cases.check(Case('odd_strided', dtype='float64'), 'products')
