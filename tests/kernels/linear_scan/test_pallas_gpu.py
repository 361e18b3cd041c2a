"""The GPU kernels of the linear scan, no GPU at hand: their numbers by the interpreter, and lowering for CUDA."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from longview.kernels.linear_scan import linear_scan, pallas_gpu
from tests.kernels.close import assert_close
from tests.kernels.linear_scan import cases
from tests.kernels.linear_scan.cases import Case


def _op(case, wrt):
    how = {'reverse': case.reverse, 'interpret': True}
    return dict(zip(('h', 'last'), pallas_gpu.linear_scan(wrt['a'], wrt['x'], wrt.get('state'), **how)))


@partial(cases.jit, static_argnums=0)
def _run(case, arrays):
    wrt = {name: x for name, x in arrays.items() if name not in ('dh', 'dlast')}
    outputs, pull = jax.vjp(partial(_op, case), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'h': arrays['dh'], 'last': arrays['dlast']})[0].items()}


@pytest.mark.parametrize(
    'case',
    [
        Case('one_token', state=True),
        Case('odd', state=True, reverse=True),
        Case('prime', constant=True, dtype='bfloat16'),
        Case('tile', state=True),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    arrays = cases.inputs(case)
    target = cases.wanted(case, arrays)
    assert_close(_run(case, cases.device(case, arrays)), target, cases.bars(case, target))


@pytest.mark.usefixtures('absent_gpu')
def test_lowers_for_cuda_by_name_only():
    x = jnp.ones((2, 63, 96))
    loss = lambda x, **how: sum(jnp.sum(out) for out in linear_scan(x, x, **how))
    lower = lambda **how: jax.jit(jax.grad(partial(loss, **how))).trace(x).lower(lowering_platforms=('cuda',)).as_text()
    assert 'triton' not in lower() and 'triton' in lower(implementation='pallas_gpu')
    text = "linear_scan: implementation 'pallas_gpu' runs on cuda only, not on cpu"
    with pytest.raises(NotImplementedError, match=text):
        jax.jit(partial(loss, implementation='pallas_gpu'))(x)


@pytest.mark.usefixtures('absent_gpu')
def test_export_for_cuda():
    x = jnp.ones((2, 63, 96))
    check = jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')
    run = jax.jit(lambda x: linear_scan(x, x, implementation='pallas_gpu')[0])
    exported = jax.export.export(run, platforms=['cuda'], disabled_checks=[check])(x)
    assert exported.platforms == ('cuda',)


def test_complex_numbers_are_not_served():
    x = jnp.ones((1, 8, 4), jnp.complex64)
    with pytest.raises(NotImplementedError, match='an input is complex64; wanted float32 or bfloat16'):
        linear_scan(x, x, implementation='pallas_gpu')
