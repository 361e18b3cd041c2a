"""The TPU kernels of the linear scan, interpreted: unwritten memory is NaN, races and out-of-bounds reads fail."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from longview.kernels.linear_scan import pallas_tpu
from tests.kernels import close, tpu
from tests.kernels.linear_scan import cases
from tests.kernels.linear_scan.cases import BOTH, Case

SMALL = {'numbers': 2**11}  # blocks of 16 tokens


def _op(case, how, arrays):
    h, last = pallas_tpu.linear_scan(arrays['a'], arrays['x'], arrays.get('state'), reverse=case.reverse, **how)
    return {'h': h, 'last': last}


@partial(cases.jit, static_argnums=0, static_argnames='numbers')
def _run(case, arrays, **how):
    wrt = {name: x for name, x in arrays.items() if name not in ('dh', 'dlast')}
    outputs, pull = jax.vjp(partial(_op, case, how), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'h': arrays['dh'], 'last': arrays['dlast']})[0].items()}


def _check(case, **how):
    arrays = cases.inputs(case)
    with tpu.interpreted():
        found = jax.block_until_ready(_run(case, cases.device(case, arrays), **how))
    target = cases.wanted(case, arrays)
    close.assert_close(cases.parts(found), cases.parts(target), cases.bars(case, target))


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', state=True, constant=True, complex=BOTH),
        Case('lanes', state=True, reverse=True),
        Case('lanes', constant=True, dtype='bfloat16'),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    _check(case, **SMALL)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('prime', reverse=True, complex=('a',)),
        Case('class_token', constant=True, dtype='bfloat16'),
        Case('prime', state=True, complex=BOTH),
    ],
    ids=str,
)
def test_more_outputs_and_gradients(case):
    _check(case)


@pytest.mark.heavy
def test_vmap():
    """Over the tokens only; other inputs are broadcast."""
    arrays = cases.device(Case('odd'), cases.inputs(Case('odd')))
    a, x = (arrays[name][:1, :20] for name in ('a', 'x'))
    run = jax.jit(lambda x: pallas_tpu.linear_scan(a, x, reverse=False)[0])
    with tpu.interpreted():
        found = jax.block_until_ready(jax.vmap(run)(jnp.stack([x, -2 * x])))
        wanted = jax.block_until_ready(run(x))
    found, wanted = {'one': found[0], 'two': found[1]}, {'one': wanted, 'two': -2 * wanted}
    close.assert_close(found, wanted, dict.fromkeys(wanted, 1e-6))
