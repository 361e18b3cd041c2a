"""The causal convolution of sequences split over devices: the numbers of a direct sum, and what is exchanged."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from longview.kernels.causal_conv1d import sequence_parallel_causal_conv1d
from longview.kernels.causal_conv1d.shapes import SHAPES
from tests.kernels import messages
from tests.kernels.causal_conv1d import cases
from tests.kernels.causal_conv1d.cases import Case
from tests.kernels.close import assert_close

TOKENS, SAME = PartitionSpec(None, 'tokens'), PartitionSpec()


def _outputs(devices, wrt):
    """Returns the outputs on so many devices by name."""
    mesh = jax.make_mesh(
        (devices,), ('tokens',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
    )

    def run(wrt):
        how = {'bias': wrt.get('bias'), 'initial_state': wrt.get('state')}
        y, last = sequence_parallel_causal_conv1d(wrt['x'], wrt['kernel'], **how, axis_name='tokens')
        return {'y': y, 'last': last}

    spec = {name: TOKENS if name == 'x' else SAME for name in wrt}
    return jax.shard_map(run, mesh=mesh, in_specs=(spec,), out_specs={'y': TOKENS, 'last': SAME})(wrt)


@partial(cases.jit, static_argnums=0)
def _run(devices, arrays):
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'dlast')}
    outputs, pull = jax.vjp(partial(_outputs, devices), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'y': arrays['dy'], 'last': arrays['dlast']})[0].items()}


@pytest.mark.parametrize(
    'case, devices',
    [
        (Case('power', state=True, bias=True), 4),
        (Case('long', bias=True, dtype='bfloat16'), 8),
        # Seven tokens and six before them on three devices' shards: what a device sees begins two devices before it.
        (Case('short', state=True), 8),
        (Case('short'), 4),
        (Case('one_tap', state=True), 5),
    ],
    ids=str,
)
def test_outputs_and_gradients(case, devices):
    assert SHAPES[case.shape].tokens % devices == 0
    arrays = cases.inputs(case)
    target = cases.wanted(case, arrays)
    assert_close(_run(devices, cases.device(case, arrays)), target, dict.fromkeys(target, cases.BARS[case.dtype]))


def test_what_is_exchanged_does_not_grow_with_the_length():
    """Three tokens from the neighbour and the last three to all; again for gradients, with those of the kernel."""
    shape = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)
    token, kernel, last = shape(2, 2**20, 12), shape(4, 12), shape(2, 3, 12)
    text = _run.lower(8, {'x': token, 'kernel': kernel, 'dy': token, 'dlast': last}).as_text()
    assert 2 * 72 <= messages.received(text) <= 5 * 72
