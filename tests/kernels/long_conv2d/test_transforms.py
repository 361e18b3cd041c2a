"""The convolution of images under vmap, remat, scan, a mesh and compilers of TPUs; its memory; and what it refuses."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.long_conv2d import global_filter, long_conv2d
from tests.kernels import tpu
from tests.kernels.long_conv2d import cases
from tests.kernels.long_conv2d.cases import Case


def _same(found, wanted):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), found, wanted)


def test_vmap_remat_and_scan():
    arrays = cases.device(Case('seven'), cases.inputs(Case('seven')))
    u, kernel = arrays['u'], arrays['kernel']
    loss = lambda u, kernel: jnp.sum(long_conv2d(u, kernel) ** 2)
    both = cases.jit(jax.grad(loss, (0, 1)))
    pairs = np.stack([u, 2 * u]), np.stack([kernel, -kernel])
    wanted = jax.tree.map(lambda *x: np.stack(x), *(both(x, k) for x, k in zip(*pairs)))
    remat = jax.grad(jax.checkpoint(loss), (0, 1))
    scan = lambda *pairs: jax.lax.scan(lambda c, p: (c, remat(*p)), None, pairs)[1]
    mapped, scanned = cases.jit(lambda *pairs: (jax.vmap(remat)(*pairs), scan(*pairs)))(*pairs)
    _same(mapped, wanted)
    _same(scanned, wanted)


def test_second_derivatives():
    u, kernel = jnp.ones((1, 3, 3, 1)), jnp.arange(4.0).reshape(2, 2, 1)
    op = partial(long_conv2d, implementation='xla')
    both = cases.jit(lambda u: (jax.hessian(lambda u: jnp.sum(op(u, kernel) ** 2))(u), jax.jacobian(op)(u, kernel)))
    found, matrix = (np.asarray(x).reshape(9, 9) for x in both(u))
    np.testing.assert_allclose(found, 2 * matrix.T @ matrix, atol=1e-5)


@pytest.mark.parametrize('spectral', [False, True])
def test_a_mesh_gathers_nothing(spectral):
    """Batch over `data`, channels over `tensor`; only the gradient of a shared kernel is summed over the batch."""
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    case = Case('mesh', spectral=spectral, apart=not spectral)
    arrays = cases.device(case, cases.inputs(case))
    shared = lambda name: spectral and name == 'kernel'
    spec = lambda name: PartitionSpec(None if shared(name) else 'data', None, None, 'tensor')
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(name))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, None, split).compile()
    words = ['all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'] + ['all-reduce'] * (not spectral)
    assert not [word for word in words if word in compiled.as_text()]
    _same(compiled(split), cases.run(case, None, arrays))


def test_temporaries_are_a_few_images():
    image, kernel = (jax.ShapeDtypeStruct((*batch, 28, 28, 32), jnp.float32) for batch in ((8,), ()))
    loss = lambda u, kernel: jnp.sum(long_conv2d(u, kernel, circular=True) ** 2)
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(image, kernel).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 8 * 4 * 8 * 28 * 28 * 32


@tpu.on_chips('v4')
@pytest.mark.parametrize('side, dtype', [(14, jnp.float32), (56, jnp.bfloat16)])
def test_compiles_for_every_chip(side, dtype, chip):
    spectrum = jax.ShapeDtypeStruct((side // 2 + 1, 2, side, 192), dtype)
    image = jax.ShapeDtypeStruct((2, side, side, 192), dtype)
    both = lambda dy, *x: jax.vjp(global_filter, *x)[1](dy)
    found = tpu.compile_for(both, image, image, spectrum, chip=chip)
    assert 'tpu_custom_call' in found.program.as_text()


def test_tpu_kernels_move_less_than_matrices():
    image, spectrum = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 14, 14, 128), (8, 2, 14, 128)))
    kernels, matrices = (
        tpu.compile_for(partial(global_filter, implementation=name), image, spectrum) for name in ('pallas_tpu', 'xla')
    )
    assert kernels.bytes <= 0.6 * matrices.bytes, (kernels.bytes, matrices.bytes)


@pytest.mark.parametrize(
    'shapes, options, message',
    [
        ({'u': (2, 8, 3)}, {}, r'u has shape \(2, 8, 3\); wanted \(batch, rows, columns, channels\)'),
        ({'kernel': (8, 8, 4)}, {}, r'kernel has shape \(8, 8, 4\); wanted \(rows, columns, 3\), or \(2, rows'),
        ({'kernel': (3, 8, 8, 3)}, {}, r'kernel has shape \(3, 8, 8, 3\)'),
        ({'kernel': (9, 8, 3)}, {'circular': True}, r'kernel is \(9, 8\); a circular convolution of \(8, 8\) pixels'),
        ({}, {'origin': (8, 0)}, r'origin is \(8, 0\); wanted a tap of the kernel, which is \(8, 8\)'),
        ({'pre_gate': (2, 8, 8, 1)}, {}, r'pre_gate has shape \(2, 8, 8, 1\); wanted that of u'),
        ({'skip': (2,)}, {}, r'skip has shape \(2,\); wanted \(3,\)'),
        ({}, {'implementation': 'xxla'}, "no implementation 'xxla'.*the nearest is 'xla'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(shapes, options, message):
    arrays = {name: jnp.ones(shape) for name, shape in ({'u': (2, 8, 8, 3), 'kernel': (8, 8, 3)} | shapes).items()}
    call = partial(inspect.unwrap(long_conv2d), **options)  # without the shape checks of the tests
    with pytest.raises(ValueError, match=message):
        call(arrays.pop('u'), arrays.pop('kernel'), **arrays)


def test_what_a_filter_refuses():
    call = inspect.unwrap(global_filter)
    with pytest.raises(ValueError, match=r'spectrum has shape \(5, 2, 8, 4\); wanted \(5, 2, 8, 3\)'):
        call(jnp.ones((2, 8, 8, 3)), jnp.ones((5, 2, 8, 4)))
    image, spectrum = jnp.ones((1, 256, 256, 3)), jnp.ones((129, 2, 256, 3))
    with pytest.raises(NotImplementedError, match=r'images of \(256, 256\) .* do not fit into the vector memory'):
        call(image, spectrum, implementation='pallas_tpu')
