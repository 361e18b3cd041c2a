"""Gated linear attention under vmap, remat, scan and a mesh; its memory; its programs for other platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.gla import bidirectional_gla, gla
from tests.kernels.close import assert_same
from tests.kernels.gla import cases
from tests.kernels.gla.cases import Case

ONE_WAY, TWO_WAY = Case('odd', state=True), Case('odd', gates='kk')
CHUNK = 8  # shorter than by default, to compile faster; there still are a loop over chunks, a rest, and halvings


@pytest.mark.parametrize('case', [pytest.param(ONE_WAY, marks=pytest.mark.heavy), TWO_WAY], ids=str)
def test_vmap(case):
    several = [cases.device(case, cases.inputs(case, batch=n)) for n in (2, 2)]
    several[1] = jax.tree.map(lambda x: x[::-1] * 0.5, several[1])
    stacked = jax.tree.map(lambda *x: np.stack(x), *several)
    found = jax.vmap(partial(cases.run, case, 'xla', chunk=CHUNK))(stacked)
    for n, arrays in enumerate(several):
        assert_same({name: x[n] for name, x in found.items()}, cases.run(case, 'xla', arrays, CHUNK))


def test_remat_and_scan():
    """Two rematerialized layers in a scan, compared with a Python loop."""
    arrays = cases.device(TWO_WAY, cases.inputs(TWO_WAY))
    q, k, v, g, h = (arrays[name] for name in ('q', 'k', 'v', 'g0', 'g1'))

    def layer(v, g):
        return bidirectional_gla(q, k, v, g, h, chunk=CHUNK) / 4, None

    def scanned(v, gs):
        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), v, gs)[0] ** 2)

    def written_out(v, gs):
        for g in gs:
            v, _ = layer(v, g)
        return jnp.sum(v**2)

    gs = jnp.stack([g, h])
    found, wanted = (cases.jit(jax.value_and_grad(f, (0, 1)))(v, gs) for f in (scanned, written_out))
    name = lambda x: {'loss': x[0], 'dv': x[1][0], 'dgs': x[1][1]}
    assert_same(name(found), name(wanted))


@pytest.mark.parametrize(
    'case', [pytest.param(Case('mesh', gates='kk'), marks=pytest.mark.heavy), Case('mesh', state=True)], ids=str
)
def test_batch_and_heads_over_a_mesh_need_no_communication(case):
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = lambda name: PartitionSpec(
        *(('data', 'tensor') if 'state' in name or name == 'dlast' else ('data', None, 'tensor'))
    )
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(name))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, 'xla', split, CHUNK).compile()
    text = compiled.as_text()
    words = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute', 'reduce-scatter')
    assert not [word for word in words if word in text]
    found = compiled(split)
    assert all(not x.sharding.is_fully_replicated for x in found.values())
    assert_same(found, cases.run(case, 'xla', arrays, CHUNK))


@pytest.mark.parametrize('implementation', ['xla', pytest.param('reference', marks=pytest.mark.heavy)])
def test_inside_of_shard_map(implementation):
    """With its checks; the gradient of a shared gate is summed over the devices."""
    case = Case('batch', state=True)
    arrays = cases.device(case, cases.inputs(case, batch=4))
    gate = arrays.pop('g0')[:1]
    mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])

    def loss(arrays, gate):
        q, k, v, do, state = (arrays[name] for name in ('q', 'k', 'v', 'do', 'state'))
        g = jnp.broadcast_to(gate, q.shape)
        return jnp.sum(do * gla(q, k, v, g, initial_state=state, implementation=implementation, chunk=CHUNK)[0])

    split = jax.shard_map(
        lambda *x: jax.lax.psum(loss(*x), 'data'),
        mesh=mesh,
        in_specs=(PartitionSpec('data'), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    found, wanted = (cases.jit(jax.grad(f, (0, 1)))(arrays, gate) for f in (split, loss))
    assert_same({'dgate': found[1]} | found[0], {'dgate': wanted[1]} | wanted[0])


def test_over_explicit_axes():
    """Each device works on its batch and heads without communication and keeps the layout; tokens must not be split."""
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    case = Case('batch', gates='h', state=True)
    arrays = cases.device(case, cases.inputs(case, batch=4))
    axes = lambda x: ('data', None, 'tensor') if x.shape[1] == 40 else ('data', 'tensor')
    spec = lambda x: PartitionSpec(*axes(x), *[None] * (x.ndim - len(axes(x))))
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(x))) for name, x in arrays.items()}
    with jax.set_mesh(mesh):
        compiled = cases.run.lower(case, 'xla', split, CHUNK).compile()
        text, found = compiled.as_text(), compiled(split)
        whole = jax.device_put(arrays['q'], NamedSharding(mesh, PartitionSpec(None, 'data')))
        with pytest.raises(ValueError, match='wanted batch and heads or channels to be split alone'):
            gla(whole, whole, whole, whole)
    words = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute', 'reduce-scatter')
    assert not [word for word in words if word in text]
    assert {name: x.sharding.spec for name, x in found.items()} == {name: spec(x) for name, x in found.items()}
    assert_same(found, cases.run(case, 'xla', arrays, CHUNK))


def _grad(bidirectional, tokens, keys=64, values=128):
    """Returns the lowered gradient of a loss on a long sequence, and the bytes of its inputs and cotangent."""
    row = lambda width: jax.ShapeDtypeStruct((1, tokens, 2, width), jnp.float32)
    inputs = (row(keys), row(keys), row(values)) + (row(keys),) * (1 + bidirectional)
    op = bidirectional_gla if bidirectional else (lambda *x: gla(*x)[0])
    loss = lambda *x: jnp.sum(op(*x) ** 2)
    lowered = jax.jit(jax.grad(loss, tuple(range(len(inputs))))).lower(*inputs)
    return lowered, sum(x.size * 4 for x in inputs) + inputs[2].size * 4


@pytest.mark.parametrize('bidirectional', [pytest.param(False, marks=pytest.mark.heavy), True])
def test_programs_do_not_grow_with_the_length_and_need_the_memory_of_the_inputs(bidirectional):
    """Temporaries of a training step (including the output) compared with inputs and cotangent."""
    (short, _), (long, size) = (_grad(bidirectional, tokens) for tokens in (2048, 16384))
    assert short.as_text().count('\n') == long.as_text().count('\n')
    found = long.compile().memory_analysis().temp_size_in_bytes
    assert found <= 1.25 * size, (found, size)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_export(platform):
    """Also with a batch that a CPU processes in parts, and in bfloat16, which it casts to float32."""
    case = Case('batch', gates='kk', dtype='bfloat16')
    arrays = cases.device(case, cases.inputs(case))
    exported = jax.export.export(jax.jit(partial(cases.traced, case, 'xla')), platforms=[platform])(arrays)
    assert exported.platforms == (platform,)
