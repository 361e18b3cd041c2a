"""A fused block against a loop in float64 and against its layers; its TPU kernel interpreted and compiled."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels.conv2d import conv2d
from longview.kernels.fused_block import fused_block, pallas_tpu, xla
from longview.kernels.fused_block.arrays import Block
from longview.kernels.fused_block.shapes import SHAPES
from tests.kernels import close, pull, tpu
from tests.modelzoo import tiny

BARS = {'float32': 1e-5, 'bfloat16': 1e-2, 'float64': 1e-12}
AUTO = jax.sharding.AxisType.Auto


def _inputs(name, dtype='float32'):
    """Returns x, the weights and the cotangent by name, rounded to the type."""
    shape, random = SHAPES[name], np.random.default_rng(0)
    channels, expanded = shape.channels, shape.expanded
    taps = (shape.rows, shape.columns, shape.group, channels)
    sizes = {'x': shape[:4], 'kernel': taps, 'kernel_bias': (channels,), 'up': (channels, expanded)}
    sizes |= {'up_bias': (expanded,), 'down': (expanded, channels), 'down_bias': (channels,), 'dy': shape[:4]}
    fan = {'kernel': np.prod(taps[:3]), 'up': channels, 'down': expanded}
    draw = lambda key, size: random.standard_normal(size) / np.sqrt(fan.get(key, 1))
    return {key: draw(key, size).astype(jnp.dtype(dtype)) for key, size in sizes.items()}


def _results(op, arrays):
    """Returns the output and the gradients by name."""
    return pull.results(lambda arrays: op(**arrays), arrays)


def _by_place(form):
    return lambda x, **weights: form(x, *Block(**weights))


def _wanted(arrays):
    """Returns the output, summed in float64, layer by layer and tap by tap."""
    x, kernel, kernel_bias, up, up_bias, down, down_bias, _ = (np.asarray(a, np.float64) for a in arrays.values())
    rows, columns, depth, channels = kernel.shape
    padded = np.pad(x, ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)))
    u = np.zeros_like(x) + kernel_bias
    for i, j, n in np.ndindex(rows, columns, channels):
        group = slice(n // depth * depth, n // depth * depth + depth)
        u[..., n] += padded[:, i : i + x.shape[1], j : j + x.shape[2], group] @ kernel[i, j, :, n]
    h = u @ up + up_bias
    return x + (h / (1 + np.exp(-h))) @ down + down_bias


@pytest.mark.parametrize(
    'name', ['odd', 'depthwise', *(pytest.param(n, marks=pytest.mark.heavy) for n in ('pixel', 'band', 'one_group'))]
)
def test_xla_and_the_reference(name):
    """Outputs by the loop; gradients of the two agree, and those of the reference are JAX's own."""
    arrays = _inputs(name)
    run = lambda arrays: [_results(partial(fused_block, implementation=form), arrays) for form in ('xla', 'reference')]
    found, reference = jax.device_get(tiny.jit(run)(arrays))
    close.assert_close({'y': reference['y']}, {'y': _wanted(arrays)}, {'y': 1e-6})
    close.assert_close(found, reference, dict.fromkeys(found, 1e-5))


def test_double_precision_and_bfloat16():
    arrays = _inputs('odd', 'bfloat16')
    found = jax.device_get(tiny.jit(partial(_results, fused_block))(arrays))
    assert {x.dtype.name for x in found.values()} == {'bfloat16'}
    close.assert_close({'y': found['y']}, {'y': _wanted(arrays)}, {'y': 1e-2})
    with jax.enable_x64(True):
        arrays = _inputs('odd', 'float64')
        found = tiny.jit(lambda arrays: fused_block(**{n: x for n, x in arrays.items() if n != 'dy'}))(arrays)
        close.assert_close({'y': found}, {'y': _wanted(arrays)}, {'y': 1e-12})


def test_a_few_images_at_a_time(monkeypatch):
    """As on a CPU where maps are large; vmap over images and weights, and scan, change nothing either."""
    arrays = _inputs('odd')
    wanted = jax.device_get(tiny.jit(partial(_results, partial(fused_block, implementation='reference')))(arrays))
    monkeypatch.setattr(xla, '_HIDDEN', 5 * 7 * 64)
    found = tiny.jit(partial(_results, _by_place(xla.run)))
    assert 'stablehlo.while' in found.lower(arrays).as_text()
    close.assert_close(found(arrays), wanted, dict.fromkeys(wanted, 1e-5))
    several = {n: np.stack([x, x * 0.5]) for n, x in arrays.items()}
    mapped = tiny.jit(jax.vmap(partial(_results, _by_place(xla.run))))(several)
    close.assert_close({n: x[0] for n, x in mapped.items()}, wanted, dict.fromkeys(wanted, 1e-5))


def _check_interpreted(name, dtype='float32'):
    arrays = _inputs(name, dtype)
    given = {n: jnp.asarray(x) for n, x in arrays.items()}
    inputs = [x for n, x in given.items() if n != 'dy']
    assert pallas_tpu.missing(*inputs) is None
    with tpu.interpreted():
        found = jax.block_until_ready(tiny.jit(pallas_tpu.run)(*inputs))
    close.assert_close({'y': found}, {'y': _wanted(arrays)}, {'y': BARS[dtype]})


def test_kernel_in_several_blocks_of_rows(monkeypatch):
    """Five rows in blocks of two: rows that two blocks read, and a partial one at the end."""
    monkeypatch.setattr(pallas_tpu, '_PIXELS', 8)
    monkeypatch.setattr(pallas_tpu.Call, 'block', lambda call, itemsize: 2)
    _check_interpreted('odd')


@pytest.mark.heavy
@pytest.mark.parametrize('name', ['pixel', 'band', 'depthwise', 'one_group', 'lanes'])
def test_kernel(name):
    _check_interpreted(name)


@pytest.mark.heavy
def test_gradients_of_the_kernel_and_bfloat16():
    _check_interpreted('odd', 'bfloat16')
    arrays = _inputs('odd')
    wanted = tiny.jit(partial(_results, partial(fused_block, implementation='reference')))(arrays)
    with tpu.interpreted():
        found = jax.block_until_ready(tiny.jit(partial(_results, _by_place(pallas_tpu.run)))(arrays))
    close.assert_close(found, wanted, dict.fromkeys(wanted, 1e-5))


def _structures(shape, group=8, dtype=jnp.bfloat16):
    channels = shape[3]
    sizes = (shape, (3, 3, group, channels), (channels,), (channels, 4 * channels), (4 * channels,))
    return [jax.ShapeDtypeStruct(size, dtype) for size in (*sizes, (4 * channels, channels), (channels,))]


@tpu.on_chips('v5e')
@pytest.mark.parametrize('width', [64, pytest.param(256, marks=pytest.mark.heavy)])
def test_compiles_for_every_chip(chip, width):
    found = tpu.compile_for(fused_block, *_structures((2, 14, 14, width)), chip=chip)
    assert 'tpu_custom_call' in found.program.as_text()


def test_a_tpu_reads_images_and_weights_once_and_writes_the_output_once():
    """At 8 x 56 x 56 x 128 less than a tenth is rows that two blocks read."""
    arrays = _structures((8, 56, 56, 128))
    found = tpu.compile_for(fused_block, *arrays, as_in_layers=True)
    size = sum(2 * x.size for x in (arrays[0], *arrays))
    diagonal = 2 * 9 * 128 * 128
    assert size <= found.bytes <= 1.1 * size + 4 * diagonal
    assert found.temp <= 2 * diagonal


@pytest.mark.heavy
def test_layers_apart_move_many_times_as_much():
    arrays = _structures((8, 56, 56, 128))
    fused, apart = (
        tpu.compile_for(partial(fused_block, implementation=form), *arrays, as_in_layers=True).bytes
        for form in ('pallas_tpu', 'xla')
    )
    assert apart > 10 * fused


def test_on_a_cpu_layers_of_few_images_are_stored():
    """At 8 x 56 x 56 x 64: what one image needs, an eighth of what its layers need."""
    arrays = _structures((8, 56, 56, 64), dtype=jnp.float32)
    layers = lambda x, *weights: xla._layers(x, Block(*weights))
    temporaries = [
        jax.jit(run).lower(*arrays).compile().memory_analysis().temp_size_in_bytes for run in (fused_block, layers)
    ]
    assert temporaries[0] <= temporaries[1] / 7


@pytest.mark.heavy
def test_a_batch_over_a_mesh():
    arrays = _inputs('mesh')
    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AUTO,) * 2)
    spec = lambda name: PartitionSpec(*[('data', 'fsdp')] * (name in ('x', 'dy')))
    split = {n: jax.device_put(x, NamedSharding(mesh, spec(n))) for n, x in arrays.items()}
    wanted = tiny.jit(partial(_results, partial(fused_block, implementation='reference')))(arrays)
    close.assert_close(
        jax.device_get(tiny.jit(partial(_results, fused_block))(split)), wanted, dict.fromkeys(wanted, 1e-5)
    )


def test_layers_apart_agree():
    """The op is what its documentation says in terms of other ops."""
    x, kernel, kernel_bias, up, up_bias, down, down_bias, _ = _inputs('odd').values()
    u = conv2d(x, kernel, padding=1) + kernel_bias[None, None, None]
    h = jax.nn.silu(u @ up + up_bias[None, None, None])
    wanted = x + h @ down + down_bias[None, None, None]
    found = fused_block(x, kernel, kernel_bias, up, up_bias, down, down_bias)
    close.assert_close({'y': found}, {'y': wanted}, {'y': 1e-6})


@pytest.mark.parametrize(
    'change, message',
    [
        ({'x': (8, 8, 16)}, r'x has shape \(8, 8, 16\); wanted \(batch, height, width, channels\)'),
        ({'kernel': (3, 3, 5, 16)}, r'kernel has shape \(3, 3, 5, 16\).*inputs that divide the 16 channels'),
        ({'kernel': (2, 3, 8, 16)}, 'kernel is 2 x 3; wanted odd sides'),
        ({'down': (64, 8)}, r'down has shape \(64, 8\); wanted \(64, 16\)'),
        ({'up_bias': (16,)}, r'up_bias has shape \(16,\); wanted \(64,\)'),
    ],
)
def test_what_does_not_fit_is_refused_in_words(change, message):
    arrays = {n: x.shape for n, x in _inputs('odd').items() if n != 'dy'} | change
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(fused_block)(**{n: jnp.ones(shape) for n, shape in arrays.items()})


def test_what_the_kernel_cannot_serve_is_refused_by_name_and_served_without():
    arrays = _structures((1, 8, 8, 4096))
    with pytest.raises(
        NotImplementedError, match="'pallas_tpu' cannot serve this call: a block of 4096 channels, 16384"
    ):
        jax.eval_shape(partial(fused_block, implementation='pallas_tpu'), *arrays)
    assert jax.export.export(jax.jit(fused_block), platforms=['tpu'])(*arrays)
