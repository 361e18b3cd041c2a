"""Finding models by name, and the table that ``python -m longview.modelzoo`` prints."""

import jax
import jax.numpy as jnp
import pytest

from longview import modelzoo
from longview.modelzoo import __main__ as table


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


@pytest.mark.parametrize('name, hint', [
    ('vig_tinny', "there is no model 'vig_tinny': did you mean vig_tiny"),
    ('zzzzzzzz', r'list_models\(\) has the names'),
])
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=hint):
        modelzoo.create_model(name)


def test_an_unknown_override_is_python_s_own_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        modelzoo.create_model('vig_tiny', widht=3)


def test_multiply_adds_of_loops_branches_and_convolutions():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 5))
    image, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 2, 6))

    def program(a, b):
        a, _ = jax.lax.scan(lambda a, _: (jax.nn.relu(a @ b), None), a, None, length=7)
        a = jax.lax.platform_dependent(a, cpu=lambda a: a @ b @ b, default=lambda a: a @ b)
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ b @ b, lambda a: a, a)

    assert table.multiply_adds(program, a, b) == (7 + 1 + 2) * 3 * 5 * 5
    convolve = lambda image, kernel: jax.lax.conv_general_dilated(
        image, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=2)
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
