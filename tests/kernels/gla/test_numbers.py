"""Every output and gradient of gated linear attention compared with a sequential reference in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.gla import gla, gla_step
from longview.kernels.gla.shapes import SHAPES
from tests.kernels.gla import cases
from tests.kernels.gla.cases import Case

CASES = [
    Case('one_token', gates='kk'),
    pytest.param(Case('odd', reverse=True, state=True), marks=pytest.mark.quick),
    pytest.param(Case('odd', gates='kh'), marks=pytest.mark.quick),
    Case('prime', reverse=True, gates='h'),
    Case('class_token', gates='kk', shared=True),
    Case('batch', dtype='bfloat16'),
    Case('wide'),
    Case('long_prime', state=True),
]
MORE = [
    Case('one_token', state=True),
    Case('odd', gates='hh'),
    Case('even', gates='kk'),
    Case('prime', state=True, dtype='bfloat16'),
    Case('class_token', gates='kk'),
    Case('class_token', state=True, gates='h'),
    Case('batch', state=True),
    Case('batch', gates='kk', dtype='bfloat16'),
    Case('wide', gates='kk'),
]


@pytest.mark.parametrize('case', CASES + [pytest.param(case, marks=pytest.mark.heavy) for case in MORE], ids=str)
def test_outputs_and_gradients(case):
    cases.check(case, cases.inputs(case))


@pytest.mark.parametrize('case', [Case('odd', state=True), Case('odd', gates='kk')], ids=str)
def test_reference_outputs_and_gradients(case):
    cases.check(case, cases.inputs(case), 'reference')


@pytest.mark.parametrize('chunk', [1, 20, pytest.param(1000, marks=pytest.mark.heavy)])
def test_chunk_changes_no_number(chunk):
    case = Case('odd', gates='kk')
    cases.check(case, cases.inputs(case), chunk=chunk)


@pytest.mark.parametrize('gates', [pytest.param('k', marks=pytest.mark.heavy), 'kk'])
def test_what_runs_where_it_is_not_a_cpu(gates, monkeypatch):
    """All sequences at once and reads in bfloat16; no other test has this chunk, so nothing was traced before."""
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, **platforms: default(*args))
    case = Case('batch', gates=gates, dtype='bfloat16')
    cases.check(case, cases.inputs(case), chunk=16)


@pytest.mark.parametrize('implementation', ['xla', 'reference'])
def test_float64(implementation):
    with jax.enable_x64(True):
        case = Case('odd', state=True, dtype='float64')
        cases.check(case, cases.inputs(case), implementation)


def _mixture(strong):
    def decay(random, shape):
        return np.where(random.random(shape) < 0.3, strong, cases.mild(random, shape))

    return decay


DECAYS = {
    'zero': lambda random, shape: np.zeros(shape),
    'all -50': lambda random, shape: np.full(shape, -50.0),
    'all -1e4': lambda random, shape: np.full(shape, -1e4),
    'some -50': _mixture(-50.0),
    'some -1e4': _mixture(-1e4),
    'some -inf': _mixture(-np.inf),
    'tokens -1e4': lambda random, shape: np.where(np.indices(shape)[1] % 5, 0, -1e4),
}


@pytest.mark.parametrize('decay', DECAYS)
@pytest.mark.parametrize(
    'case',
    [
        pytest.param(Case('prime', state=True, dtype='bfloat16'), marks=pytest.mark.heavy),
        Case('odd', reverse=True, state=True),
        Case('odd', gates='kk'),
    ],
    ids=str,
)
def test_strong_decay(case, decay):
    cases.check(case, cases.inputs(case, DECAYS[decay]))


@pytest.mark.parametrize('decay', ['zero', 'all -50', 'some -1e4', 'some -inf'])
def test_strong_decay_per_head(decay):
    case = Case('odd', gates='hh')
    cases.check(case, cases.inputs(case, DECAYS[decay]))


def test_steps_are_the_sequence():
    case = Case('odd', state=True)
    arrays = cases.device(case, cases.inputs(case))
    q, k, v, g, state = (arrays[name] for name in ('q', 'k', 'v', 'g0', 'state'))
    whole, last = cases.jit(gla)(q, k, v, g, initial_state=state)
    step = cases.jit(gla_step)
    outputs = []
    for t in range(q.shape[1]):
        o, state = step(q[:, t], k[:, t], v[:, t], g[:, t], state)
        outputs.append(o)
    np.testing.assert_allclose(np.stack(outputs, 1), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('reverse', [False, True])
def test_parts_joined_by_the_state_are_the_whole(reverse):
    arrays = cases.device(Case('prime'), cases.inputs(Case('prime')))
    whole = [arrays[name] for name in ('q', 'k', 'v', 'g0')]
    run = cases.jit(partial(gla, reverse=reverse, chunk=16))
    wanted, last = run(*whole)
    parts = [[x[:, part] for x in whole] for part in (slice(0, 64), slice(64, None))]
    outputs, state = [], None
    for part in parts[::-1] if reverse else parts:
        o, state = run(*part, initial_state=state)
        outputs.append(o)
    joined = np.concatenate(outputs[::-1] if reverse else outputs, axis=1)
    np.testing.assert_allclose(joined, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)


def test_scale_and_dtypes():
    case = Case('one_token', dtype='bfloat16')
    arrays = cases.device(case, cases.inputs(case))
    qkvg = [arrays[name] for name in ('q', 'k', 'v', 'g0')]
    o, last = gla(*qkvg)
    scaled, _ = gla(*qkvg, scale=SHAPES['one_token'].keys ** -0.5 * 4)
    assert o.dtype == jnp.bfloat16 and last.dtype == jnp.float32
    np.testing.assert_array_equal(scaled, 4 * o)


def test_one_float64_input_widens_the_state():
    with jax.enable_x64(True):
        arrays = cases.device(Case('odd'), cases.inputs(Case('odd')))
        wide = jax.ShapeDtypeStruct(arrays['g0'].shape, 'float64')
        o, last = jax.eval_shape(gla, *(arrays[name] for name in 'qkv'), wide)
        assert o.dtype == jnp.float32 and last.dtype == jnp.float64
