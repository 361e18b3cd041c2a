"""The convolution under vmap, remat, scan, meshes and export; its second derivative, its choices, what it refuses."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.conv2d import conv2d
from longview.kernels.conv2d.shapes import SHAPES
from tests.kernels.close import assert_same
from tests.kernels.conv2d import cases
from tests.kernels.conv2d.cases import Case

AUTO = jax.sharding.AxisType.Auto


@pytest.mark.parametrize('shape', ['odd_strided', 'matrix_strided'])
def test_vmap_remat_and_scan(shape):
    case = Case(shape, padding=0)
    arrays = cases.device(case, cases.inputs(case))
    several = {name: np.stack([x, -2 * x, x[..., ::-1]]) for name, x in arrays.items()}
    op = partial(conv2d, **case.how, implementation='products')
    one = lambda arrays: cases.outputs(jax.checkpoint(op), arrays)
    scan = lambda several: jax.lax.scan(lambda c, x: (c, one(x)), None, several)[1]
    mapped, scanned = cases.jit(lambda several: (jax.vmap(one)(several), scan(several)))(several)
    apart = [cases.run(case, 'products', {name: x[n] for name, x in several.items()}) for n in range(3)]
    wanted = jax.tree.map(lambda *x: np.stack(x), *apart)
    assert_same(mapped, wanted)
    assert_same(scanned, wanted)


@pytest.mark.parametrize('shape', ['mesh', 'mesh_matrix'])
@pytest.mark.parametrize('kind', [AUTO, jax.sharding.AxisType.Explicit], ids=str)
def test_a_batch_over_every_axis_of_a_mesh_gathers_nothing(kind, shape):
    """Split as in train.py; only the gradient of the kernel is summed."""
    case = Case(shape)
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(kind,) * 2)
    spec = lambda name: PartitionSpec(*[('data', 'fsdp')] * (name != 'kernel'))
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(name))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, None, split).compile()
    assert 'all-gather' not in compiled.as_text() and 'all-to-all' not in compiled.as_text()
    assert_same({name: np.asarray(x) for name, x in compiled(split).items()}, cases.run(case, 'conv', arrays))


@pytest.mark.parametrize('shape', ['mesh', 'mesh_matrix'])
def test_inside_of_shard_map(shape):
    """Over the batch; the gradient of a shared kernel is summed over the devices."""
    case = Case(shape)
    arrays = cases.device(case, cases.inputs(case))
    mesh, images = jax.make_mesh((8,), ('data',), axis_types=(AUTO,)), PartitionSpec('data')
    op = partial(conv2d, **case.how)
    split = jax.shard_map(op, mesh=mesh, in_specs=(images, PartitionSpec()), out_specs=images)
    assert_same(cases.jit(partial(cases.outputs, split))(arrays), cases.run(case, 'conv', arrays))


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda', 'rocm'])
def test_off_cpus_everything_is_xla_s_convolution(platform):
    def program(shape, implementation):
        case = Case(shape)
        shapes = {name: jax.ShapeDtypeStruct(x.shape, jnp.float32) for name, x in cases.inputs(case).items()}
        run = jax.jit(partial(cases.outputs, partial(conv2d, **case.how, implementation=implementation)))
        text = jax.export.export(run, platforms=[platform])(shapes).mlir_module()
        return [text.count(f'stablehlo.{op}') for op in ('convolution', 'dot_general', 'while')]

    for shape, products in (('large', [2, 9, 1]), ('matrix', [0, 3, 0])):
        assert program(shape, None) == (products if platform == 'cpu' else program(shape, 'conv'))


@pytest.mark.parametrize(
    'shape, products',
    [
        ('large', True),
        ('large_strided', True),
        ('below', False),
        ('narrow', False),
        ('many_taps', False),
    ],
)
def test_products_are_taken_for_large_images_and_small_kernels(shape, products):
    shape = SHAPES[shape]
    image, kernel = jnp.zeros(shape[:4]), jnp.zeros((*shape[5:7], shape.channels, shape.outputs))
    loss = lambda kernel: conv2d(image, kernel, stride=shape.stride, padding='SAME').sum()
    assert ('stablehlo.while' in jax.jit(jax.grad(loss)).lower(kernel).as_text()) == products


@pytest.mark.parametrize('shape', ['odd_strided', 'matrix_strided'])
def test_second_derivatives(shape):
    case = Case(shape)
    arrays = cases.device(case, cases.inputs(case))

    def slope(implementation):
        op = partial(conv2d, **case.how, implementation=implementation)
        loss = lambda x, kernel: jnp.sum(op(x, kernel) ** 3)
        size = lambda *at: sum(jnp.sum(part**2) for part in jax.grad(loss, argnums=(0, 1))(*at))
        return dict(zip(('x', 'kernel'), cases.jit(jax.grad(size, argnums=(0, 1)))(arrays['x'], arrays['kernel'])))

    wanted = slope('conv')
    assert_same(slope('products'), wanted)
    assert_same(slope(None), wanted)


@pytest.mark.parametrize(
    'shapes, options, message',
    [
        ({'x': (8, 8, 4)}, {}, r'x has shape \(8, 8, 4\); wanted \(batch, height, width, channels\)'),
        ({'kernel': (3, 3, 4)}, {}, r'kernel has shape \(3, 3, 4\); wanted \(height, width, inputs, outputs\)'),
        ({'kernel': (3, 3, 3, 6)}, {}, r'kernel has shape \(3, 3, 3, 6\).* divide the 4 channels'),
        ({'kernel': (3, 3, 2, 5)}, {}, 'kernel has 5 outputs for 2 groups; wanted a multiple'),
        ({'kernel': (9, 3, 4, 4)}, {}, 'kernel is 9 x 3 pixels.*only 8 x 8: pad more'),
        ({}, {'padding': 'FULL'}, "padding is 'FULL'; wanted 'SAME', 'VALID'"),
        ({}, {'padding': -1}, 'padding is .* wanted no number below 0'),
        ({}, {'stride': 0}, 'stride is 0; wanted 1 or more'),
        ({}, {'implementation': 'product'}, "no implementation 'product'.*the nearest is 'products'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(shapes, options, message):
    arrays = {name: jnp.ones(shape) for name, shape in ({'x': (2, 8, 8, 4), 'kernel': (3, 3, 4, 4)} | shapes).items()}
    call = partial(inspect.unwrap(conv2d), **options)  # without the shape checks of the tests
    with pytest.raises(ValueError, match=message):
        call(arrays['x'], arrays['kernel'])
