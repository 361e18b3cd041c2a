"""ConvNeXt and what came of it: sizes and the quirks their docstrings name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo.layers.convolutions.conv import DepthwiseConv
from longview.modelzoo.layers.frame import meta_next
from longview.modelzoo.layers.frame.drop import by_stage
from longview.modelzoo.layers.norms.norm import GlobalResponseNorm
from longview.modelzoo.vision import convnext, hornet, inceptionnext, unireplknet
from tests.modelzoo.tiny import filled, jit, shapes

SAID = {
    name: figures.params
    for family in (convnext, hornet, inceptionnext, unireplknet)
    for name, figures in family.PUBLISHED.items()
    if figures.params
}


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('name', SAID)
def test_parameter_counts_are_the_published_ones(name):
    assert abs(count(shapes(name).params) / 1e6 - SAID[name]) <= (0.6 if isinstance(SAID[name], int) else 0.051)


@pytest.mark.parametrize(
    'name, said', [('hornet_large_7x7', 209), ('hornet_large_gf', 211), ('hornet_large_gf_img384', 216)]
)
def test_the_largest_hornet_has_the_published_count_with_more_classes(name, said):
    assert abs((count(shapes(name).params['backbone']) + 10_450 * 1537) / 1e6 - said) < 0.5


@pytest.mark.parametrize('name', ['convnext_test', 'hornet_test', 'unireplknet_deploy_test'])
def test_the_classifier_reads_the_normalized_mean_not_the_mean_of_the_normalized(name):
    model = modelzoo.create_model(name, 3)
    x = noise(2, 16, 16, 3)
    variables = filled(model, x)
    features = jax.device_get(jit(model.apply)(variables, x))
    mean = features['stage1'].mean((1, 2))
    norm = jax.device_get(variables['params']['backbone']['norm'])
    centred = mean - mean.mean(-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * norm['scale'][None] + norm['bias'][None]
    np.testing.assert_allclose(features['pooled'], wanted, atol=1e-4)
    assert abs(features['map'].mean((1, 2)) - features['pooled']).max() > 1e-2


def test_response_norm_follows_its_formula_and_starts_as_nothing():
    x, norm = noise(2, 3, 4, 5), GlobalResponseNorm()
    np.testing.assert_array_equal(jit(norm.init_with_output)(jax.random.key(0), x)[0], x)
    params = {'scale': np.arange(5.0).reshape(1, 1, 1, 5), 'bias': np.full((1, 1, 1, 5), 0.5)}
    length = np.sqrt((x**2).sum((1, 2), keepdims=True))
    wanted = x + params['scale'] * x * length / (length.mean(-1, keepdims=True) + 1e-6) + params['bias']
    params = jax.tree.map(lambda value: value.astype(np.float32), params)
    np.testing.assert_allclose(jit(norm.apply)({'params': params}, x), wanted, rtol=1e-4, atol=1e-5)
    without = jit(norm.clone(use_bias=False).apply)({'params': {'scale': params['scale']}}, x)
    np.testing.assert_allclose(without, wanted - 0.5, rtol=1e-4, atol=1e-5)


def test_response_norm_has_a_gradient_where_a_channel_is_silent():
    norm = GlobalResponseNorm()
    x = np.ones((1, 2, 2, 3), np.float32) * np.array([1, 0, 1], np.float32)
    variables = {'params': {'scale': jnp.ones((1, 1, 1, 3)), 'bias': jnp.zeros((1, 1, 1, 3))}}
    gradient = jax.device_get(jit(jax.grad(lambda x: norm.apply(variables, x).sum()))(x))
    np.testing.assert_allclose(gradient[..., 1], 1.0)


def test_depthwise_layers_have_the_shape_dilation_and_bias_asked_for():
    x = np.zeros((1, 9, 9, 1), np.float32)
    x[0, 4, 4] = 1
    layer = DepthwiseConv((3, 5), use_bias=True, dilation=2)
    y, variables = jax.device_get(jit(layer.init_with_output)(jax.random.key(0), x))
    params = variables['params']
    assert params['kernel'].shape == (3, 5, 1, 1) and params['bias'].shape == (1,)
    y = y[0, :, :, 0] - params['bias'][None]
    np.testing.assert_allclose(y[2:7:2, 0:9:2], params['kernel'][::-1, ::-1, 0, 0], atol=1e-6)
    assert (abs(y) > 1e-6).sum() == 15
    assert list(jax.eval_shape(DepthwiseConv(3).init, jax.random.key(0), x)['params']) == ['kernel']


def test_depths_count_what_leads_to_the_next_stage_with_the_block_before():
    assert meta_next.layers((2, 1)) == (
        ('stem',),
        ('stage0/block00',),
        ('stage0/block01', 'down0'),
        ('stage1/block00',),
        ('norm',),
    )
    masks = jnp.arange(3.0).reshape(3, 1, 1)
    assert [part.ravel().tolist() for part in by_stage(masks, (2, 1))] == [[0, 1], [2]]
    assert by_stage(None, (2, 1)) == [None, None]


def test_inception_passes_most_channels_and_looks_along_rows_and_columns():
    mixer, x = inceptionnext.Inception(5, 1 / 8), np.zeros((1, 7, 7, 16), np.float32)
    x[0, 3, 3] = 1
    y = np.asarray(jit(mixer.init_with_output)(jax.random.key(0), x)[0])[0]
    np.testing.assert_array_equal(y[..., :10], x[0, ..., :10])
    reach = [np.argwhere(abs(y[..., first : first + 2]).max(-1) > 0) for first in (10, 12, 14)]
    assert [(pixels.min(0).tolist(), pixels.max(0).tolist()) for pixels in reach] == [
        ([2, 2], [4, 4]),
        ([3, 1], [3, 5]),
        ([1, 3], [5, 3]),
    ]
    with pytest.raises(ValueError, match='0.125 of 4 channels is less than one: widen the stage'):
        jax.eval_shape(mixer.init, jax.random.key(0), x[..., :4])


@pytest.mark.parametrize('order', [2, 4])
def test_a_gated_convolution_is_a_product_of_so_many_factors_and_one(order):
    mixer, x = hornet.GatedConv(order, functools.partial(DepthwiseConv, 3)), noise(1, 4, 4, 16)
    variables, run = jit(mixer.init)(jax.random.key(0), x), jit(mixer.apply)  # all biases are 0
    y, scaled = (np.asarray(run(variables, np.float32(factor) * x), np.float64) for factor in (1, 2))
    np.testing.assert_allclose(scaled, 2 ** (order + 1) * y, rtol=1e-4, atol=1e-6 * abs(scaled).max())
    double = jit(mixer.clone(scale=2 / 3).apply)(variables, x)
    np.testing.assert_allclose(double, 2**order * y, rtol=1e-4, atol=1e-6 * abs(scaled).max())
    with pytest.raises(ValueError, match=r'width 12 does not divide by 2\^3: change width or the orders'):
        jax.eval_shape(mixer.clone(order=4).init, jax.random.key(0), x[..., :12])


def test_the_halves_of_a_global_filter_take_turns():
    layer, x = hornet.GlobalLocal((4, 4)), noise(1, 4, 4, 6)
    params = jit(layer.init)(jax.random.key(0), x)['params']
    params['local'] = {'kernel': jnp.zeros((3, 3, 1, 3)).at[1, 1].set(1.0)}
    params['global'] = {'kernel': jnp.zeros((3, 2, 4, 3)).at[:, 0].set(1.0)}  # both halves pass as they are
    y = jit(layer.apply)({'params': params}, x)
    centred = x - x.mean(-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y, wanted[..., [0, 3, 1, 4, 2, 5]], atol=1e-3)


@pytest.mark.parametrize(
    'name, path, shape',
    [
        ('hornet_tiny_gf', ('stage1', 'block00', 'mixer', 'filter', 'kernel'), (7, 7, 1, 224)),
        ('hornet_tiny_gf', ('stage2', 'block00', 'mixer', 'filter', 'global', 'kernel'), (8, 2, 14, 240)),
        ('hornet_base_gf_img384', ('stage3', 'block00', 'mixer', 'filter', 'global', 'kernel'), (7, 2, 12, 992)),
    ],
)
def test_only_the_last_stages_have_global_filters_and_other_images_resize_them(name, path, shape):
    assert traverse_util.flatten_dict(shapes(name).params['backbone'])[path].shape == shape


@pytest.mark.parametrize('kernel_size', [7, 9])
def test_deploying_changes_no_answer(kernel_size):
    model, deployed = (
        modelzoo.create_model(name, 5, kernel_size=kernel_size)
        for name in ('unireplknet_test', 'unireplknet_deploy_test')
    )
    x = noise(2, 24, 16, 3)
    variables = filled(model, x)
    ours = unireplknet.deploy(variables)
    wanted = jax.eval_shape(deployed.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, dict(wanted))
    ours, theirs = jax.device_get((jit(deployed.apply)(ours, x), jit(model.apply)(variables, x)))
    for key, value in theirs.items():
        assert abs(ours[key] - value).max() <= 5e-6 * value.std(), key


def test_large_kernels_come_every_so_many_blocks():
    sides = lambda name, stage: [block.args[0] for block in modelzoo.find(name)[1]._blocks(stage)]
    assert sides('unireplknet_t', 0) == [3, 3, 3] and sides('unireplknet_t', 1) == [13, 13, 13]
    assert sides('unireplknet_t', 2) == [13, 3] * 9 and sides('unireplknet_s', 2) == [13, 3, 3] * 9


@pytest.mark.parametrize('changes', [{'patch': 3}, {'kernel_size': 5}])
def test_an_odd_patch_or_a_kernel_without_branches_is_refused(changes):
    backbone = modelzoo.backbone('unireplknet_test', **changes)
    with pytest.raises(ValueError, match='use an even patch and one of 7, 9, 11, 13, 15, 17'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
