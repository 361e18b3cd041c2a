"""Finding models by name, and the table that ``python -m longview.modelzoo`` prints."""

import re

import jax
import jax.numpy as jnp
import pytest

from longview import modelzoo
from longview.modelzoo import __main__ as table
from longview.modelzoo.layers.residuals.rezero import ReZero


def test_names_are_unique_and_matched_by_pattern():
    names = modelzoo.list_models()
    assert len(names) == len(set(names))
    assert modelzoo.list_models('vig_h_*') == ['vig_h_tiny', 'vig_h_small', 'vig_h_base', 'vig_h_test']
    assert modelzoo.list_models('alexnet*') == []


def test_every_published_figure_belongs_to_a_variant_and_every_class_has_a_name_map():
    for family in modelzoo.families():
        assert set(family.PUBLISHED) <= set(family.VARIANTS)
        assert set(family.NAMES) == {type(backbone).__name__ for backbone in family.VARIANTS.values()}


def test_a_model_is_a_backbone_and_a_head():
    model = modelzoo.create_model('vig_test', 7, width=16)
    assert (model.backbone.width, model.backbone.depth, model.head.num_classes) == (16, 2, 7)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
    assert set(params) == {'backbone', 'head'}
    assert params['head']['kernel'].shape == (16, 7)


@pytest.mark.parametrize(
    'name, hint',
    [
        ('vig_tinny', "there is no model 'vig_tinny': did you mean vig_tiny"),
        ('zzzzzzzz', r'list_models\(\) has the names'),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=hint):
        modelzoo.create_model(name)


BACKBONES = [name for name in modelzoo.list_models('*_test')]


@pytest.mark.parametrize('name', BACKBONES)
def test_a_backbone_is_its_variant_with_other_values_where_they_are_given(name):
    variant = modelzoo.find(name)[1]
    assert modelzoo.backbone(name) == variant
    changed = modelzoo.backbone(name, drop_path=0.25, dtype='bfloat16')
    assert changed == variant.clone(drop_path=0.25, dtype=jnp.dtype('bfloat16')) and changed != variant


def test_lists_become_tuples_and_a_slot_takes_another_part_or_arguments_for_its_own():
    assert modelzoo.backbone('resnet_test', depths=[1, 1], widths=[8, 16]).depths == (1, 1)
    swapped = modelzoo.backbone('vit_test', residual=ReZero)
    params = jax.eval_shape(swapped.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
    assert 'residual' in params['block00']
    mixer = modelzoo.backbone('gla_test', mixer={'heads': 4}).mixer
    assert mixer.keywords == {**modelzoo.find('gla_test')[1].mixer.keywords, 'heads': 4}


@pytest.mark.parametrize(
    'fields, words',
    [
        ({'widht': 3}, "ViT has no field 'widht'; did you mean 'width'?"),
        (
            {'depth': {'of': 3}},
            r"ViT.depth is 2, which takes no arguments, and {'of': 3} are given: give a factory instead.",
        ),
    ],
)
def test_what_a_backbone_has_no_field_for_is_refused(fields, words):
    for make in (modelzoo.backbone, modelzoo.create_model):
        with pytest.raises(ValueError, match=re.escape(words)):
            make('vit_test', **fields)


def test_multiply_adds_of_loops_branches_and_convolutions():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 5))
    image, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 2, 6))

    def program(a, b):
        a, _ = jax.lax.scan(lambda a, _: (jax.nn.relu(a @ b), None), a, None, length=7)
        a = jax.lax.platform_dependent(a, cpu=lambda a: a @ b @ b, default=lambda a: a @ b)
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ b @ b, lambda a: a, a)

    assert table.multiply_adds(program, a, b) == (7 + 1 + 2) * 3 * 5 * 5
    convolve = lambda image, kernel: jax.lax.conv_general_dilated(
        image, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=2
    )
    assert table.multiply_adds(convolve, image, kernel) == 2 * 4 * 4 * 6 * (3 * 3 * 2)


def test_the_table_has_our_figures_beside_the_paper_s(capsys):
    assert table.main('vig_h_tiny') == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ['variant', 'parameters', 'paper']
    name, params, _, said, macs, *_ = line.split()
    assert (name, params, said) == ('vig_h_tiny', '28.60', '29')
    assert 4.4 < float(macs) < 4.9
    assert '224x224' in line and 'arxiv.org/abs/2405.18425' in line


def test_a_pattern_without_models_says_so(capsys):
    assert table.main('alexnet*') == 1
    assert "no model matches 'alexnet*'" in capsys.readouterr().err
