"""The GPU kernels of the selective scan, no GPU at hand: numbers by the interpreter, and that they lower for CUDA."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from longview.kernels.selective_scan import pallas_gpu, selective_scan
from tests.kernels.close import assert_close
from tests.kernels.selective_scan import cases
from tests.kernels.selective_scan.cases import Case

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'state')


def _op(case, wrt):
    how = {'softplus': case.full, 'reverse': case.reverse, 'interpret': True}
    return dict(zip(('y', 'last'), pallas_gpu.selective_scan(*(wrt.get(name) for name in NAMES), **how)))


@partial(cases.jit, static_argnums=0)
def _run(case, arrays):
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'dlast')}
    outputs, pull = jax.vjp(partial(_op, case), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'y': arrays['dy'], 'last': arrays['dlast']})[0].items()}


@pytest.mark.parametrize(
    'case',
    [
        Case('grouped', state=True, reverse=True),
        pytest.param(Case('prime', full=False, dtype='bfloat16'), marks=pytest.mark.heavy),
        pytest.param(Case('class_token', state=True), marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    """Also five states, which are filled up to eight, and 63 tokens, to 64."""
    arrays = cases.inputs(case)
    target = cases.wanted(case, arrays)
    assert_close(_run(case, cases.device(case, arrays)), target, cases.bars(case, target))


def _arrays(states=16):
    return jnp.ones((2, 40, 96)), -jnp.ones((96, states)), jnp.ones((2, 40, states))


@pytest.mark.usefixtures('absent_gpu')
def test_lowers_for_cuda_by_name_only():
    u, A, B = _arrays()
    loss = lambda u, **how: sum(jnp.sum(out) for out in selective_scan(u, u, A, B, B, **how))
    lower = lambda **how: jax.jit(jax.grad(partial(loss, **how))).trace(u).lower(lowering_platforms=('cuda',)).as_text()
    assert 'triton' not in lower() and 'triton' in lower(implementation='pallas_gpu')
    text = "selective_scan: implementation 'pallas_gpu' runs on cuda only, not on cpu"
    with pytest.raises(NotImplementedError, match=text):
        jax.jit(partial(loss, implementation='pallas_gpu'))(u)


@pytest.mark.usefixtures('absent_gpu')
def test_export_for_cuda():
    u, A, B = _arrays()
    check = jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')
    run = jax.jit(lambda u: selective_scan(u, u, A, B, B, implementation='pallas_gpu')[0])
    assert jax.export.export(run, platforms=['cuda'], disabled_checks=[check])(u).platforms == ('cuda',)


def test_too_many_states_are_not_served():
    u, A, B = _arrays(65)
    with pytest.raises(NotImplementedError, match='65 states a channel; wanted at most 64'):
        selective_scan(u, u, A, B, B, implementation='pallas_gpu')
