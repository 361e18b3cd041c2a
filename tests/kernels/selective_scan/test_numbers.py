"""Every output and gradient of the selective scan compared with a sequential reference in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.selective_scan import chunk, selective_scan, selective_scan_step
from tests.kernels.selective_scan import cases
from tests.kernels.selective_scan.cases import Case

CASES = [
    Case('one_token', state=True),
    pytest.param(Case('odd', reverse=True, state=True), marks=pytest.mark.quick),
    Case('grouped', reverse=True, full=False),
    Case('prime', state=True, dtype='bfloat16'),
    Case('class_token', full=False),
    Case('wide', state=True, dtype='bfloat16'),
    Case('long', state=True),
    Case('long_prime', reverse=True),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_outputs_and_gradients(case):
    cases.check(case)


@pytest.mark.parametrize('case', [Case('grouped', state=True), Case('odd', reverse=True, full=False)], ids=str)
def test_reference_outputs_and_gradients(case):
    cases.check(case, 'reference')


@pytest.mark.heavy
def test_longest():
    cases.check(Case('longest', state=True))


@pytest.mark.parametrize(
    'case',
    [
        Case('grouped', state=True, reverse=True),
        Case('prime', dtype='bfloat16'),
    ],
    ids=str,
)
def test_what_runs_where_it_is_not_a_cpu(case, monkeypatch):
    """The recurrence by an associative scan, channels last, and reads in bfloat16.

    No other test has this batch, so nothing was traced before.
    """
    monkeypatch.setattr(chunk, 'SEQUENTIAL', None)
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, **platforms: default(*args))
    cases.check(case, batch=3)


@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_float64(implementation):
    with jax.enable_x64(True):
        cases.check(Case('grouped', state=True, dtype='float64'), implementation)


@pytest.mark.parametrize('strong', [0.0, 50.0, 1e4])
def test_strong_and_no_decay(strong):
    """Gradients stay finite for steps so long that nothing of the state is left, and for steps of length 0."""
    case = Case('odd', state=True, full=False)
    arrays = cases.inputs(case)
    arrays['delta'][:, ::3] = strong
    target = cases.wanted(case, arrays)
    found = cases.run(case, 'xla', cases.device(case, arrays))
    cases.close.assert_close(found, target, cases.bars(case, target))


def _tokens(arrays, part):
    return {name: arrays[name][:, part] for name in ('u', 'delta', 'B', 'C', 'z')}


def test_steps_are_the_sequence():
    case = Case('grouped', state=True)
    arrays = cases.device(case, cases.inputs(case))
    shared = {name: arrays[name] for name in ('A', 'D', 'delta_bias')}
    state = arrays['state']
    whole = cases.jit(partial(cases.op, case, None))(arrays)
    step = cases.jit(partial(selective_scan_step, softplus=True))
    outputs = []
    for t in range(arrays['u'].shape[1]):
        y, state = step(**_tokens(arrays, t), **shared, state=state)
        outputs.append(y)
    np.testing.assert_allclose(np.stack(outputs, 1), whole['y'], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, whole['last'], rtol=1e-4, atol=1e-5)


def test_parts_joined_by_the_state_are_the_whole():
    arrays = cases.device(Case('prime'), cases.inputs(Case('prime')))
    shared = {name: arrays[name] for name in ('A', 'D', 'delta_bias')}
    run = cases.jit(partial(selective_scan, softplus=True, reverse=True))
    wanted, last = run(**_tokens(arrays, slice(None)), **shared)
    outputs, state = [], None
    for part in (slice(50, None), slice(0, 50)):
        y, state = run(**_tokens(arrays, part), **shared, initial_state=state)
        outputs.append(y)
    joined = np.concatenate(outputs[::-1], axis=1)
    np.testing.assert_allclose(joined, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)


def test_dtypes():
    case = Case('one_token', dtype='bfloat16')
    found = jax.eval_shape(partial(cases.op, case, None), cases.device(case, cases.inputs(case)))
    assert found['y'].dtype == jnp.bfloat16 and found['last'].dtype == jnp.float32
