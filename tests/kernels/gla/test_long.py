"""Gated linear attention of 65,536 tokens: neither the outputs nor the gradients drift from float64."""

import pytest

from tests.kernels.gla import cases
from tests.kernels.gla.cases import Case


@pytest.mark.heavy  # test_numbers.py has 4,097 tokens
@pytest.mark.parametrize(
    'case',
    [
        Case('very_long', state=True),
        Case('very_long', gates='kk'),
        Case('very_long', reverse=True, dtype='bfloat16'),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    cases.check(case, cases.inputs(case))
