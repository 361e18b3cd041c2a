"""The TPU kernels of the selective scan, interpreted: unwritten memory is NaN, races and out-of-bounds reads fail."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from longview.kernels.selective_scan import pallas_tpu
from tests.kernels import close, tpu
from tests.kernels.selective_scan import cases
from tests.kernels.selective_scan.cases import Case

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'state')


def _op(case, arrays):
    how = {'softplus': case.full, 'reverse': case.reverse}
    y, last = pallas_tpu.selective_scan(*(arrays.get(name) for name in NAMES), **how)
    return {'y': y, 'last': last}


@partial(cases.jit, static_argnums=0)
def _run(case, arrays):
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'dlast')}
    outputs, pull = jax.vjp(partial(_op, case), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'y': arrays['dy'], 'last': arrays['dlast']})[0].items()}


def _check(case):
    arrays = cases.inputs(case)
    with tpu.interpreted():
        found = jax.block_until_ready(_run(case, cases.device(case, arrays)))
    target = cases.wanted(case, arrays)
    close.assert_close(found, target, cases.bars(case, target))


@pytest.mark.parametrize(
    'case',
    [
        Case('class_token', state=True, reverse=True, dtype='bfloat16'),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    _check(case)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('one_token', state=True),
        Case('odd', state=True, reverse=True, full=False),
        Case('class_token', state=True),
        Case('tile', state=True, reverse=True),
        Case('tile', full=False, dtype='bfloat16'),
        Case('lanes', state=True),
        Case('long', state=True),
        Case('long_prime'),
    ],
    ids=str,
)
def test_more_outputs_and_gradients(case):
    _check(case)


@pytest.mark.heavy
def test_vmap():
    """Over the inputs only; other arrays are broadcast."""
    case = Case('odd', full=False)
    arrays = cases.device(case, cases.inputs(case))
    u = arrays.pop('u')[:1, :20]
    rest = {name: x if name == 'A' else x[:1, :20] for name, x in arrays.items()}
    run = jax.jit(lambda u: _op(case, rest | {'u': u})['y'])
    with tpu.interpreted():
        found = jax.block_until_ready(jax.vmap(run)(jnp.stack([u, -2 * u])))
        wanted = jax.block_until_ready(run(u))
    found, wanted = {'one': found[0], 'two': found[1]}, {'one': wanted, 'two': -2 * wanted}
    close.assert_close(found, wanted, dict.fromkeys(wanted, 1e-6))
