"""Gated linear attention of one sequence on eight devices: the numbers of one device, and messages of constant size."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from longview.kernels.gla import bidirectional_gla, gla, sequence_parallel_bidirectional_gla, sequence_parallel_gla
from longview.kernels.gla.shapes import SHAPES
from tests.kernels import messages
from tests.kernels.close import BARS, assert_close
from tests.kernels.gla import cases, test_numbers
from tests.kernels.gla.cases import Case

TOKENS, WHOLE = PartitionSpec(None, 'tokens'), PartitionSpec()
CASES = [Case('split', state=True), Case('split', reverse=True, gates='h', state=True), Case('split', gates='kh')]


def _mesh(devices=8):
    types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ('tokens',), axis_types=types, devices=jax.devices()[:devices])


def _over_devices(case, arrays, mesh):
    names = [name for name in arrays if name not in ('do', 'dlast')]
    specs = tuple(WHOLE if name == 'state' else TOKENS for name in names)
    return names, partial(
        jax.shard_map, mesh=mesh, in_specs=specs, out_specs=TOKENS if case.bidirectional else (TOKENS, WHOLE)
    )


def _ops(case, arrays, mesh):
    """Returns the op on one device and on the mesh, as functions of the arrays by name."""
    names, split = _over_devices(case, arrays, mesh)
    how = {'chunk': 4}

    def call(op, *values, **more):
        found = dict(zip(names, values))
        gates = [found[name] for name in names if name[0] == 'g']
        if not case.bidirectional:
            more |= {'initial_state': found.get('state'), 'reverse': case.reverse}
        return op(*(found[name] for name in 'qkv'), *gates, **how, **more)

    one, many = (
        (bidirectional_gla, sequence_parallel_bidirectional_gla) if case.bidirectional else (gla, sequence_parallel_gla)
    )
    return names, partial(call, one), split(partial(call, many, axis_name='tokens'))


def _run(case, arrays, names, op):
    cotangents = arrays['do'] if case.bidirectional else (arrays['do'], arrays['dlast'])
    out, pull = jax.vjp(op, *(arrays[name] for name in names))
    outs = {'o': out} if case.bidirectional else {'o': out[0], 'last': out[1]}
    return outs | {f'd{name}': x for name, x in zip(names, pull(cotangents))}


@pytest.mark.parametrize(
    'case, decay',
    [
        *((case, 'mild') for case in CASES),
        (CASES[0], 'some -inf'),
        *(pytest.param(case, 'some -inf', marks=pytest.mark.heavy) for case in CASES[1:]),
    ],
    ids=str,
)
def test_outputs_and_gradients(case, decay):
    arrays = cases.inputs(case, cases.mild if decay == 'mild' else test_numbers.DECAYS[decay])
    wanted = cases.wanted(case, arrays)
    arrays = cases.device(case, arrays)
    names, _, many = _ops(case, arrays, _mesh())
    found = cases.jit(partial(_run, case, names=names, op=many))(arrays)
    assert_close(found, wanted, dict.fromkeys(wanted, BARS['float32']))


def test_any_number_of_devices():
    case = CASES[0]
    arrays = cases.device(case, cases.inputs(case))
    arrays = {name: x if x.shape[1:] == arrays['state'].shape[1:] else x[:, :36] for name, x in arrays.items()}
    _, one, many = _ops(case, arrays, _mesh(3))
    inputs = [arrays[name] for name in ('q', 'k', 'v', 'g0', 'state')]
    for found, wanted in zip(cases.jit(many)(*inputs), cases.jit(one)(*inputs)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('case', [CASES[0], CASES[2]], ids=str)
def test_messages_do_not_grow_with_the_length(case):
    """Of 8,192 tokens a device sends states and decays, no more numbers than 20 states; one of its arrays has 300."""
    shape = SHAPES['split']
    size = lambda x: (x.shape[0], 2**16, *x.shape[2:]) if x.shape[1] == shape.tokens else x.shape
    arrays = {name: jax.ShapeDtypeStruct(size(x), 'float32') for name, x in cases.inputs(case).items()}
    names, _, many = _ops(case, arrays, _mesh())
    text = cases.jit(partial(_run, case, names=names, op=many)).lower(arrays).as_text()
    assert 0 < messages.received(text) <= 20 * shape.batch * shape.heads * shape.keys * shape.values
