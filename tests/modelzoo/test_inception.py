"""Inception-v4 and Inception-ResNet: the sizes of the figures, scaled residuals, pooling, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.vision import inception
from longview.modelzoo.vision.inception import Layer, Residual, Style
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes

# Side and channels of each stage: figures 9 and 15, and the end points of the published code.
FIGURES = {
    'inception_v4': ((35, 384), (17, 1024), (8, 1536)),
    'inception_resnet_v1': ((35, 256), (17, 896), (8, 1792)),
    'inception_resnet_v2': ((35, 320), (17, 1088), (8, 2080)),
    'inception_resnet_v2_paper': ((35, 384), (17, 1152), (8, 2144)),
}
THIN = {'depths': (1, 1, 1), 'width': 1 / 64}


def sides(name: str, size: tuple[int, int], **fields) -> list[tuple[int, int]]:
    backbone = modelzoo.backbone(name, **THIN, **fields)
    spec = jax.ShapeDtypeStruct((1, *size, 3), 'float32')
    features = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x)[0], spec)
    return [features[f'stage{index}'].shape[1:3] for index in range(3)]


@pytest.mark.parametrize('name', deep_ones_heavy([*FIGURES]))
def test_stages_are_the_figures(name):
    features = shapes(name).features
    for index, (side, channels) in enumerate(FIGURES[name]):
        assert features[f'stage{index}'].shape == (2, side, side, channels)


@pytest.mark.parametrize('name', FIGURES)
def test_75_pixels_are_the_least_without_padding(name):
    assert sides(name, (75, 91)) == [(7, 9), (3, 4), (1, 1)]
    with pytest.raises(ValueError, match='an image of 91x74 pixels is too small .*: use at least 75x75, or aligned'):
        sides(name, (91, 74))


def test_17_pixels_are_the_least_where_the_stem_has_no_stride():
    for name in FIGURES:
        assert sides(name, (17, 17), stem_stride=1)[-1] == (1, 1)


def test_aligned_sizes_are_those_of_a_stride_rounded_up():
    assert sides('inception_v4', (45, 70), aligned=True) == [(6, 9), (3, 5), (2, 3)]


def test_what_is_added_is_scaled():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 6)), jnp.float32)
    branches = ((Layer(8),), (Layer(8), Layer(12, (1, 3)), Layer(16, (3, 1))))
    block = lambda scale: Residual(branches, Style(), scale, rectified=False)
    variables = filled(block(1.0), x, None)
    whole, tenth = (jax.device_get(jit(block(scale).apply)(variables, x, None)) for scale in (1.0, 0.1))
    assert abs(whole - x).max() > 0.1
    np.testing.assert_allclose(tenth - x, 0.1 * (whole - x), atol=1e-6)
    kernels = variables['params']['fork']['branch1']
    assert kernels['conv1']['conv']['kernel'].shape == (1, 3, 8, 12)
    assert kernels['conv2']['conv']['kernel'].shape == (3, 1, 12, 16)


def test_only_the_last_published_block_adds_without_scale_and_rectifier():
    blocks = modelzoo.backbone('inception_resnet_v2')._stages(Style())[2]
    scales = [(block.args[2], block.keywords.get('rectified', True)) for block in blocks[1:]]
    assert scales == [(0.2, True)] * 9 + [(1.0, False)]
    blocks = modelzoo.backbone('inception_resnet_v1')._stages(Style())[2]
    assert {(block.args[2], block.keywords.get('rectified', True)) for block in blocks[1:]} == {(0.2, True)}


def test_pooling_averages_the_pixels_that_there_are():
    x = np.random.default_rng(0).normal(size=(1, 4, 3, 2)).astype(np.float32)
    y = jax.device_get(inception.local_mean(jnp.asarray(x)))
    for row in range(4):
        for column in range(3):
            seen = x[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            np.testing.assert_allclose(y[0, row, column], seen.mean((0, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'name, fields, words',
    [
        ('inception_v4', {'stem_stride': 4}, 'stem_stride is 4: use 8 as published or 1 for small images'),
        ('inception_v4', {'depths': (1, 2)}, r'depths is \(1, 2\): give three numbers of blocks'),
        ('inception_v4', {'drop_path': 0.1}, 'drop_path is 0.1, but no block of Inception-v4 adds'),
        ('inception_resnet_v1', {'version': 'v3'}, "version is 'v3': use one of v1, v2, v2_paper"),
    ],
)
def test_mistakes_end_in_one_sentence(name, fields, words):
    backbone = modelzoo.backbone(name, **THIN | fields)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 80, 80, 3)))


def test_dropout_is_of_pooled_features_in_training_alone():
    class OneConvolution(inception.Inception):
        plan = inception.Plan((Layer(64),), (((Layer(64),),),) * 3, (((Layer(64),),),) * 2)

    backbone = OneConvolution((0, 0, 0), dropout=0.5, aligned=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 3)), jnp.float32)

    train = {'train': True, 'rngs': {'drop_path': jax.random.key(1)}, 'mutable': ['batch_stats']}

    @jit
    def run(x):
        variables = filled(backbone, x)
        apply = lambda rate, **how: backbone.clone(dropout=rate).apply(variables, x, **how)
        trained = [apply(rate, **train)[0]['pooled'] for rate in (0.5, 0.0)]
        return trained, [apply(rate)['pooled'] for rate in (0.5, 0.0)]

    (dropped, whole), (deployed, plain) = jax.device_get(run(x))
    kept = dropped != 0
    assert 0.3 < kept[whole != 0].mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * whole[kept], rtol=1e-5)
    np.testing.assert_array_equal(deployed, plain)
