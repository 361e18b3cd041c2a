"""The selective scan under vmap, remat, scan and a mesh; its memory; its programs for other platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.selective_scan import selective_scan
from tests.kernels.close import assert_same
from tests.kernels.selective_scan import cases
from tests.kernels.selective_scan.cases import Case


def test_vmap():
    case = Case('grouped', state=True)
    several = [cases.device(case, cases.inputs(case))] * 2
    several[1] = jax.tree.map(lambda x: x[::-1] * 0.5, several[1])
    stacked = jax.tree.map(lambda *x: np.stack(x), *several)
    found = jax.vmap(partial(cases.run, case, 'xla'))(stacked)
    for n, arrays in enumerate(several):
        assert_same({name: x[n] for name, x in found.items()}, cases.run(case, 'xla', arrays))


def test_remat_and_scan():
    """Two rematerialized layers in a scan, compared with a Python loop."""
    case = Case('odd', full=False)
    arrays = cases.device(case, cases.inputs(case))
    delta, A, B, C = (arrays[name] for name in ('delta', 'A', 'B', 'C'))

    def layer(u, scale):
        return u + selective_scan(u, delta * scale, A, B, C)[0], None

    def scanned(u, scales):
        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), u, scales)[0] ** 2)

    def written_out(u, scales):
        for scale in scales:
            u, _ = layer(u, scale)
        return jnp.sum(u**2)

    scales = jnp.array([0.5, 2.0])
    run = lambda f: cases.jit(jax.value_and_grad(f, (0, 1)))(arrays['u'], scales)
    name = lambda x: {'loss': x[0], 'du': x[1][0], 'dscales': x[1][1]}
    assert_same(name(run(scanned)), name(run(written_out)))


def _spec(name: str) -> PartitionSpec:
    """Batch over `data`, channels and groups over `tensor`."""
    if name in ('A', 'D', 'delta_bias'):
        return PartitionSpec('tensor')
    return PartitionSpec('data', 'tensor') if name in ('state', 'dlast') else PartitionSpec('data', None, 'tensor')


def test_batch_and_channels_over_a_mesh_gather_nothing():
    """Gradients of shared inputs are summed over the devices that share them, and nothing else is exchanged."""
    case = Case('mesh', state=True)
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = {name: jax.device_put(x, NamedSharding(mesh, _spec(name))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, 'xla', split).compile()
    text = compiled.as_text()
    words = ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter')
    assert not [word for word in words if word in text]
    found = compiled(split)
    assert all(not x.sharding.is_fully_replicated for x in found.values())
    assert_same(found, cases.run(case, 'xla', arrays))


def _grad(tokens):
    """Returns the lowered gradient of the op on a long sequence, and the bytes of inputs and cotangent."""
    batch, channels, states = 1, 384, 16
    shape = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)
    token, weight = shape(batch, tokens, channels), shape(batch, tokens, states)
    inputs = {'u': token, 'delta': token, 'z': token, 'B': weight, 'C': weight}
    inputs |= {'A': shape(channels, states), 'D': shape(channels), 'delta_bias': shape(channels)}
    pull = lambda inputs, dy: jax.vjp(lambda x: selective_scan(**x, softplus=True)[0], inputs)[1](dy)
    lowered = jax.jit(pull).lower(inputs, token)
    return lowered, 4 * sum(x.size for x in (*inputs.values(), token))


def test_programs_do_not_grow_with_the_length_and_need_less_memory_than_the_inputs():
    """Temporaries of the backward pass: mainly the state that enters each chunk, half a value per input value."""
    (short, _), (long, size) = (_grad(tokens) for tokens in (2048, 16384))
    assert short.as_text().count('\n') == long.as_text().count('\n')
    found = long.compile().memory_analysis().temp_size_in_bytes
    assert found <= 0.25 * size, (found, size)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_export(platform):
    """Also with a batch that a CPU processes in parts, and in bfloat16, which it casts to float32."""
    case = Case('wide', dtype='bfloat16')
    arrays = cases.device(case, cases.inputs(case))
    exported = jax.export.export(jax.jit(partial(cases.traced, case, None)), platforms=[platform])(arrays)
    assert exported.platforms == (platform,)
