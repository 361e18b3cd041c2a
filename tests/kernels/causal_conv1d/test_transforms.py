"""The causal convolution under vmap, remat, scan, a mesh and export; its memory; its bytes on a TPU; its errors."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from tests.kernels import tpu
from tests.kernels.causal_conv1d import cases
from tests.kernels.causal_conv1d.cases import Case
from tests.kernels.close import assert_same


def _loss(x, kernel):
    return jnp.sum(causal_conv1d(x, kernel)[0] ** 2)


def test_vmap_remat_and_scan():
    case = Case('odd')
    arrays = cases.device(case, cases.inputs(case))
    pairs = np.stack([arrays['x'], 2 * arrays['x']]), np.stack([arrays['kernel'], -arrays['kernel']])
    both = cases.jit(jax.grad(_loss, (0, 1)))
    name = lambda grads: dict(zip(('dx', 'dkernel'), grads))
    wanted = name(np.stack(x) for x in zip(*(both(*pair) for pair in zip(*pairs))))
    remat = jax.grad(jax.checkpoint(_loss), (0, 1))
    scan = lambda *pairs: jax.lax.scan(lambda c, p: (c, remat(*p)), None, pairs)[1]
    mapped, scanned = cases.jit(lambda *pairs: (jax.vmap(remat)(*pairs), scan(*pairs)))(*pairs)
    assert_same(name(mapped), wanted)
    assert_same(name(scanned), wanted)


@pytest.mark.parametrize('state', [False, True])
def test_batch_and_channels_over_a_mesh_gather_nothing(state):
    """The cotangents of kernel and bias are summed over the batch; nothing else is exchanged."""
    case = Case('mesh', bias=True, state=state)
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = lambda x: PartitionSpec(*('data', None, 'tensor') if x.ndim == 3 else (*[None] * (x.ndim - 1), 'tensor'))
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(x))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, 'xla', split).compile()
    words = ['all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter']
    assert not [word for word in words if word in compiled.as_text()]
    found = compiled(split)
    assert all(not x.sharding.is_fully_replicated for x in found.values())
    assert_same(found, cases.run(case, 'xla', arrays))


def test_inside_of_shard_map():
    """Over the batch; gradients of shared inputs are summed over the devices."""
    case = Case('mesh')
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    spec = (PartitionSpec('data'), PartitionSpec())
    op = lambda x, kernel: causal_conv1d(x, kernel)[0]
    split = jax.shard_map(op, mesh=mesh, in_specs=spec, out_specs=spec[0])
    pull = lambda op: cases.jit(lambda x, kernel, dy: jax.vjp(op, x, kernel)[1](dy))(
        arrays['x'], arrays['kernel'], arrays['dy']
    )
    name = lambda grads: dict(zip(('dx', 'dkernel'), grads))
    assert_same(name(pull(split)), name(pull(op)))


def test_memory_on_a_cpu_is_less_than_three_sequences():
    """Temporaries of the gradients: the padded sequence, the padded cotangent, and the like."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 16384, 64), (4, 64)))
    pull = lambda x, kernel, dy: jax.vjp(lambda *a: causal_conv1d(*a)[0], x, kernel)[1](dy)
    memory = jax.jit(pull).lower(x, kernel, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 3 * x.size * 4


def test_a_tpu_moves_each_array_once():
    """So there is no Pallas kernel. Forward x and y; for gradients x, dy and dx (and dy again with a bias)."""
    token, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((8, 4096, 512), (4, 512)))
    op = lambda x, kernel: causal_conv1d(x, kernel)[0]
    size = token.size * 2
    forward = tpu.compile_for(op, token, kernel)
    gradients = tpu.compile_for(lambda x, kernel, dy: jax.vjp(op, x, kernel)[1](dy), token, kernel, token)
    assert forward.bytes <= 2.02 * size and gradients.bytes <= 3.02 * size
    assert max(forward.temp, gradients.temp) <= 0.01 * size


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda', 'rocm'])
def test_export(platform):
    case = Case('odd', bias=True, state=True)
    arrays = cases.device(case, cases.inputs(case))
    exported = jax.export.export(jax.jit(partial(cases.traced, case, None)), platforms=[platform])(arrays)
    assert exported.platforms == (platform,)


@pytest.mark.parametrize(
    'function, shapes, options, message',
    [
        (causal_conv1d, {'x': (8, 3)}, {}, r'x has shape \(8, 3\); wanted \(batch, tokens, channels\)'),
        (causal_conv1d, {'x': (2, 0, 3)}, {}, r'x has shape \(2, 0, 3\); .* none 0'),
        (causal_conv1d, {'kernel': (4, 1, 3)}, {}, r'kernel has shape \(4, 1, 3\); wanted \(taps, 3\)'),
        (causal_conv1d, {'bias': (4,)}, {}, r'bias has shape \(4,\); wanted \(3,\)'),
        (causal_conv1d, {'initial_state': (2, 4, 3)}, {}, r'\(2, 4, 3\); wanted .* here \(2, 3, 3\)'),
        (causal_conv1d, {}, {'implementation': 'pallas_tpu'}, "no implementation 'pallas_tpu'"),
        (causal_conv1d_step, {'state': (2, 3, 3)}, {}, r'x has shape \(2, 8, 3\); wanted \(batch, channels\)'),
    ],
)
def test_what_does_not_fit_is_refused_in_words(function, shapes, options, message):
    arrays = {name: jnp.ones(shape) for name, shape in ({'x': (2, 8, 3), 'kernel': (4, 3)} | shapes).items()}
    call = partial(inspect.unwrap(function), **options)  # without the shape checks of the tests
    with pytest.raises(ValueError, match=message):
        call(arrays.pop('x'), arrays.pop('kernel'), **arrays)
