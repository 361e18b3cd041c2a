"""The selective scan of sequences split over eight devices: the numbers of one device, and what is exchanged."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from longview.kernels.selective_scan import selective_scan, sequence_parallel_selective_scan
from tests.kernels import messages
from tests.kernels.close import assert_close
from tests.kernels.selective_scan import cases
from tests.kernels.selective_scan.cases import Case

TOKENS, SAME = PartitionSpec(None, 'tokens'), PartitionSpec()


def _mesh():
    return jax.make_mesh((8,), ('tokens',), axis_types=(jax.sharding.AxisType.Auto,))


def _outputs(case, wrt):
    """Returns the outputs on the mesh by name."""

    def run(wrt):
        wrt = {'initial_state' if name == 'state' else name: x for name, x in wrt.items()}
        y, last = sequence_parallel_selective_scan(**wrt, axis_name='tokens', softplus=case.full, reverse=case.reverse)
        return {'y': y, 'last': last}

    spec = {name: TOKENS if name in ('u', 'delta', 'B', 'C', 'z') else SAME for name in wrt}
    return jax.shard_map(run, mesh=_mesh(), in_specs=(spec,), out_specs={'y': TOKENS, 'last': SAME})(wrt)


@partial(cases.jit, static_argnums=0)
def _run(case, arrays):
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'dlast')}
    outputs, pull = jax.vjp(partial(_outputs, case), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'y': arrays['dy'], 'last': arrays['dlast']})[0].items()}


@pytest.mark.parametrize('case', [Case('split', state=True, reverse=True)], ids=str)
def test_outputs_and_gradients(case):
    """Decays are weak, or nothing of the first state would reach the second device."""
    arrays = cases.inputs(case)
    arrays['A'][:, ::2] *= 1e-3
    target = cases.wanted(case, arrays)
    assert_close(_run(case, cases.device(case, arrays)), target, cases.bars(case, target))


def test_what_is_exchanged_does_not_grow_with_the_length():
    """States: three rounds of two, one at the end, the last state; twice that again for gradients, and the weights'."""
    shape = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)
    token, weight, state, channel = shape(2, 2**20, 12), shape(2, 2**20, 4), shape(2, 12, 4), shape(12)
    arrays = {'u': token, 'delta': token, 'z': token, 'dy': token, 'A': shape(12, 4), 'B': weight, 'C': weight}
    arrays |= {'state': state, 'dlast': state, 'D': channel, 'delta_bias': channel}
    assert 8 * 96 <= messages.received(_run.lower(Case('split', state=True), arrays).as_text()) <= 20 * 96


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_lowers_for(platform):
    arrays = cases.device(Case('split'), cases.inputs(Case('split')))
    arrays |= {name: arrays[name][:, :, 0] for name in ('B', 'C')}
    text = _run.trace(Case('split'), arrays).lower(lowering_platforms=(platform,)).as_text()
    assert ('tpu_custom_call' in text) == (platform == 'tpu')


@pytest.mark.parametrize('implementation', ['xla', pytest.param('reference', marks=pytest.mark.heavy)])
def test_each_device_its_own_sequences(implementation):
    """Inside of `shard_map` over the batch; gradients of shared weights are summed over the devices."""
    case = Case('mesh', full=False)
    arrays = cases.device(case, cases.inputs(case))
    names = ('u', 'delta', 'A', 'B', 'C')
    spec = tuple(SAME if name == 'A' else PartitionSpec('tokens') for name in names)
    op = lambda *inputs: selective_scan(*inputs, implementation=implementation)[0]
    split = jax.shard_map(op, mesh=_mesh(), in_specs=spec, out_specs=PartitionSpec('tokens'))
    inputs = [arrays[name] for name in names]
    pull = lambda op: dict(zip(names, cases.jit(lambda inputs, dy: jax.vjp(op, *inputs)[1](dy))(inputs, arrays['dy'])))
    assert_close(pull(split), pull(op), dict.fromkeys(names, 2e-6))
