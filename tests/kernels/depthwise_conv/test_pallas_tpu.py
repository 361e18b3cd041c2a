"""The TPU kernels of depthwise convolution: interpreted, where unwritten memory is NaN, and compiled for real chips."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.depthwise_conv import api, depthwise_conv, inception_conv, pallas_tpu
from tests.kernels import close, tpu
from tests.kernels.depthwise_conv import cases
from tests.kernels.depthwise_conv.cases import Case


def _check(case):
    arrays = cases.inputs(case)
    device = cases.device(case, arrays)
    pair = lambda value: (value, value) if isinstance(value, int) else value
    plan = api._plan(device['x'], device['kernel'], pair(case.stride), pair(case.dilation), case.padding)
    assert pallas_tpu.missing(plan, device['x'], device['kernel']) is None
    run = cases.jit(partial(cases.outputs, partial(pallas_tpu.convolve, plan)))
    with tpu.interpreted():
        found = jax.block_until_ready(run(device))
    target = cases.wanted(case, arrays)
    close.assert_close(found, target, dict.fromkeys(target, cases.BARS[case.dtype]))


@pytest.mark.parametrize(
    'case',
    [
        Case('small'),
        Case('even', dilation=(2, 1), padding=((1, 3), (0, 2)), dtype='bfloat16'),
    ],
    ids=str,
)
def test_output_and_gradients(case):
    _check(case)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case',
    [
        Case('pixel'),
        Case('seven'),
        Case('row'),
        Case('column', dilation=2),
        Case('small', padding='VALID'),
        Case('larger'),
        Case('fourteen', dtype='bfloat16'),
    ],
    ids=str,
)
def test_more_outputs_and_gradients(case):
    _check(case)


def test_inception():
    random = np.random.default_rng(0)
    shapes = {'x': (2, 5, 6, 7), 'square': (3, 3, 1, 2), 'row': (1, 5, 1, 2), 'column': (7, 1, 1, 2), 'bias': (3, 2)}
    shapes['dy'] = shapes['x']
    arrays = {name: jnp.asarray(random.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}

    def run(op, arrays):
        y, pull = jax.vjp(lambda wrt: op(**wrt), {name: x for name, x in arrays.items() if name != 'dy'})
        return pull(arrays['dy'])[0] | {'y': y}

    wanted = cases.jit(partial(run, inception_conv))(arrays)
    op = lambda x, square, row, column, bias: pallas_tpu.inception(x, bias, square, row, column)
    kernels = cases.jit(partial(run, op))
    with tpu.interpreted():
        found = jax.block_until_ready(kernels(arrays))
    close.assert_close(found, wanted, dict.fromkeys(wanted, 1e-5))


def _both(op, *arrays):
    *inputs, dy = arrays
    y, pull = jax.vjp(op, *inputs)
    return y, pull(dy)


def _structures(x, *kernels, dtype=jnp.bfloat16):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in (x, *kernels, x)]


@tpu.on_chips('v5e')
def test_compiles_for_every_chip(chip):
    arrays = _structures((2, 14, 14, 256), (7, 7, 1, 256))
    assert 'tpu_custom_call' in tpu.compile_for(partial(_both, depthwise_conv), *arrays, chip=chip).program.as_text()


@pytest.mark.parametrize(
    'x, sides, dtype',
    [
        ((2, 7, 7, 768), (31, 31), jnp.float32),
        ((1, 56, 56, 40), (1, 11), jnp.bfloat16),
        ((1, 9, 13, 8), (51, 3), jnp.float32),
    ],
    ids=str,
)
def test_compiles_for_every_size(x, sides, dtype):
    arrays = _structures(x, (*sides, 1, x[3]), dtype=dtype)
    op = partial(depthwise_conv, implementation='pallas_tpu')
    assert 'tpu_custom_call' in tpu.compile_for(partial(_both, op), *arrays, chip='v4').program.as_text()


# Bytes of XLA's own convolution on a v5e by the compiler (jax 0.10.2, libtpu 0.0.51); a constant here since it takes
# long to compile: `python -m benchmarks.kernels tpu --ops=depthwise`.
XLA_FORWARD = 205.6e6


def test_a_tpu_moves_each_array_once():
    """7x7 on 64x56x56x96: well under 65% of the bytes of XLA's convolution, and nothing but the arrays."""
    x, kernel, dy = _structures((64, 56, 56, 96), (7, 7, 1, 96))
    forward = tpu.compile_for(depthwise_conv, x, kernel)
    both = tpu.compile_for(partial(_both, depthwise_conv), x, kernel, dy)
    size = 2 * x.size
    assert forward.bytes <= 0.65 * XLA_FORWARD and forward.bytes <= 2.1 * size
    assert both.bytes <= 6.2 * size  # forward x y, backward dy dx, and x dy for the taps
    assert max(forward.temp, both.temp) <= 0.05 * size


def test_large_images_fit_where_the_vector_memory_is_large():
    """3x3 on 112x112 pixels, which do not fit into that of a v4. The floor with gradients is 5 arrays; these move 6."""
    x, kernel, dy = _structures((64, 112, 112, 128), (3, 3, 1, 128))
    both = tpu.compile_for(partial(_both, depthwise_conv), x, kernel, dy)
    assert both.program.as_text().count('custom_call_target="tpu_custom_call"') == 3
    assert both.bytes <= 6.1 * 2 * x.size


def test_an_inception_is_one_kernel_that_moves_each_array_once():
    x, *kernels, _ = _structures((64, 56, 56, 96), (3, 3, 1, 12), (1, 11, 1, 12), (11, 1, 1, 12))
    found = tpu.compile_for(inception_conv, x, *kernels)
    assert found.program.as_text().count('custom_call_target="tpu_custom_call"') == 1
    assert found.bytes <= 2.1 * 2 * x.size


@pytest.mark.parametrize(
    'shape, options, message',
    [
        ((1, 8, 8, 4), {'stride': 2}, r'the stride is \(2, 2\); wanted 1'),
        ((1, 400, 400, 4), {}, '400 x 400 with 4 channels does not fit the vector memory'),
        ((1, 8, 8, 4), {'padding': 3}, 'wider than the kernel'),
    ],
)
def test_what_a_kernel_cannot_serve_is_refused_by_name_and_served_without(shape, options, message):
    x, kernel = jnp.zeros(shape), jnp.zeros((3, 3, 1, 4))
    with pytest.raises(NotImplementedError, match=f"'pallas_tpu' cannot serve this call: .*{message}"):
        jax.eval_shape(partial(depthwise_conv, **options, implementation='pallas_tpu'), x, kernel)
    export = jax.export.export(jax.jit(partial(depthwise_conv, **options)), platforms=['tpu'])
    assert 'stablehlo.convolution' in export(x, kernel).mlir_module()
