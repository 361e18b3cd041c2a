"""The linear scan under vmap, remat, scan and a mesh; its memory; its programs for other platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.linear_scan import linear_scan
from tests.kernels.close import assert_close
from tests.kernels.linear_scan import cases
from tests.kernels.linear_scan.cases import BOTH, Case


def _same(found, wanted):
    assert_close(cases.parts(found), cases.parts(wanted), dict.fromkeys(wanted, 2e-6))


def test_vmap():
    case = Case('class_token', state=True, constant=True, complex=BOTH)
    several = [cases.device(case, cases.inputs(case))] * 2
    several[1] = jax.tree.map(lambda x: x[::-1] * 0.5, several[1])
    stacked = jax.tree.map(lambda *x: np.stack(x), *several)
    found = jax.vmap(partial(cases.run, case, 'xla'))(stacked)
    for n, arrays in enumerate(several):
        _same({name: x[n] for name, x in found.items()}, cases.run(case, 'xla', arrays))


def test_remat_and_scan():
    """Two rematerialized layers in a scan, compared with a Python loop."""
    arrays = cases.device(Case('class_token'), cases.inputs(Case('class_token')))

    def layer(x, scale):
        return linear_scan(arrays['a'] * scale, x)[0] / 4, None

    def scanned(x, scales):
        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), x, scales)[0] ** 2)

    def written_out(x, scales):
        for scale in scales:
            x, _ = layer(x, scale)
        return jnp.sum(x**2)

    scales = jnp.array([0.5, 1.0])
    run = lambda f: cases.jit(jax.value_and_grad(f, (0, 1)))(arrays['x'], scales)
    name = lambda x: {'loss': x[0], 'dx': x[1][0], 'dscales': x[1][1]}
    _same(name(run(scanned)), name(run(written_out)))


def _spec(name: str, constant: bool) -> PartitionSpec:
    """Batch over `data`, channels over `tensor`."""
    if name == 'a' and constant:
        return PartitionSpec('tensor')
    return PartitionSpec('data', 'tensor') if name in ('state', 'dlast') else PartitionSpec('data', None, 'tensor')


@pytest.mark.parametrize('case', [Case('mesh', state=True), Case('mesh', constant=True)], ids=str)
def test_batch_and_channels_over_a_mesh_gather_nothing(case):
    """A constant decay's cotangent is summed over the batch; nothing else is exchanged."""
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    place = lambda name, x: jax.device_put(x, NamedSharding(mesh, _spec(name, case.constant)))
    split = {name: place(name, x) for name, x in arrays.items()}
    compiled = cases.run.lower(case, 'xla', split).compile()
    text = compiled.as_text()
    words = ['all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'] + ['all-reduce'] * (not case.constant)
    assert not [word for word in words if word in text]
    found = compiled(split)
    assert all(not x.sharding.is_fully_replicated for x in found.values())
    _same(found, cases.run(case, 'xla', arrays))


def _grad(tokens, kind):
    """Returns the lowered gradient on a long sequence, and the bytes of inputs and cotangent."""
    token = jax.ShapeDtypeStruct((2, tokens, 256), kind)
    pull = lambda a, x, dh: jax.vjp(lambda *inputs: linear_scan(*inputs)[0], a, x)[1](dh)
    return jax.jit(pull).lower(token, token, token), 3 * token.size * token.dtype.itemsize


@pytest.mark.parametrize('kind', ['float32', 'complex64'])
def test_programs_do_not_grow_with_the_length_and_need_less_memory_than_the_inputs(kind):
    """Temporaries of the backward pass: mainly a few chunks, and the state that enters each chunk."""
    (short, _), (long, size) = (_grad(tokens, kind) for tokens in (2048, 16384))
    assert long.as_text().count('\n') <= short.as_text().count('\n')
    found = long.compile().memory_analysis().temp_size_in_bytes
    assert found <= 0.1 * size, (found, size)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
@pytest.mark.parametrize(
    'case',
    [
        Case('class_token', dtype='bfloat16'),
        Case('odd', constant=True, complex=BOTH),
    ],
    ids=str,
)
def test_export(platform, case):
    arrays = cases.device(case, cases.inputs(case))
    exported = jax.export.export(jax.jit(partial(cases.traced, case, None)), platforms=[platform])(arrays)
    assert exported.platforms == (platform,)
