"""The long convolution of sequences split over eight devices: the numbers of one device, and what is exchanged."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from longview.kernels.long_conv import long_conv, sequence_parallel_long_conv, sharded
from longview.kernels.long_conv.transforms import exact_sides
from tests.kernels.close import assert_close
from tests.kernels.long_conv import cases

NAMES = ('u', 'kernel', 'skip', 'pre_gate', 'post_gate')


def _mesh():
    return jax.make_mesh((2, 4), ('data', 'tokens'), axis_types=(AxisType.Auto,) * 2)


def _arrays(tokens):
    random = np.random.default_rng(0)
    sizes = {'u': (2, tokens, 3), 'kernel': (tokens, 3), 'skip': (3,), 'pre_gate': (2, tokens, 3)}
    sizes |= {name: sizes['u'] for name in ('post_gate', 'dy')}
    return {name: jnp.asarray(random.standard_normal(size), jnp.float32) for name, size in sizes.items()}


def _split(x):
    """Returns an array split over the mesh: batch over `data`, tokens and taps over `tokens`."""
    spec = {3: PartitionSpec('data', 'tokens'), 2: PartitionSpec('tokens'), 1: PartitionSpec()}
    call = lambda x: sequence_parallel_long_conv(**x, axis_name='tokens')
    specs = ({name: spec[x[name].ndim] for name in NAMES},)
    return jax.shard_map(call, mesh=_mesh(), in_specs=specs, out_specs=spec[3])(x)


def _whole(x):
    return long_conv(x['u'], x['kernel'], **{name: x[name] for name in NAMES[2:]}, implementation='xla')


def _run(op, arrays):
    y, pull = jax.vjp(op, {name: arrays[name] for name in NAMES})
    return {'y': y} | pull(arrays['dy'])[0]


def test_outputs_and_gradients():
    """They equal those of one device."""
    arrays = _arrays(480)
    found = cases.jit(partial(_run, _split))(arrays)
    wanted = cases.jit(partial(_run, _whole))(arrays)
    assert_close(found, wanted, dict.fromkeys(wanted, 2e-6))


@pytest.mark.parametrize('tokens', [60, 384])
def test_what_a_tpu_does_with_a_piece_is_what_others_do(tokens):
    random = np.random.default_rng(0)
    z, kernel = (jnp.asarray(random.standard_normal((2, n, tokens, 3)), jnp.float32) for n in (2, 1))
    matrices = cases.jit(partial(sharded._by_matrices, exact_sides(tokens)))
    assert_close({'z': matrices(z, kernel)}, {'z': sharded._by_fft(z, kernel)}, {'z': 2e-6})


def test_tokens_are_exchanged_all_to_all_and_never_gathered():
    """No device holds more than a few times its shard; gradients of skip and taps are summed over the batch."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _arrays(4096))
    compiled = jax.jit(partial(_run, _split)).lower(shapes).compile()
    text = compiled.as_text()
    assert 'all-to-all' in text
    assert not [word for word in ('all-gather', 'collective-permute', 'reduce-scatter') if word in text]
    part = 4 * 4096 * 3 // 4
    assert compiled.memory_analysis().temp_size_in_bytes <= 32 * part


def test_lowers_for_tpus_without_ffts():
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _arrays(2**16))
    text = jax.jit(partial(_run, _split)).trace(shapes).lower(lowering_platforms=('tpu',)).as_text()
    assert 'stablehlo.fft' not in text and 'all_to_all' in text


def test_sides_of_a_piece():
    assert exact_sides(1) == (1,) and exact_sides(2**20) == (128, 128, 64) and exact_sides(131) is None
    assert np.prod(exact_sides(120 * 121)) == 120 * 121


@pytest.mark.parametrize(
    'tokens, taps, message',
    [
        (24, 20, r'kernel has shape \(5, 3\); wanted a tap for each token, \(6, 3\)'),
        (24, 24, "A shard has 6 tokens; wanted a multiple of the 4 devices along 'tokens'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(tokens, taps, message):
    arrays = _arrays(tokens)
    arrays['kernel'] = arrays['kernel'][:taps]
    call = sharded.sequence_parallel_long_conv
    call = partial(getattr(call, '__wrapped__', call), axis_name='tokens')  # without the shape checks of the tests
    spec = PartitionSpec('data', 'tokens'), PartitionSpec('tokens')
    with pytest.raises(ValueError, match=message):
        jax.shard_map(call, mesh=_mesh(), in_specs=spec, out_specs=spec[0])(arrays['u'], arrays['kernel'])
