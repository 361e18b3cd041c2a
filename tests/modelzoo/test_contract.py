"""What every backbone for images promises: shapes for all variants, numbers for the tiny ones.

Those for sequences: tests/modelzoo/sequence/test_contract.py.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.flatten_util import ravel_pytree

from longview import modelzoo
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier
from longview.modelzoo.layers.frame.patch import stem_grid
from tests.modelzoo.tiny import filled, images, jit, shapes

TINY = images('*_test')
# The weights of these mix a fixed number of patches: another image size is refused.
FIXED = ('mixer_test', 'resmlp_test')
# Parameters without a gradient, for the logits do not depend on them: CvT's last block attends from the class token
# alone, whose query skips the convolution, and SkipNet's last gate decides about a block that there is not.
UNREAD = {
    'cvt_test': tuple(f'backbone/stage1/block01/mixer/q/{part}/' for part in ('conv', 'norm')),
    'skipnet_test': ('backbone/stage1_gate00/',),
}
# Matrices of one column.
COLUMNS = ('control/linear/kernel',)
CLASSES = 7
# What two programs of the same sums may differ by: ten times what was measured under three instruction sets.
ROUNDING = 2e-5


def having(field: str) -> list[str]:
    """The tiny models whose backbone has a field of this name."""
    return [name for name in TINY if hasattr(modelzoo.find(name)[1], field)]


def image(batch: int = 4, size: tuple[int, int, int] = (16, 16, 3)) -> jax.Array:
    return jax.random.normal(jax.random.key(5), (batch, *size))


@functools.cache
def start(name: str) -> tuple[Classifier, dict]:
    """Returns a tiny model and its variables."""
    model = modelzoo.create_model(name, CLASSES, drop_path=0.5)
    return model, filled(model, image())


def train_answer(model: Classifier, variables: dict, x: jax.Array) -> tuple:
    """Returns logits and new batch statistics, and the gradients of the weighted sum of the logits, in training."""
    cotangent = jnp.cos(jnp.arange(len(x) * CLASSES)).reshape(len(x), CLASSES)

    def loss(params):
        features, updates = model.apply(
            {**variables, 'params': params},
            x,
            train=True,
            mutable=['batch_stats'],
            rngs={'drop_path': jax.random.key(2)},
        )
        return jnp.sum(features['logits'] * cotangent), (features['logits'], updates)

    gradients, answer = jax.grad(loss, has_aux=True)(variables['params'])
    return answer, gradients


@functools.cache
def plain_answer(name: str) -> tuple:
    model, variables = start(name)
    return jit(functools.partial(train_answer, model))(variables, image())


@functools.cache
def features_of(name: str) -> ft.Features:
    model, variables = start(name)
    return jit(model.apply)(variables, image())


def error(ours, wanted) -> float:
    """Returns the root mean square of the difference over that of what is wanted."""
    ours, wanted = (np.asarray(array, np.float64) for array in (ours, wanted))
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def assert_close(ours, wanted, bar: float) -> None:
    """Every array of a tree within `bar`."""
    errors = jax.tree.map(error, ours, wanted)
    assert max(jax.tree.leaves(errors)) <= bar, errors


@pytest.mark.parametrize('name', images())
def test_shapes_of_every_variant(name):
    backbone = modelzoo.find(name)[1]
    sizes = {key: value.shape for key, value in shapes(name)[0].items()}
    assert sizes.pop('logits') == (2, 1000)
    height, width, channels = sizes[ft.MAP][1:]
    # InceptionNeXt's classifier widens the mean before its logits.
    assert sizes[ft.POOLED] == (2, 3 * channels if name.startswith('inceptionnext') else channels)
    if isinstance(backbone, ft.TokenBackbone):
        assert (height, width) == backbone.grid(64, 96)
        assert sizes[ft.TOKENS] == (2, height * width, channels)
        assert sizes[ft.STEM] == sizes[ft.MAP]
    if isinstance(backbone, ft.PyramidBackbone):
        for index, (stride, width) in enumerate(zip(backbone.strides, backbone.channels, strict=True)):
            assert sizes[ft.stage(index)] == (2, 64 // stride, 96 // stride, width)
        assert sizes[ft.MAP][:3] == sizes[ft.stage(index)][:3]  # some widen it once more
    assert set(sizes) <= {
        ft.STEM,
        ft.TOKENS,
        ft.MAP,
        ft.POOLED,
        ft.GATES,
        ft.GATE_LOGITS,
        *(ft.stage(index) for index in range(9)),
    }


@pytest.mark.parametrize('name', images())
def test_every_parameter_has_one_depth_and_a_telling_name(name):
    backbone, params = modelzoo.find(name)[1], shapes(name)[1]['backbone']
    layers = backbone.layers
    groups = [prefix for group in layers for prefix in group]
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items():
        owners = [prefix for prefix in groups if f'{path}/'.startswith(f'{prefix}/')]
        assert len(owners) == 1, path
        assert owners[0] in layers[backbone.layer_of(f'backbone/{path}')]
        matrix = leaf.size > max(leaf.shape, default=1)  # a class token, (1, 1, D), is a vector
        assert (matrix or path.endswith(COLUMNS)) == path.endswith(('/kernel', 'pos_embed', '/A_log', '/direction')), (
            path
        )
        assert leaf.dtype == jnp.float32
    assert backbone.layer_of('head/kernel') == backbone.num_layers - 1


@pytest.mark.parametrize('name', TINY)
def test_every_parameter_gets_a_finite_gradient(name):
    answer, gradients = plain_answer(name)
    chex.assert_tree_all_finite((answer, gradients))
    for path, gradient in traverse_util.flatten_dict(gradients, sep='/').items():
        assert (abs(gradient).max() > 0) != path.startswith(UNREAD.get(name, ())), path


# Where blocks can be scanned, remat alone is for `pytest -m heavy`: a compilation of a whole training step each.
@pytest.mark.parametrize(
    'name, options',
    [
        *((name, ('remat', 'scan')) for name in having('scan')),
        *(pytest.param(name, ('remat',), marks=[pytest.mark.heavy] * (name in having('scan'))) for name in TINY),
    ],
)
def test_execution_options_change_no_number(name, options):
    model, variables = start(name)
    options = dict.fromkeys(options, True)
    other = Classifier(model.backbone.clone(**options), model.head)
    same = lambda tree: jax.tree.map(jnp.shape, tree)
    assert same(jax.eval_shape(other.init, jax.random.key(0), image())) == same(variables)
    answer = jit(functools.partial(train_answer, other))(variables, image())
    wanted = plain_answer(name)
    assert error(ravel_pytree(answer)[0], ravel_pytree(wanted)[0]) <= ROUNDING
    # The gates' gradients are small differences of large sums, and those of biases that a norm takes away are nothing
    # but rounding, which is 1e-7 of the largest array.
    least = 1e-2 * max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(wanted))
    for ours, theirs in zip(jax.tree.leaves(answer), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-4 * max(np.linalg.norm(theirs), least)


@pytest.mark.parametrize('name', TINY)
def test_evaluation_treats_examples_apart_and_draws_nothing(name):
    model, variables = start(name)
    one = jit(model.apply)(variables, image()[2:3])
    assert_close(one, jax.tree.map(lambda value: value[2:3], features_of(name)), ROUNDING)


@pytest.mark.parametrize('name', TINY)
def test_training_drops_by_row_however_the_batch_is_split(name):
    model, variables = start(name)
    if 'batch_stats' in variables:
        # The parts of a batch have statistics of their own; what is dropped still differs from row to row.
        assert abs(plain_answer(name)[0][0] - features_of(name)['logits']).max() > 0.01
        return
    half = jit(
        lambda rows, x: model.apply(
            {**variables, 'example': {'row': rows}}, x, train=True, rngs={'drop_path': jax.random.key(2)}
        )['logits']
    )
    rows = jnp.arange(4)
    logits = jnp.concatenate([half(rows[part], image()[part]) for part in (slice(0, 2), slice(2, 4))])
    assert_close(logits, plain_answer(name)[0][0], ROUNDING)
    assert abs(logits - features_of(name)['logits']).max() > 1e-4


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_is_close_to_float32(name):
    model, variables = start(name)
    half = Classifier(model.backbone.clone(dtype=jnp.bfloat16), model.head)
    features = jit(half.apply)(variables, image())
    assert {key for key, value in features.items() if value.dtype == jnp.float32} == {ft.POOLED, 'logits'}
    assert_close(features, features_of(name), 0.03)


@pytest.mark.parametrize('name', [name for name in TINY if name not in FIXED])
def test_other_image_sizes_with_the_same_parameters(name):
    model, variables = start(name)
    features = jit(model.apply)(variables, image(1, (20, 12, 3)))
    chex.assert_tree_all_finite(features)
    assert features[ft.STEM].shape[1:3] in ((5, 3), (20, 12))


@pytest.mark.parametrize('size', [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize('patch', [2, 4])
@pytest.mark.parametrize('name', having('patch'))
def test_small_images_with_small_patches(name, patch, size):
    backbone = modelzoo.find(name)[1].clone(patch=patch)
    features = jax.eval_shape(backbone.init_with_output, jax.random.key(0), image(1, size))[0]
    ours = features[ft.STEM].shape[1:3]
    assert ours in (stem_grid(*size[:2], patch), (size[0] // patch, size[1] // patch))


@pytest.mark.parametrize('name', having('patch'))
def test_an_image_that_does_not_divide_is_refused(name):
    backbone = modelzoo.find(name)[1]
    with pytest.raises(ValueError, match='image 18x16 does not divide by patch 4: use e.g. 16x16'):
        jax.eval_shape(backbone.init, jax.random.key(0), image(1, (18, 16, 3)))


@pytest.mark.parametrize('name', [name for name in TINY if isinstance(modelzoo.find(name)[1], ft.TokenBackbone)])
def test_a_token_backbone_is_the_sum_of_its_parts_also_without_jit(name):
    model, variables = start(name)
    params = variables['params']

    def in_parts(backbone, x):
        grid = backbone.grid(*x.shape[1:3])
        return backbone.encode(backbone.embed(x) + backbone.positions(grid), grid)

    features = model.backbone.apply({'params': params['backbone']}, image(), method=in_parts)
    assert_close(features, {key: features_of(name)[key] for key in features}, ROUNDING)
