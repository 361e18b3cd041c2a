"""The depthwise convolution under vmap, remat, scan, meshes and export; its memory; its choices; what it refuses."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.depthwise_conv import depthwise_conv, inception_conv
from tests.kernels.close import assert_same
from tests.kernels.depthwise_conv import cases
from tests.kernels.depthwise_conv.cases import Case

FORMS = pytest.mark.parametrize('form', ['shift', 'spectral'])
AUTO = jax.sharding.AxisType.Auto


@FORMS
def test_vmap_remat_and_scan(form):
    case = Case('small')
    arrays = cases.device(case, cases.inputs(case))
    several = {name: np.stack([x, -2 * x, x[..., ::-1]]) for name, x in arrays.items()}
    one = lambda arrays: cases.outputs(jax.checkpoint(partial(depthwise_conv, implementation=form)), arrays)
    scan = lambda several: jax.lax.scan(lambda c, x: (c, one(x)), None, several)[1]
    share = lambda several: jax.vmap(lambda x: one(arrays | {'x': x}))(several['x'])
    mapped, scanned, shared = cases.jit(lambda several: (jax.vmap(one)(several), scan(several), share(several)))(
        several
    )
    apart = [cases.run(case, form, {name: x[n] for name, x in several.items()}) for n in range(3)]
    wanted = jax.tree.map(lambda *x: np.stack(x), *apart)
    assert_same(mapped, wanted)
    assert_same(scanned, wanted)
    assert_same({'dx': shared['dx'][1], 'y': shared['y'][1]}, {'dx': apart[0]['dx'], 'y': -2 * apart[0]['y']})


@pytest.mark.parametrize('form', ['shift', 'spectral', 'conv', None])
def test_batch_and_channels_over_a_mesh_gather_nothing(form):
    """The kernel's gradient is summed over the batch; nothing else is exchanged."""
    case = Case('mesh')
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(AUTO,) * 2)
    spec = lambda name: PartitionSpec(None if name == 'kernel' else 'data', None, None, 'tensor')
    split = {name: jax.device_put(x, NamedSharding(mesh, spec(name))) for name, x in arrays.items()}
    compiled = cases.run.lower(case, form, split).compile()
    words = ['all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter']
    assert not [word for word in words if word in compiled.as_text()]
    found = compiled(split)
    assert all(not x.sharding.is_fully_replicated for x in found.values())
    assert_same(found, cases.run(case, form, arrays))


@pytest.mark.parametrize('kind', [AUTO, jax.sharding.AxisType.Explicit], ids=str)
def test_a_batch_over_every_axis_of_a_mesh(kind):
    """Split as in train.py."""
    case = Case('mesh')
    arrays = cases.device(case, cases.inputs(case))
    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(kind,) * 2)
    with jax.set_mesh(mesh):
        spec = lambda name: PartitionSpec(*[('data', 'fsdp')] * (name != 'kernel'))
        split = {name: jax.device_put(x, NamedSharding(mesh, spec(name))) for name, x in arrays.items()}
        compiled = cases.run.lower(case, None, split).compile()
        assert 'all-gather' not in compiled.as_text() and 'all-to-all' not in compiled.as_text()
        found = {name: np.asarray(x) for name, x in compiled(split).items()}
    assert_same(found, cases.run(case, None, arrays))


@FORMS
def test_inside_of_shard_map(form):
    """Over the batch; the gradient of a shared kernel is summed over the devices."""
    case = Case('mesh')
    arrays = cases.device(case, cases.inputs(case))
    mesh, images = jax.make_mesh((8,), ('data',), axis_types=(AUTO,)), PartitionSpec('data')
    op = partial(depthwise_conv, implementation=form)
    split = jax.shard_map(op, mesh=mesh, in_specs=(images, PartitionSpec()), out_specs=images)
    assert_same(cases.jit(partial(cases.outputs, split))(arrays), cases.run(case, form, arrays))


@pytest.mark.parametrize('form, images', [('shift', 5), ('spectral', 3)])
def test_memory_on_a_cpu_is_that_of_some_copies_of_the_images(form, images):
    """Temporaries of output and gradients; an array per tap would be 49 copies."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 28, 28, 32), (7, 7, 1, 32)))
    run = partial(cases.outputs, partial(depthwise_conv, implementation=form))
    compiled = jax.jit(run).lower({'x': x, 'kernel': kernel, 'dy': x}).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= images * x.size * 4


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda', 'rocm'])
def test_each_platform_gets_its_form(platform):
    """Shifts, or spectra for a large kernel, on CPUs; a Pallas kernel, or XLA's convolution for those, on TPUs."""
    export = lambda side: jax.export.export(jax.jit(depthwise_conv), platforms=[platform])(
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 16, 16, 4), (side, side, 1, 4)))
    ).mlir_module()
    small, large = export(3), export(13)
    assert ('stablehlo.fft' in large) == (platform == 'cpu') and 'stablehlo.fft' not in small
    assert ('stablehlo.convolution' in large) == (platform != 'cpu')
    assert ('stablehlo.convolution' in small) == (platform in ('cuda', 'rocm'))
    assert ('tpu_custom_call' in small) == (platform == 'tpu')


@FORMS
def test_second_derivatives(form):
    x, kernel = jnp.arange(18.0).reshape(1, 3, 3, 2) % 5, jnp.arange(18.0).reshape(3, 3, 1, 2) % 4
    slope = lambda x, how: jax.grad(lambda x: jnp.sum(depthwise_conv(x, kernel, implementation=how) ** 3))(x)
    twice = lambda how: cases.jit(jax.grad(lambda x: jnp.sum(slope(x, how) ** 2)))(x)
    np.testing.assert_allclose(twice(form), twice('reference'), rtol=1e-4)


@pytest.mark.parametrize(
    'shapes, options, message',
    [
        ({'x': (8, 8, 4)}, {}, r'x has shape \(8, 8, 4\); wanted \(batch, height, width, channels\)'),
        ({'kernel': (3, 3, 4)}, {}, r'kernel has shape \(3, 3, 4\); wanted \(height, width, 1, channels\)'),
        ({'kernel': (3, 3, 1, 6)}, {}, r'kernel has shape \(3, 3, 1, 6\).* with 4 channels or a multiple'),
        ({'kernel': (9, 3, 1, 4)}, {'padding': 'VALID'}, 'kernel spans 9 x 3 pixels.*only 8 x 8: pad more'),
        ({}, {'padding': 'FULL'}, "padding is 'FULL'; wanted 'SAME', 'VALID'"),
        ({}, {'padding': -1}, 'padding is .* wanted no number below 0'),
        ({}, {'stride': 0}, 'stride is 0; wanted 1 or more'),
        ({}, {'implementation': 'shfit'}, "no implementation 'shfit'.*the nearest is 'shift'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(shapes, options, message):
    arrays = {name: jnp.ones(shape) for name, shape in ({'x': (2, 8, 8, 4), 'kernel': (3, 3, 1, 4)} | shapes).items()}
    call = partial(inspect.unwrap(depthwise_conv), **options)  # without the shape checks of the tests
    with pytest.raises(ValueError, match=message):
        call(arrays['x'], arrays['kernel'])


@pytest.mark.parametrize(
    'channels, row, message',
    [
        (5, 3, 'x has 5 channels; wanted at least 6'),
        (6, 4, 'row is 1 x 4; wanted odd sides'),
    ],
)
def test_an_inception_that_does_not_fit_is_refused_in_words(channels, row, message):
    kernels = (jnp.ones((*sides, 1, 2)) for sides in ((3, 3), (1, row), (5, 1)))
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(inception_conv)(jnp.ones((1, 4, 4, channels)), *kernels)
