"""Convolution on windows of rows: the window tensor, the XLA form, and the TPU kernel interpreted and compiled."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from benchmarks import im2win as benchmark
from longview.kernels.conv2d import api, conv2d, im2win, pallas_tpu
from tests.kernels import close, tpu
from tests.kernels.conv2d import cases
from tests.kernels.conv2d.cases import Case


@pytest.mark.parametrize(
    'case',
    [
        Case('band', padding=((0, 2), (3, 1))),
        Case('even', padding='VALID'),
        Case('matrix_thinned', padding=0),
        Case('odd', dtype='bfloat16'),
        Case('groups', padding=((0, 2), (1, 1)), groups=3),
    ],
    ids=str,
)
def test_xla(case):
    cases.check(case, 'im2win')


@pytest.mark.heavy
@pytest.mark.parametrize('shape', ['pixel', 'odd', 'odd_strided', 'matrix', 'many_taps', 'large', 'large_strided'])
def test_xla_more(shape):
    cases.check(Case(shape, padding=1), 'im2win')


def test_second_derivatives():
    case = Case('odd_strided', padding=1)
    arrays = cases.device(case, cases.inputs(case))

    def slope(implementation):
        op = partial(conv2d, **case.how, implementation=implementation)
        size = lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(op(x, arrays['kernel']) ** 3))(x) ** 2)
        return {'x': cases.jit(jax.grad(size))(arrays['x'])}

    close.assert_same(slope('im2win'), slope('conv'))


@pytest.mark.parametrize('layer', benchmark.LAYERS.values(), ids=benchmark.LAYERS)
def test_window_tensors_are_smaller_than_im2col_s(layer):
    """By the factor W / (J Q): of 0.24 to 0.47 for the paper's layers."""
    x, kernel = layer.arrays(batch=2)
    windows, columns = (
        jax.eval_shape(partial(function, layer.plan), x, kernel) for function in (im2win.windows, benchmark.columns)
    )
    pixels = (layer.side - layer.taps) // layer.stride + 1
    assert windows.shape == (2, pixels, layer.side, layer.taps * layer.channels)
    assert columns.shape == (2, pixels, pixels, layer.taps**2 * layer.channels)
    assert windows.size / columns.size == pytest.approx(layer.side / (layer.taps * pixels))
    assert 0.23 < windows.size / columns.size < 0.48


def _check_interpreted(case):
    arrays = cases.inputs(case)
    device = cases.device(case, arrays)
    plan = api._plan(device['x'], device['kernel'], api._pair(case.how['stride']), case.padding)
    assert pallas_tpu.missing(plan, device['x'], device['kernel']) is None
    run = cases.jit(partial(cases.outputs, partial(pallas_tpu.convolve, plan)))
    with tpu.interpreted():
        found = jax.block_until_ready(run(device))
    target = cases.wanted(case, arrays)
    close.assert_close(found, target, dict.fromkeys(target, cases.BARS[case.dtype]))


@pytest.mark.parametrize(
    'case', [Case('odd'), Case('odd_strided', padding=((0, 2), (1, 1)), dtype='bfloat16')], ids=str
)
def test_fused(case):
    _check_interpreted(case)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('pixel'),
        Case('matrix_thinned', padding=0),
        Case('band', padding=((0, 0), (2, 1))),
        Case('even', padding='VALID'),
        Case('narrow'),
        Case('large_strided', padding=1),
    ],
    ids=str,
)
def test_fused_more(case):
    _check_interpreted(case)


def test_fused_in_several_blocks(monkeypatch):
    """Of rows that overlap, the last of them partial, and of outputs, which the windows are laid down once for."""
    case = Case('odd', padding=1)
    arrays = cases.device(case, cases.inputs(case))
    x, kernel = arrays['x'], jnp.tile(arrays['kernel'], 256 // 5 + 1)[..., :256]
    monkeypatch.setattr(pallas_tpu, '_PIXELS', 8)
    monkeypatch.setattr(pallas_tpu.Call, 'blocks', lambda call, itemsize: (2, 128))
    plan = api._plan(x, kernel, (1, 1), 1)
    with tpu.interpreted():
        found = jax.block_until_ready(cases.jit(partial(pallas_tpu.convolve, plan))(x, kernel))
    close.assert_close({'y': found}, {'y': cases.jit(partial(conv2d, padding=1))(x, kernel)}, {'y': 1e-6})


@tpu.on_chips('v5e')
def test_compiles_for_every_chip(chip):
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 14, 14, 256), (3, 3, 256, 256)))
    op = partial(conv2d, padding='SAME', implementation='im2win_fused')
    assert 'tpu_custom_call' in tpu.compile_for(op, x, kernel, chip=chip).program.as_text()


def test_a_tpu_has_no_window_tensor():
    """At 8 x 56 x 56 x 128 the images are read once and the outputs written once, but for rows shared by blocks."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((8, 56, 56, 128), (3, 3, 128, 128)))
    found = tpu.compile_for(partial(conv2d, padding='SAME', implementation='im2win_fused'), x, kernel)
    size = 2 * x.size
    assert found.bytes <= 2.2 * size and found.temp <= 0.1 * size


@pytest.mark.parametrize(
    'x, kernel, padding, message',
    [
        ((1, 8, 8, 4), (3, 3, 2, 4), 0, 'the channels are in 2 groups; wanted one'),
        ((1, 8, 8, 4), (3, 3, 4, 4), 3, 'wider than the kernel'),
        ((1, 8, 4000, 512), (3, 3, 512, 512), 0, 'rows of 4000 pixels with 512 channels'),
    ],
)
def test_what_the_kernel_cannot_serve_is_refused_by_name(x, kernel, padding, message):
    op = partial(conv2d, padding=padding, implementation='im2win_fused')
    with pytest.raises(NotImplementedError, match=f"'im2win_fused' cannot serve this call: .*{message}"):
        jax.eval_shape(op, jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32))
