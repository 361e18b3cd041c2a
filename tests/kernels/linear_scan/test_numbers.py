"""Every output and gradient of the linear scan compared with a sequential reference in double precision."""

from functools import partial

import jax
import numpy as np
import pytest

from longview.kernels.linear_scan import linear_scan, linear_scan_step, xla
from tests.kernels.linear_scan import cases
from tests.kernels.linear_scan.cases import BOTH, Case

CASES = [
    Case('one_token', state=True),
    pytest.param(Case('odd', reverse=True, state=True), marks=pytest.mark.quick),
    Case('odd', constant=True, complex=BOTH),
    Case('prime', state=True, dtype='bfloat16'),
    Case('prime', reverse=True, complex=('a',), state=True),
    Case('class_token', constant=True, reverse=True, state=True),
    Case('class_token', complex=BOTH, state=True),
    Case('class_token', constant=True, dtype='bfloat16'),
    Case('long'),
    Case('long_prime', complex=BOTH, reverse=True),
    Case('longest', state=True),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_outputs_and_gradients(case):
    cases.check(case)


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', state=True, reverse=True),
        Case('odd', constant=True, complex=('a',)),
    ],
    ids=str,
)
def test_reference_outputs_and_gradients(case):
    cases.check(case, 'reference')


@pytest.mark.parametrize(
    'case',
    [
        Case('class_token', state=True, reverse=True),
        Case('class_token', constant=True, complex=BOTH),
        Case('prime', dtype='bfloat16'),
    ],
    ids=str,
)
def test_what_runs_where_it_is_not_a_cpu(case, monkeypatch):
    """An associative scan, and reads in bfloat16; no other test has this batch, so nothing was traced before."""
    monkeypatch.setattr(xla, '_sequential', None)
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, **platforms: default(*args))
    cases.check(case, batch=4)


@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_double_precision(implementation):
    with jax.enable_x64(True):
        cases.check(Case('odd', state=True, dtype='float64'), implementation)
        cases.check(Case('odd', state=True, complex=BOTH, dtype='float64'), implementation)


def test_decays_of_zero_and_one():
    case = Case('class_token', state=True)
    arrays = cases.inputs(case)
    arrays['a'][:, ::3], arrays['a'][:, 1::3] = 0, 1
    target = cases.wanted(case, arrays)
    found = cases.run(case, 'xla', cases.device(case, arrays))
    cases.close.assert_close(found, target, cases.bars(case, target))


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', state=True),
        Case('odd', state=True, constant=True, complex=BOTH),
    ],
    ids=str,
)
def test_steps_are_the_sequence(case):
    arrays = cases.device(case, cases.inputs(case))
    state, a = arrays['state'], arrays['a']
    whole, last = cases.jit(linear_scan)(a, arrays['x'], initial_state=state)
    step = cases.jit(linear_scan_step)
    outputs = []
    for t in range(whole.shape[1]):
        state = step(a if case.constant else a[:, t], arrays['x'][:, t], state=state)
        outputs.append(state)
    np.testing.assert_allclose(np.stack(outputs, 1), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('reverse', [False, True])
def test_parts_joined_by_the_state_are_the_whole(reverse):
    arrays = cases.device(Case('class_token'), cases.inputs(Case('class_token')))
    run = cases.jit(partial(linear_scan, reverse=reverse))
    wanted, last = run(arrays['a'], arrays['x'])
    outputs, state = [], None
    parts = (slice(0, 50), slice(50, None))
    for part in parts[::-1] if reverse else parts:
        h, state = run(arrays['a'][:, part], arrays['x'][:, part], initial_state=state)
        outputs.append(h)
    joined = np.concatenate(outputs[::-1] if reverse else outputs, axis=1)
    np.testing.assert_allclose(joined, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'a, x, h, last',
    [
        ('bfloat16', 'bfloat16', 'bfloat16', 'float32'),
        ('float32', 'bfloat16', 'bfloat16', 'float32'),
        ('complex64', 'bfloat16', 'complex64', 'complex64'),
        ('float32', 'complex64', 'complex64', 'complex64'),
    ],
)
@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_dtypes(implementation, a, x, h, last):
    run = partial(linear_scan, implementation=implementation)
    found = jax.eval_shape(run, jax.ShapeDtypeStruct((4,), a), jax.ShapeDtypeStruct((1, 3, 4), x))
    assert [str(x.dtype) for x in found] == [h, last]
