"""LSNet: what the large-small convolution and the attention compute, how blocks start, and two heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.kernels import dispatch
from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo import weights
from longview.modelzoo.layers.convolutions.large_small import Taps, aggregate
from longview.modelzoo.vision import lsnet
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes

# Parameters, classifier included: computed by the reference.
COUNTS = {'lsnet_t': 11_409_832, 'lsnet_b': 23.31e6}


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_parameters_are_those_of_the_reference(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert count == COUNTS[name] if isinstance(COUNTS[name], int) else abs(count - COUNTS[name]) <= 0.0051e6


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_each_pixel_has_taps_of_its_own_which_channels_share():
    x, taps = normal(2, 4, 3, 6), normal(2, 4, 3, 9, 2, seed=2)
    y = jax.device_get(jit(aggregate)(x, taps))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row, column, channel in np.ndindex(4, 3, 6):
        seen = padded[:, row : row + 3, column : column + 3, channel].reshape(2, 9)
        wanted = (seen * taps[:, row, column, :, channel % 2]).sum(1)
        np.testing.assert_allclose(y[:, row, column, channel], wanted, rtol=1e-5, atol=1e-5)


def test_equal_taps_everywhere_are_a_depthwise_convolution():
    x, kernel = normal(1, 5, 7, 4), normal(9, 4)
    taps = np.broadcast_to(kernel, (1, 5, 7, 9, 4))
    wanted = depthwise_conv(jnp.asarray(x), jnp.asarray(kernel.reshape(3, 3, 1, 4)))
    np.testing.assert_allclose(jit(aggregate)(x, taps), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_jax_and_may_be_differentiated_again():
    x, taps, dy = (
        jnp.asarray(normal(2, 4, 3, 6)),
        jnp.asarray(normal(2, 4, 3, 9, 2, seed=2)),
        normal(2, 4, 3, 6, seed=3),
    )
    loss = lambda x, taps: jnp.sum(jnp.sin(aggregate(x, taps)) * dy)
    norm = lambda x, taps: sum(jnp.sum(jnp.square(part)) for part in jax.grad(loss, (0, 1))(x, taps))
    both = lambda x, taps: [jax.grad(function, (0, 1))(x, taps) for function in (loss, norm)]
    found = jit(both)(x, taps)
    with dispatch.prefer(plain=True):
        wanted = jit(lambda x, taps: both(x, taps))(x, taps)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *jax.device_get([found, wanted]))


def test_gradients_in_bfloat16_need_no_array_for_each_tap():
    x, taps = (jax.ShapeDtypeStruct((2, 14, 14, *c), 'bfloat16') for c in ((128,), (9, 16)))
    pull = jax.jit(lambda x, taps, dy: jax.vjp(aggregate, x, taps)[1](dy))
    memory = pull.lower(x, taps, x).compile().memory_analysis()
    whole = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.temp_size_in_bytes <= 2 * whole


def test_taps_of_a_kernel_are_normalized_together_over_the_map():
    x = jnp.asarray(normal(2, 6, 5, 8))
    taps, _ = jax.device_get(jit(Taps(3).init_with_output)(jax.random.key(0), x))
    assert taps.shape == (2, 6, 5, 9, 3)
    np.testing.assert_allclose(taps.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(taps.std((1, 2, 3)), 1, atol=1e-3)


def test_a_block_with_attention_starts_as_the_identity():
    block = lsnet.Block(lambda **parts: lsnet.Attention((3, 3), **parts))
    x = jnp.asarray(normal(2, 3, 3, 8))
    y, _ = jit(block.init_with_output)(jax.random.key(0), x, None)
    np.testing.assert_array_equal(y, x)


def test_the_bias_is_of_the_distances_along_rows_and_columns():
    table = normal(2, 2, 3)
    bias = jax.device_get(lsnet.distance_bias(jnp.asarray(table.reshape(2, 6)), (2, 3), (2, 3)))
    for query, key in np.ndindex(6, 6):
        (down, right), (below, beside) = divmod(query, 3), divmod(key, 3)
        np.testing.assert_array_equal(bias[0, :, query, key], table[:, abs(down - below), abs(right - beside)])


def distilled(seed: int) -> tuple:
    """Returns a tiny network with two heads, and its variables under their published names."""
    model = modelzoo.create_model('lsnet_t_distill', 5, widths=(16, 32), depths=(0, 2), stem_stride=1, image_size=8)
    variables = filled(model, jnp.asarray(normal(2, 8, 8, 3)))
    return model, variables, weights.to_published(lsnet.NAMES['DistilledLSNet'], weights.merge(variables))


def test_two_heads_are_averaged():
    model, variables, _ = distilled(0)
    features = {'pooled': jnp.asarray(normal(3, 32))}
    head = variables['params']['head']
    one = [lsnet.NormedLinear(5).apply({'params': head[part]}, features) for part in ('labels', 'teacher')]
    both = model.head.apply({'params': head}, features)
    np.testing.assert_allclose(both['logits'], (one[0] + one[1]) / 2, rtol=1e-6)
    np.testing.assert_array_equal([both['label_logits'], both['teacher_logits']], one)
    assert abs(one[0] - one[1]).max() > 0.1


def test_published_heads_may_repeat_their_statistics_but_not_differ_in_them():
    model, variables, published = distilled(0)
    copies = {f'head_dist.bn.{name}': published[f'head.bn.{name}'] for name in ('running_mean', 'running_var')}
    loaded = weights.load(model, variables, published | copies)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    copies['head_dist.bn.running_mean'] = copies['head_dist.bn.running_mean'] + 1
    with pytest.raises(ValueError, match=r'1 extra: head_dist\.bn\.running_mean'):
        weights.load(model, variables, published | copies)


@pytest.mark.parametrize(
    'fields, words',
    [
        ({'stem_stride': 3}, 'stem_stride is 3: use 8 as published, or 4, 2 or 1 for small images'),
        ({'widths': (12, 32)}, 'width 12 does not divide into 8 groups: change one of them'),
    ],
)
def test_mistakes_end_in_one_sentence(fields, words):
    backbone = modelzoo.backbone('lsnet_large_test', **fields)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_channels_that_cannot_share_kernels_are_refused():
    with pytest.raises(ValueError, match='6 channels cannot share 4 kernels'):
        aggregate(jnp.zeros((1, 2, 2, 6)), jnp.zeros((1, 2, 2, 9, 4)))
