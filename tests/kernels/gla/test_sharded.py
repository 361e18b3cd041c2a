"""Gated linear attention of one sequence on eight devices: the numbers of one device, and messages of constant size."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from longview.kernels.gla import bidirectional_gla, gla, sequence_parallel_bidirectional_gla, sequence_parallel_gla
from tests.kernels.close import assert_close
from tests.kernels.gla import cases, test_numbers
from tests.kernels.gla.cases import Case

TOKENS, WHOLE = PartitionSpec(None, 'tokens'), PartitionSpec()
CASES = [Case('split', state=True), Case('split', reverse=True, gates='h', state=True), Case('split', gates='kh')]
SIZES = {'f32': 4, 'pred': 1, 's32': 4, 'u32': 4}


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
def test_the_same_numbers_as_one_device(case, decay):
    arrays = cases.device(case, cases.inputs(case, cases.mild if decay == 'mild' else test_numbers.DECAYS[decay]))
    names, one, many = _ops(case, arrays, _mesh())
    found, wanted = (cases.jit(partial(_run, case, names=names, op=op))(arrays) for op in (many, one))
    assert_close(found, wanted, dict.fromkeys(wanted, 3e-6))


def test_any_number_of_devices():
    case = CASES[0]
    arrays = cases.device(case, cases.inputs(case))
    arrays = {name: x if x.shape[1:] == arrays['state'].shape[1:] else x[:, :36] for name, x in arrays.items()}
    _, one, many = _ops(case, arrays, _mesh(3))
    inputs = [arrays[name] for name in ('q', 'k', 'v', 'g0', 'state')]
    for found, wanted in zip(cases.jit(many)(*inputs), cases.jit(one)(*inputs)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _messages(case, tokens):
    """Returns the bytes of all collectives of outputs and gradients in the program of one device."""
    arrays = cases.inputs(case)
    grow = lambda x: np.resize(x, (x.shape[0], tokens, *x.shape[2:])) if x.shape[1] == 64 else x
    arrays = {name: jnp.asarray(grow(x), 'float32') for name, x in arrays.items()}
    names, _, many = _ops(case, arrays, _mesh())
    text = cases.jit(partial(_run, case, names=names, op=many)).lower(arrays).compile().as_text()
    found = re.findall(r'= (.*?) (?:all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(', text)
    sizes = [(kind, shape) for line in found for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', line)]
    return sum(SIZES[kind] * int(np.prod([int(n) for n in shape.split(',') if n])) for kind, shape in sizes)


@pytest.mark.parametrize('case', [CASES[0], CASES[2]], ids=str)
def test_messages_do_not_grow_with_the_length(case):
    short, long = _messages(case, 64), _messages(case, 256)
    assert 0 < short == long
