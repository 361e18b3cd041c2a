"""The GPU kernels of gated linear attention: their numbers when interpreted, and that they lower for CUDA."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from longview.kernels.gla import bidirectional_gla, gla, pallas_gpu
from tests.kernels import close
from tests.kernels.gla import cases
from tests.kernels.gla.cases import Case
from tests.kernels.gla.test_numbers import DECAYS


def _op(case, arrays):
    q, k, v = (arrays[name] for name in 'qkv')
    how = {'scale': q.shape[-1] ** -0.5, 'interpret': True}
    if case.bidirectional:
        return {'o': pallas_gpu.bidirectional_gla(q, k, v, arrays['g0'], arrays['g0' if case.shared else 'g1'], **how)}
    o, last = pallas_gpu.gla(q, k, v, arrays['g0'], arrays.get('state'), reverse=case.reverse, **how)
    return {'o': o, 'last': last}


@partial(cases.jit, static_argnums=0)
def _run(case, arrays):
    cotangents = {'o': arrays['do']} if case.bidirectional else {'o': arrays['do'], 'last': arrays['dlast']}
    wrt = {name: x for name, x in arrays.items() if name not in ('do', 'dlast')}
    outputs, pull = jax.vjp(lambda wrt: _op(case, wrt), wrt)
    return outputs | {f'd{name}': x for name, x in pull(cotangents)[0].items()}


def _check(case, decay=cases.mild):
    arrays = cases.inputs(case, decay)
    found, target = _run(case, cases.device(case, arrays)), cases.wanted(case, arrays)
    close.assert_close(found, target, dict.fromkeys(target, close.BARS[case.dtype]))


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', state=True, reverse=True),
        Case('odd', gates='kh'),
        Case('prime', state=True, dtype='bfloat16'),
        pytest.param(Case('one_token', state=True), marks=pytest.mark.heavy),
        pytest.param(Case('wide', gates='kk'), marks=pytest.mark.heavy),
        pytest.param(Case('class_token', gates='kk', shared=True, dtype='bfloat16'), marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    _check(case)


@pytest.mark.parametrize('decay', DECAYS)
def test_strong_decay(decay):
    _check(Case('odd', state=True, reverse=True), DECAYS[decay])


@pytest.mark.usefixtures('absent_gpu')
@pytest.mark.parametrize('shape', [(1, 40, 2, 60, 64), (1, 7, 1, 128, 128)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_lowers_for_cuda_with_gradients(shape, dtype):
    *rows, keys, values = shape
    q, v = (jax.ShapeDtypeStruct((*rows, width), dtype) for width in (keys, values))
    loss = lambda *x: sum(jnp.sum(out.astype('float32') ** 2) for out in gla(*x, implementation='pallas_gpu'))
    grad = jax.jit(jax.grad(loss, (0, 1, 2, 3)))
    assert grad.trace(q, q, v, q).lower(lowering_platforms=('cuda',)).as_text().count('triton') >= 3
    check = jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')
    assert jax.export.export(grad, platforms=['cuda'], disabled_checks=[check])(q, q, v, q).platforms == ('cuda',)


@pytest.mark.usefixtures('absent_gpu')
def test_never_chosen_unless_named():
    x = jnp.ones((1, 3, 1, 4))
    text = lambda **how: (
        jax.jit(lambda x: (gla(x, x, x, -x, **how), bidirectional_gla(x, x, x, -x, -x, **how)))
        .trace(x)
        .lower(lowering_platforms=('cuda',))
        .as_text()
    )
    assert 'triton' not in text() and 'triton' in text(implementation='pallas_gpu')
    with pytest.raises(NotImplementedError, match="gla: implementation 'pallas_gpu' runs on cuda only, not on cpu"):
        jax.jit(lambda x: gla(x, x, x, -x, implementation='pallas_gpu'))(x)


def test_what_cannot_be_served_is_said():
    x = jnp.ones((1, 8, 1, 4))
    huge = jnp.ones((1, 8, 1, 256))
    assert pallas_gpu.missing(x, x, x, x, None) is None
    assert pallas_gpu.missing(x, x, x.astype('float16'), x) == 'an input is float16; wanted float32 or bfloat16'
    assert 'heads of 256 x 256 channels do not fit' in pallas_gpu.missing(huge, huge, huge, huge)
