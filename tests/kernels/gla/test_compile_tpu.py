"""The TPU kernels of gated linear attention, compiled for real chips: they fit, move few bytes and need little memory.

The bars are a little above the measured figures (`python -m benchmarks.kernels tpu`, docs/kernels.md).
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import kernels_cycles
from benchmarks.kernels_cost import attention
from benchmarks.kernels_gla import FACTS, Program, one_way, two_passes, xla_chunks
from longview.kernels.gla import bidirectional_gla, gla, sequence_parallel_gla
from tests.kernels import tpu

ONE_WAY = Program(one_way, (1, 1000, 2, 64, 128), gradients=True)
TWO_WAY = Program(bidirectional_gla, (1, 197, 3, 64, 64), jnp.float32, 2, True)
BLOCKS = Program(bidirectional_gla, (1, 4096, 4, 64, 128), jnp.bfloat16, 2, True)


@pytest.mark.parametrize(
    'program, chip',
    [
        (ONE_WAY, 'v5e'),
        (BLOCKS, 'v4'),
        *(pytest.param(ONE_WAY, chip, marks=pytest.mark.heavy) for chip in ('v4', 'v5p', 'v6e')),
        *(pytest.param(TWO_WAY, chip, marks=pytest.mark.heavy) for chip in tpu.CHIPS),
        *(pytest.param(BLOCKS, chip, marks=pytest.mark.heavy) for chip in ('v5e', 'v5p', 'v6e')),
    ],
    ids=lambda x: x if isinstance(x, str) else f'{x.op.__name__}-{x.shape}',
)
def test_compiles_for_every_chip(program, chip):
    assert 'tpu_custom_call' in program.compile(chip).program.as_text()


@pytest.mark.parametrize(
    'shape',
    [
        (1, 1, 2, 16, 16),
        (1, 63, 9, 60, 64),
        pytest.param((1, 33, 16, 16, 16), marks=pytest.mark.heavy),
        pytest.param((1, 300, 2, 128, 128), marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_compiles_for_every_size_of_head(shape):
    assert 'tpu_custom_call' in Program(one_way, shape, jnp.float32, gradients=True).compile('v4').program.as_text()


def test_bytes_are_those_of_inputs_and_outputs():
    """Forward: each array once, and the last states. Gradients: keys, values and gates once more, for the states."""
    forward, both = (Program(one_way, FACTS, gradients=g) for g in (False, True))
    rows = lambda program: sum(x.size * 2 for x in program.inputs())
    o = 8 * 4096 * 4 * 128 * 2
    assert forward.compile().bytes <= 1.03 * (rows(forward) + o)
    edges = rows(forward) - 8 * 4096 * 4 * 64 * 2  # all but the queries
    assert both.compile().bytes <= 1.06 * (rows(forward) + o + edges + rows(both) + rows(forward))


FLOORS = {  # B T H K V, per head or not: bytes over the floor, forward, and with gradients
    'state space': ((8, 2048, 24, 128, 64, True), 1.1, 1.1),
    'retention': ((8, 2048, 16, 64, 64, True), 1.12, 1.12),
    'mLSTM': ((8, 2048, 2, 512, 512, True), 1.17, 1.55),
    'K64': ((8, 4096, 4, 64, 128), 1.05, 1.05),
    'K128': ((8, 2048, 4, 128, 256), 1.06, 1.06),
    'K80': ((8, 2048, 12, 80, 80), 1.12, 1.45),
    'K96': ((8, 2048, 12, 96, 96), 1.1, 1.45),
    'K256': ((8, 2048, 4, 256, 512), 1.1, 1.1),
    'wide and any decay': ((8, 2048, 2, 512, 512), 1.12, 1.5),
}


@pytest.mark.parametrize('gradients', [False, True])
@pytest.mark.parametrize(
    'name', [name if name == 'state space' else pytest.param(name, marks=pytest.mark.heavy) for name in FLOORS]
)
def test_bytes_over_the_floor(name, gradients):
    """Inputs once and outputs once; with gradients three times and twice. Arrays as projections make them."""
    shape, *bars = FLOORS[name]
    program = attention(*shape)
    found = program.compile(gradients)
    ratio = found.bytes / program.floor(gradients)
    assert 'tpu_custom_call' in found.program.as_text() and ratio <= bars[gradients], ratio
    if name == 'state space' and not gradients:
        assert found.program.cost_analysis()['flops'] <= 45e9


@pytest.mark.parametrize('gradients', [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_a_layer_copies_nothing(gradients):
    """Heads of 80 channels: projections make arrays that lie as the kernel takes them."""

    def layer(x, weights, out):
        q, k, v, g = (jnp.dot(x, w).reshape(2, 2048, 12, 80) for w in weights)
        return gla(q, k, v, jax.nn.log_sigmoid(g.astype(jnp.float32)))[0].reshape(2, 2048, 960) @ out

    def run(dy, *inputs):
        y, pull = jax.vjp(layer, *inputs)
        return (y, pull(dy)) if gradients else y

    spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    x, w, out = spec(2, 2048, 256), spec(256, 960), spec(960, 256)
    text = tpu.compile_for(run, x, x, (w,) * 4, out).program.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == (3 if gradients else 1)
    assert not re.search(r'2048,(960|12,80)\]\S* (copy|pad|transpose)\(', text)


@pytest.mark.heavy
@pytest.mark.parametrize('gradients, bar', [(False, 1.1), (True, 1.3)])
def test_bytes_with_the_least_vector_memory(gradients, bar):
    """A v4 has an eighth of a v5e's: blocks are shorter, and gradients take another pass for the states at edges."""
    program = attention(*FLOORS['state space'][0])
    assert program.compile(gradients, 'v4').bytes <= bar * program.floor(gradients)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'name, kernel, bars',
    [
        ('gla 8x2048 H4 K128 V256', 'gla_outputs', [(560, 60), (720, 210)]),
        ('gla 8x2048 H4 K128 V256', 'gla_cotangents', [(1050, 250), (1590, 890)]),
        ('gla, a decay a head, 8x2048 H24 K128 V64', 'gla_cotangents', [(950, 130)]),
    ],
)
def test_bundles_and_spills(name, kernel, bars):
    """Of a chunk, as scheduled for a v5e: first with mild decays, then with any; without the look-through."""
    gradients = kernel == 'gla_cotangents'
    lines = [line.split('|')[1:-1] for line in kernels_cycles.table(name, 'v5e')]
    lines = lines[
        next(n for n, line in enumerate(lines) if ('gradients' in line[0]) == gradients and '**' in line[0]) :
    ]
    loops = [line for line in lines if kernel in line[0] and 'depth 2' in line[1]]
    found = sorted((int(line[2].replace(',', '')), int(line[4].replace(',', ''))) for line in loops)
    found = [pair for pair in found if pair[0] > 400]
    for (bundles, spills), (most, most_spills) in zip(found, bars):
        assert bundles <= most and spills <= most_spills, found


@pytest.mark.parametrize(
    'tokens, gradients, bar',
    [
        (1024, False, 0.5),
        pytest.param(512, True, 0.65, marks=pytest.mark.heavy),
        pytest.param(4096, False, 0.65, marks=pytest.mark.heavy),
        pytest.param(4096, True, 0.65, marks=pytest.mark.heavy),
    ],
)
def test_both_directions_move_less_than_two_passes(tokens, gradients, bar):
    """A sequence that fits into VMEM is read once for both directions; a longer one takes less than two passes."""
    shape = (8, tokens, 4, 64, 128)
    merged, two = (Program(op, shape, jnp.bfloat16, 2, gradients).compile() for op in (bidirectional_gla, two_passes))
    assert merged.bytes <= bar * two.bytes, merged.bytes / two.bytes


@pytest.mark.parametrize('op', [one_way, pytest.param(bidirectional_gla, marks=pytest.mark.heavy)])
def test_a_million_tokens_fit_a_chip(op):
    """Forward and backward, B1 H4 K64 V128 in bfloat16; temporaries are a share of the inputs at any length."""
    directions = 1 + (op is bidirectional_gla)
    found = Program(op, (1, 2**20, 4, 64, 128), jnp.bfloat16, directions, True).compile()
    assert found.peak < 10 * 2**30
    assert found.temp <= 0.3 * found.arguments, found[:4]


@pytest.mark.parametrize('kind', ['tokens', 'batch'])
def test_kernels_over_four_chips(kind):
    """A sequence split in `shard_map`, a batch on a mesh with explicit axes: each chip runs the kernel on its part."""
    explicit = kind == 'batch'
    types = (AxisType.Explicit if explicit else AxisType.Auto,)
    mesh = Mesh(np.array(tpu.topology('v5e').devices), (kind,), axis_types=types)
    spec = PartitionSpec(kind) if explicit else PartitionSpec(None, kind)
    q = jax.ShapeDtypeStruct((4, 1024, 2, 64), jnp.bfloat16, sharding=NamedSharding(mesh, spec))
    split = partial(sequence_parallel_gla, axis_name=kind)
    split = jax.shard_map(split, mesh=mesh, in_specs=(spec,) * 4, out_specs=(spec, PartitionSpec()))
    found = tpu.compile_for(gla if explicit else split, q, q, q, q)
    text = found.program.as_text()
    assert 'tpu_custom_call' in text and 'all-gather' not in text
    assert ('collective-permute' in text) != explicit


@pytest.mark.heavy
@pytest.mark.parametrize('gradients, bar', [(False, 0.1), (True, 0.13)])
def test_bytes_and_memory_against_xla(gradients, bar):
    kernel = Program(one_way, FACTS, gradients=gradients).compile()
    for chunk in (64, 128, 256):
        other = Program(partial(xla_chunks, chunk=chunk), FACTS, gradients=gradients).compile()
        assert kernel.bytes <= bar * other.bytes and kernel.peak < other.peak, (chunk, kernel[:4], other[:4])
