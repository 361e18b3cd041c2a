"""VCMamba: the orders of its four scans, its sizes and its stem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weights
from longview.modelzoo.heads import Classifier
from longview.modelzoo.vision import vcmamba
from longview.trees import by_path
from tests.modelzoo.tiny import filled, shapes


def test_four_snakes():
    orders, moves = vcmamba.snakes(2, 3)
    assert orders.tolist() == [[0, 1, 2, 5, 4, 3], [3, 4, 5, 2, 1, 0], [0, 3, 4, 1, 2, 5], [5, 2, 1, 4, 3, 0]]
    right, left, up, down = 1, 2, 3, 4
    assert moves.tolist() == [
        [0, right, right, down, left, left],
        [0, right, right, up, left, left],
        [0, down, right, up, right, down],
        [0, up, left, down, left, up],
    ]


@pytest.mark.parametrize('name', vcmamba.PUBLISHED)
def test_parameters_are_as_many_as_the_paper_says(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params['backbone']))
    width = vcmamba.VARIANTS[name].widths[-1]
    assert abs((count + 2 * 1000 * (width + 1)) / 1e6 - vcmamba.PUBLISHED[name].params) < 0.1


def test_published_names_and_tables_of_another_size_both_ways():
    model = Classifier(
        modelzoo.backbone('vcmamba_test', widths=(8, 8, 8, 16), depths=(1, 1, 1, 2), image_size=64), vcmamba.TwoHeads(3)
    )
    x = jnp.ones((1, 64, 64, 3))
    variables = filled(model, x)
    published = weights.to_published(vcmamba.NAMES['VCMamba'], weights.merge(variables))
    assert published['pos_embed'].shape == (1, 16, 2, 2) and published['network.6.1.mamba.A_log'].shape == (32, 16)
    larger = Classifier(model.backbone.clone(image_size=(96, 64)), model.head)
    wanted = jax.eval_shape(larger.init, jax.random.key(0), x)
    loaded = weights.load(larger, wanted, published)
    assert loaded['params']['backbone']['positions']['pos_embed'].shape == (1, 16, 3, 2)
    jax.tree.map(np.testing.assert_array_equal, weights.load(model, variables, published), variables)


def test_without_a_table_of_positions():
    plain, without = (modelzoo.backbone('vcmamba_test', positions=positions) for positions in (True, False))
    paths = lambda backbone: by_path(jax.eval_shape(backbone.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))).keys()
    assert paths(plain) - paths(without) == {'params/positions/pos_embed'} and paths(without) < paths(plain)
    assert ('positions' in str(plain.layers), 'positions' in str(without.layers)) == (True, False)


def test_a_stride_of_the_stem_that_there_is_not():
    backbone = modelzoo.backbone('vcmamba_test', stem_stride=3)
    with pytest.raises(ValueError, match='stem_stride is 3: use 4 as published, or 2 or 1 for small images.'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))


@pytest.mark.parametrize('stride', [1, 2])
def test_small_strides(stride):
    backbone = modelzoo.backbone('vcmamba_test', stem_stride=stride)
    features, _ = jax.eval_shape(backbone.init_with_output, jax.random.key(0), jnp.ones((1, 16, 8, 3)))
    assert features['stage1'].shape == (1, 8 // stride, 4 // stride, 32) and backbone.strides == (stride, 2 * stride)
