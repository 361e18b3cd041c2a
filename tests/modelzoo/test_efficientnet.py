"""EfficientNet: sizes by pycls's own count and lists, its features, and what a block adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.vision import efficientnet
from tests.modelzoo.tiny import deep_ones_heavy, filled, shapes

# Depths, widths, channels of the stem and of the last convolution, and parameters: pycls's configs and
# model_complexity.json.
SIZES = {
    'efficientnet_b0': ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320), 32, 1280, 5288548),
    'efficientnet_b1': ((2, 3, 3, 4, 4, 5, 2), (16, 24, 40, 80, 112, 192, 320), 32, 1280, 7794184),
    'efficientnet_b2': ((2, 3, 3, 4, 4, 5, 2), (16, 24, 48, 88, 120, 208, 352), 32, 1408, 9109994),
    'efficientnet_b3': ((2, 3, 3, 5, 5, 6, 2), (24, 32, 48, 96, 136, 232, 384), 40, 1536, 12233232),
    'efficientnet_b4': ((2, 4, 4, 6, 6, 8, 2), (24, 32, 56, 112, 160, 272, 448), 48, 1792, 19341616),
    'efficientnet_b5': ((3, 5, 5, 7, 7, 9, 3), (24, 40, 64, 128, 176, 304, 512), 48, 2048, 30389784),
}


def test_compound_scaling_makes_the_reference_s_sizes():
    for name, (depths, widths, stem, last, _) in SIZES.items():
        backbone = modelzoo.backbone(name)
        assert (backbone.depths, backbone.widths, backbone.stem_width, backbone.head_width) == (
            depths,
            widths,
            stem,
            last,
        )


@pytest.mark.parametrize('name', deep_ones_heavy([*SIZES]))
def test_parameters_are_those_of_the_reference(name):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params)) == SIZES[name][-1]


def test_features_are_those_of_each_resolution():
    backbone = modelzoo.backbone('efficientnet_b0')
    assert backbone.strides == (2, 4, 8, 16, 32) and backbone.channels == (16, 24, 40, 112, 320)


@pytest.mark.parametrize('features, stride, adds', [(8, 1, True), (16, 1, False), (8, 2, False)])
def test_a_block_adds_its_input_where_the_shape_is_the_same(features, stride, adds):
    block = efficientnet.MBConv(features, 2, 3, stride)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 5, 8)), jnp.float32)
    variables = filled(block, x, None)
    norm = variables['params']['project']['norm']
    variables['params']['project']['norm'] = jax.tree.map(jnp.zeros_like, norm)
    y = block.apply(variables, x, None)
    np.testing.assert_array_equal(y, x if adds else jnp.zeros_like(y))


def test_a_network_scaled_fast_is_wider_but_hardly_deeper():
    """16 times the work: by powers of 0.1 and 0.4, 1.3 times as deep and 3 times as wide."""
    backbone = efficientnet.scaled(work=16.0)
    assert backbone.depths == (1, 3, 3, 4, 4, 5, 1)
    assert backbone.widths == (48, 72, 120, 240, 336, 584, 968)
    assert (backbone.stem_width, backbone.head_width) == (96, 3880)
    assert efficientnet.scaled(work=1.0) == modelzoo.backbone('efficientnet_b0')
