"""The linear scan of sequences split over eight devices: the numbers of one device, and what is exchanged."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from longview.kernels.linear_scan import linear_scan, sequence_parallel_linear_scan
from tests.kernels import messages
from tests.kernels.close import assert_close
from tests.kernels.linear_scan import cases
from tests.kernels.linear_scan.cases import BOTH, Case

TOKENS = PartitionSpec(None, 'tokens')


def _mesh():
    return jax.make_mesh((8,), ('tokens',), axis_types=(jax.sharding.AxisType.Auto,))


def _outputs(case, wrt):
    """Returns the outputs on the mesh by name."""

    def run(wrt):
        how = {'initial_state': wrt.get('state'), 'reverse': case.reverse}
        h, last = sequence_parallel_linear_scan(wrt['a'], wrt['x'], axis_name='tokens', **how)
        return {'h': h, 'last': last}

    spec = {name: TOKENS if x.ndim == 3 else PartitionSpec() for name, x in wrt.items()}
    return jax.shard_map(run, mesh=_mesh(), in_specs=(spec,), out_specs={'h': TOKENS, 'last': PartitionSpec()})(wrt)


@partial(cases.jit, static_argnums=0)
def _run(case, arrays):
    wrt = {name: x for name, x in arrays.items() if name not in ('dh', 'dlast')}
    outputs, pull = jax.vjp(partial(_outputs, case), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'h': arrays['dh'], 'last': arrays['dlast']})[0].items()}


@pytest.mark.parametrize(
    'case',
    [
        Case('split', state=True, reverse=True),
        Case('split', constant=True, complex=BOTH),
    ],
    ids=str,
)
def test_outputs_and_gradients(case):
    """Also with decays of which nothing, or everything, is left after a shard."""
    arrays = cases.inputs(case)
    if not case.constant:
        arrays['a'][:, :, ::2] = 1
        arrays['a'][:, ::200, ::3] = 0
    target = cases.wanted(case, arrays)
    found = _run(case, cases.device(case, arrays))
    assert_close(cases.parts(found), cases.parts(target), cases.bars(case, target))


def test_what_is_exchanged_does_not_grow_with_the_length():
    """States: three rounds of two, one at the end, the last state; twice that again for gradients."""
    token, state = (jax.ShapeDtypeStruct(size, jnp.float32) for size in ((2, 2**20, 12), (2, 12)))
    arrays = {'a': token, 'x': token, 'dh': token, 'state': state, 'dlast': state}
    assert 8 * 24 <= messages.received(_run.lower(Case('split', state=True), arrays).as_text()) <= 17 * 24


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_lowers_for(platform):
    arrays = cases.device(Case('split'), cases.inputs(Case('split')))
    text = _run.trace(Case('split'), arrays).lower(lowering_platforms=(platform,)).as_text()
    assert ('tpu_custom_call' in text) == (platform == 'tpu')


@pytest.mark.parametrize('implementation', ['xla', pytest.param('reference', marks=pytest.mark.heavy)])
def test_each_device_its_own_sequences(implementation):
    """Inside of `shard_map` over the batch; the gradient of a shared decay is summed over the devices."""
    case = Case('mesh', constant=True)
    arrays = cases.device(case, cases.inputs(case))
    op = lambda a, x: linear_scan(a, x, implementation=implementation)[0]
    spec = (PartitionSpec(), PartitionSpec('tokens'))
    split = jax.shard_map(op, mesh=_mesh(), in_specs=spec, out_specs=PartitionSpec('tokens'))
    pull = lambda op: cases.jit(lambda a, x, dh: jax.vjp(op, a, x)[1](dh))(arrays['a'], arrays['x'], arrays['dh'])
    name = lambda found: dict(zip(('da', 'dx'), found))
    assert_close(name(pull(split)), name(pull(op)), dict.fromkeys(('da', 'dx'), 2e-6))
