"""Native code for CPUs: outputs and gradients as direct sums have them, transforms, a mesh, and what is without it."""

import pathlib
import shutil
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels import native
from longview.kernels.conv2d import conv2d
from longview.kernels.depthwise_conv import depthwise_conv, inception_conv
from tests.kernels import close, pull
from tests.kernels.conv2d import cases as grouped
from tests.kernels.depthwise_conv import cases as depthwise

CACHE = pathlib.Path(__file__).parents[2] / '.cache'
BARS = dict.fromkeys(('y', 'dx', 'dkernel'), 1e-6)

needs_compiler = pytest.mark.skipif(shutil.which('c++') is None, reason='there is no compiler: c++ is not in PATH')


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv('LONGVIEW_CXX', 'c++')
    monkeypatch.setenv('CXXFLAGS', '-O1')  # a third of the time to compile
    monkeypatch.setenv('XDG_CACHE_HOME', str(CACHE))
    assert native.missing() is None
    yield


@needs_compiler
@pytest.mark.parametrize(
    'case',
    [
        depthwise.Case('seven'),
        depthwise.Case('wide', stride=2, multiplier=2),
        depthwise.Case('even', dilation=(2, 1), padding=((0, 4), (5, 1))),
        depthwise.Case('wide_row', stride=(1, 3)),
        depthwise.Case('column', padding='VALID'),
        depthwise.Case('pixel'),
    ],
    ids=str,
)
def test_depthwise(case, compiler):
    arrays = depthwise.inputs(case)
    found = depthwise.run(case, 'native_cpu', depthwise.device(case, arrays))
    close.assert_close(found, depthwise.wanted(case, arrays), BARS)


@needs_compiler
@pytest.mark.parametrize(
    'case',
    [
        grouped.Case('fours', padding=1, groups=4),
        grouped.Case('eights', padding=((0, 2), (3, 1)), groups=3),
        grouped.Case('channels', padding=1, groups=5),
    ],
    ids=str,
)
def test_channels_in_groups(case, compiler):
    arrays = grouped.inputs(case)
    found = grouped.run(case, 'native_cpu', grouped.device(case, arrays))
    close.assert_close(found, grouped.wanted(case, arrays), BARS)


@needs_compiler
def test_vmap_over_images_and_over_kernels(compiler):
    case = grouped.Case('fours', groups=4)
    arrays = grouped.device(case, grouped.inputs(case))
    x, kernel = (jnp.stack([arrays[name], -2 * arrays[name]]) for name in ('x', 'kernel'))
    op = partial(conv2d, padding='SAME', implementation='native_cpu')
    both, images, kernels = grouped.jit(
        lambda x, kernel: (
            jax.vmap(op)(x, kernel),
            jax.vmap(op, (0, None))(x, kernel[0]),
            jax.vmap(op, (None, 0))(x[0], kernel),
        )
    )(x, kernel)
    y = grouped.run(case, 'native_cpu', arrays)['y']
    close.assert_same(
        {'both': both, 'images': images, 'kernels': kernels},
        {'both': np.stack([y, 4 * y]), 'images': np.stack([y, -2 * y]), 'kernels': np.stack([y, -2 * y])},
    )


@needs_compiler
@pytest.mark.parametrize(
    'op, shape',
    [
        (partial(depthwise_conv, implementation='native_cpu'), (3, 3, 1, 8)),
        (partial(conv2d, padding=1, implementation='native_cpu'), (3, 3, 4, 8)),
    ],
    ids=['depthwise', 'groups'],
)
def test_a_batch_over_a_mesh_gathers_nothing(op, shape, compiler):
    random = np.random.default_rng(0)
    arrays = {'x': (8, 5, 6, 8), 'kernel': shape, 'dy': (8, 5, 6, 8)}
    arrays = {name: random.standard_normal(size).astype(np.float32) for name, size in arrays.items()}
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    place = lambda name: NamedSharding(mesh, PartitionSpec(*['data'] * (name != 'kernel')))
    split = {name: jax.device_put(x, place(name)) for name, x in arrays.items()}
    run = grouped.jit(lambda arrays: pull.results(lambda arrays: op(arrays['x'], arrays['kernel']), arrays))
    compiled = run.lower(split).compile()
    assert 'longview_convolve' in compiled.as_text() and 'all-gather' not in compiled.as_text()
    close.assert_same(jax.device_get(compiled(split)), run(arrays))


@needs_compiler
def test_inceptionnexts_mixer(compiler):
    random = np.random.default_rng(0)
    sizes = (2, 9, 8, 9), (3, 3, 1, 2), (1, 5, 1, 2), (5, 1, 1, 2)
    arrays = [random.standard_normal(size).astype(np.float32) for size in sizes]
    run = lambda how: grouped.jit(partial(inception_conv, implementation=how))(*arrays)
    close.assert_same({'y': run('native_cpu')}, {'y': run('reference')})


@needs_compiler
def test_second_derivatives(compiler):
    x, kernel = jnp.arange(72.0).reshape(1, 3, 3, 8) % 5, jnp.arange(288.0).reshape(3, 3, 4, 8) % 7
    slope = lambda x, how: jax.grad(lambda x: jnp.sum(conv2d(x, kernel, padding=1, implementation=how) ** 3))(x)
    twice = lambda how: grouped.jit(jax.grad(lambda x: jnp.sum(slope(x, how) ** 2)))(x)
    np.testing.assert_allclose(twice('native_cpu'), twice('reference'), rtol=1e-4)


def lowered(op, *shapes, dtype='float32'):
    """Returns the program of a CPU; its text is cached by shape, so that each test has shapes of its own."""
    return jax.jit(op).lower(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).as_text()


@needs_compiler
def test_it_is_the_default_with_a_compiler_for_what_it_serves(compiler):
    assert 'longview_convolve' in lowered(depthwise_conv, (1, 9, 9, 3), (3, 3, 1, 3))
    assert 'longview_convolve' in lowered(conv2d, (1, 9, 9, 8), (3, 3, 4, 8))
    assert 'longview' not in lowered(conv2d, (1, 9, 9, 9), (3, 3, 9, 9))
    assert 'longview' not in lowered(depthwise_conv, (1, 9, 9, 3), (1, 5, 1, 3))
    assert 'longview' not in lowered(depthwise_conv, (1, 9, 9, 3), (3, 3, 1, 3), dtype='bfloat16')
    with native.left_out():
        assert 'longview' not in lowered(depthwise_conv, (1, 9, 9, 3), (3, 3, 1, 3))


@pytest.mark.parametrize('command', ['', 'no-such-compiler', 'false'])
def test_without_a_compiler_that_works_plain_xla_runs(command, monkeypatch):
    monkeypatch.setenv('LONGVIEW_CXX', command)
    shapes = (1, 9, 9, 10 + len(command)), (3, 3, 1, 10 + len(command))
    if command:
        with pytest.warns(UserWarning, match=f'{command} failed to compile native.cc .*; plain XLA runs instead'):
            assert 'longview' not in lowered(depthwise_conv, *shapes)
    assert 'longview' not in lowered(depthwise_conv, *shapes)
    with pytest.raises(NotImplementedError, match='no compiler is named; wanted|failed to compile native.cc'):
        lowered(partial(depthwise_conv, implementation='native_cpu'), *shapes)


@pytest.mark.parametrize(
    'op, shapes, dtype, message',
    [
        (depthwise_conv, ((1, 9, 9, 3), (3, 3, 1, 3)), 'bfloat16', 'an input is bfloat16; wanted float32'),
        (depthwise_conv, ((1, 9, 9, 3), (21, 21, 1, 3)), 'float32', 'has 441 taps; wanted at most 169'),
        (conv2d, ((1, 9, 9, 6), (3, 3, 6, 6)), 'float32', 'the channels are one group; wanted several'),
        (conv2d, ((1, 9, 9, 6), (3, 3, 3, 6)), 'float32', '3 channels and 3 outputs; wanted multiples of 4'),
        (conv2d, ((1, 9, 9, 128), (3, 3, 64, 128)), 'float32', '64 channels and 64 outputs; wanted fewer than 64'),
    ],
)
def test_what_it_does_not_serve_is_refused_in_words(op, shapes, dtype, message):
    with pytest.raises(NotImplementedError, match=f"'native_cpu' cannot serve this call: .*{message}"):
        lowered(partial(op, implementation='native_cpu'), *shapes, dtype=dtype)
