"""What every backbone for images promises: shapes for all variants, numbers for the tiny ones.

Those for sequences: tests/modelzoo/sequence/test_contract.py.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.extend.core.primitives import remat_p, scan_p

from longview import modelzoo
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier
from longview.modelzoo.layers.frame.patch import stem_grid
from tests.modelzoo.tiny import DEAR, deep_ones_heavy, filled, images, jit, primitives, shapes, sized

TINY = images('*_test')
# The weights of these mix a fixed number of patches or pixels: another image size is refused.
FIXED = ('mixer_test', 'ninformer_test', 'resmlp_test', 'repmlpnet_test', 'repmlpnet_deploy_test', 'liresnet_test')
# One network of each loop over blocks: the trunk's, stages of it, the pyramid's, and a family's own. How these run is
# shown to change no number; of the others `pytest -m heavy` shows it, by a compilation of a training step each.
LOOPS = ('vit_test', 'swinv2_test', 'resnet_test', 'preact_resnet_test', 'skipnet_test')
# Parameters without a gradient, for the logits do not depend on them: CvT's last block attends from the class token
# alone, whose query skips the convolution, and SkipNet's last gate decides about a block that there is not.
# T2T-ViT's positions and random features are fixed.
UNREAD = {
    't2t_vit_test': ('backbone/pos_embed', 'backbone/stem/mix0/features/'),
    't2t_vit_t_test': ('backbone/pos_embed',),
    'cvt_test': tuple(f'backbone/stage1/block01/mixer/q/{part}/' for part in ('conv', 'norm')),
    'skipnet_test': ('backbone/stage1_gate00/',),
    'ci2p_vit_test': ('backbone/stem/encoder/',),
}
# Names of matrices and tables; a complex bias is one for real and imaginary parts.
MATRICES = ('/kernel', 'pos_embed', 'token_table', '/A_log', '/direction', '/complex_bias', '/positions', '_map')
# Matrices of one column.
COLUMNS = ('control/linear/kernel', 'squeeze/kernel', 'attention/kernel', 'gate/kernel', 'mixer/q/kernel')
CLASSES = 7
# What is float32 whatever the compute type; networks with two heads have all of it.
VECTORS = {ft.POOLED, ft.DISTILLED, 'logits', 'label_logits', 'teacher_logits', ft.COST, ft.HARD_COST}
# What two programs of the same sums may differ by: ten times what was measured under three instruction sets.
ROUNDING = 2e-5


def having(field: str) -> list[str]:
    """The tiny models whose backbone has a field of this name."""
    return [name for name in TINY if hasattr(modelzoo.find(name)[1], field)]


def image(batch: int = 4, size: tuple[int, int, int] = (16, 16, 3), seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, *size)).astype(np.float32)


@functools.cache
def start(name: str) -> tuple[Classifier, dict]:
    """Returns a tiny model and its variables."""
    model = modelzoo.create_model(name, CLASSES, drop_path=0.5)
    return model, filled(model, image())


ROWS = np.arange(4)
# The same rows in another order, each at another place.
TURNED = np.array([2, 0, 3, 1])


class Trained(NamedTuple):
    """What a step of training computes: logits, new batch statistics, gradients of the weighted sum of the logits."""

    logits: np.ndarray
    updates: dict
    gradients: dict


def trained_features(model: Classifier, variables: dict, rows: jax.Array, x: jax.Array) -> tuple[ft.Features, dict]:
    """Returns the features, and new batch statistics, in training on images that are these rows of the global batch."""
    variables = {**variables, 'example': {'row': rows}}
    return model.apply(variables, x, train=True, mutable=['batch_stats'], rngs={'drop_path': jax.random.key(2)})


def train_answer(model: Classifier, variables: dict, rows: jax.Array, x: jax.Array) -> Trained:
    cotangent = jnp.cos(rows[:, None] * CLASSES + jnp.arange(CLASSES)[None])

    def loss(params):
        features, updates = trained_features(model, {**variables, 'params': params}, rows, x)
        return jnp.sum(features['logits'] * cotangent), (features['logits'], updates)

    gradients, (logits, updates) = jax.grad(loss, has_aux=True)(variables['params'])
    return Trained(logits, updates, gradients)


@functools.cache
def answers(name: str) -> tuple[Trained, Trained, np.ndarray]:
    """Returns three answers of one program: for the rows in order, for them turned, and for turned rows' old images."""
    model, variables = start(name)
    run = jit(functools.partial(train_answer, model))
    plain, turned = (run(variables, rows, image()[rows]) for rows in (ROWS, TURNED))
    return jax.device_get((plain, turned, run(variables, TURNED, image()).logits))


@functools.cache
def features_of(name: str) -> tuple[ft.Features, ft.Features]:
    """Returns two answers of one program: the features of four images, and those where all but the third are others."""
    model, variables = start(name)
    run = jit(model.apply)
    others = image(seed=6)
    others[2] = image()[2]
    return jax.device_get((run(variables, image()), run(variables, others)))


def error(ours, wanted) -> float:
    """Returns the root mean square of the difference over that of what is wanted."""
    ours, wanted = (np.asarray(array, np.float64) for array in (ours, wanted))
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def assert_close(ours, wanted, bar: float) -> None:
    """Every array of a tree within `bar`."""
    errors = jax.tree.map(error, ours, wanted)
    assert max(jax.tree.leaves(errors)) <= bar, errors


@pytest.mark.parametrize('name', deep_ones_heavy(images()))
def test_shapes_of_every_variant(name):
    backbone = modelzoo.find(name)[1]
    model, x = sized(name)
    down = lambda stride: tuple(-(-side // stride) for side in x.shape[1:3])
    sizes = {key: value.shape for key, value in shapes(name).features.items()}
    assert sizes.pop('logits') == (2, model.head.num_classes)
    height, width, channels = sizes[ft.MAP][1:]
    # InceptionNeXt's classifier widens the mean before its logits; CrossViT's reads half as much of another branch.
    more = 3 if name.startswith('inceptionnext') else 1.5 if name.startswith('crossvit') else 1
    if isinstance(backbone, ft.Bounded):  # a vector of its own, of all pixels
        more = backbone.neck_width / channels
    # PReLU nets have hidden layers.
    assert sizes[ft.POOLED] == (2, backbone.hidden if name.startswith('prelu_net') else more * channels)
    if isinstance(backbone, ft.TokenBackbone):
        assert (height, width) == backbone.grid(*x.shape[1:3])
        assert sizes[ft.TOKENS] == (2, height * width, channels)
        assert sizes[ft.STEM] == sizes[ft.MAP]
    if isinstance(backbone, ft.PyramidBackbone):
        for index, (stride, width) in enumerate(zip(backbone.strides, backbone.channels, strict=True)):
            assert sizes[ft.stage(index)] == (2, *down(stride), width)
        assert sizes[ft.MAP][:3] == sizes[ft.stage(index)][:3]  # some widen it once more
    assert set(sizes) <= {
        ft.STEM,
        ft.TOKENS,
        ft.MAP,
        ft.POOLED,
        ft.GATES,
        ft.GATE_LOGITS,
        ft.COST,
        ft.HARD_COST,
        *VECTORS,
        *(ft.stage(index) for index in range(9)),
    }


@pytest.mark.parametrize('name', deep_ones_heavy(images()))
def test_every_parameter_has_one_depth_and_a_telling_name(name):
    backbone, params = modelzoo.find(name)[1], shapes(name).params['backbone']
    layers = backbone.layers
    groups = [prefix for group in layers for prefix in group]
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items():
        owners = [prefix for prefix in groups if f'{path}/'.startswith(f'{prefix}/')]
        assert len(owners) == 1, path
        assert owners[0] in layers[backbone.layer_of(f'backbone/{path}')]
        matrix = leaf.size > max(leaf.shape, default=1)  # a class token, (1, 1, D), is a vector
        assert (matrix or path.endswith(COLUMNS)) == path.endswith(MATRICES), path
        assert leaf.dtype == jnp.float32
    assert backbone.layer_of('head/kernel') == backbone.num_layers - 1


@pytest.mark.parametrize('name', deep_ones_heavy(TINY, DEAR))
def test_every_parameter_gets_a_finite_gradient(name):
    answer, _, _ = answers(name)
    chex.assert_tree_all_finite(answer)
    for path, gradient in traverse_util.flatten_dict(answer.gradients, sep='/').items():
        assert gradient.any() != path.startswith(UNREAD.get(name, ())), path


def ways(name: str) -> list[tuple[str, ...]]:
    """Returns the options of a network that change how it runs, to be switched on: all of them, and remat alone."""
    return [('remat', 'scan'), ('remat',)] if name in having('scan') else [('remat',)]


@pytest.mark.parametrize('name', deep_ones_heavy(TINY, DEAR))
def test_execution_options_are_obeyed_and_change_no_shape(name):
    model, variables = start(name)
    options = ways(name)[0]
    other = Classifier(model.backbone.clone(**dict.fromkeys(options, True)), model.head)
    same = lambda tree: jax.tree.map(jnp.shape, tree)
    assert same(jax.eval_shape(other.init, jax.random.key(0), image())) == same(variables)
    plain, changed = (
        jax.make_jaxpr(functools.partial(trained_features, network), return_shape=True)(variables, ROWS, image())
        for network in (model, other)
    )
    assert same(changed[1]) == same(plain[1])
    gained = primitives(changed[0]) - primitives(plain[0])
    assert gained[remat_p] and bool(gained[scan_p]) == ('scan' in options)


@pytest.mark.parametrize(
    'name, options',
    [
        pytest.param(name, options, marks=[pytest.mark.heavy] * (name not in LOOPS or options != ways(name)[0]))
        for name in TINY
        for options in ways(name)
    ],
)
def test_execution_options_change_no_number(name, options):
    model, variables = start(name)
    other = Classifier(model.backbone.clone(**dict.fromkeys(options, True)), model.head)
    answer = jax.device_get(jit(functools.partial(train_answer, other))(variables, ROWS, image()))
    wanted = answers(name)[0]
    flat = lambda tree: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    assert error(flat(answer), flat(wanted)) <= ROUNDING
    # The gates' gradients are small differences of large sums, and those of biases that a norm takes away are nothing
    # but rounding, which is 1e-7 of the largest array.
    least = 1e-2 * max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(wanted))
    for ours, theirs in zip(jax.tree.leaves(answer), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-4 * max(np.linalg.norm(theirs), least)


@pytest.mark.parametrize('name', deep_ones_heavy(TINY, DEAR))
def test_evaluation_treats_examples_apart_and_draws_nothing(name):
    features, replaced = features_of(name)
    row = lambda tree, index: jax.tree.map(lambda value: value[index], tree)
    assert_close(row(replaced, 2), row(features, 2), ROUNDING)
    assert all(error(replaced['logits'][index], features['logits'][index]) > 1e-3 for index in (0, 1, 3))


@pytest.mark.parametrize('name', deep_ones_heavy(TINY, DEAR))
def test_training_draws_for_an_example_by_its_row_wherever_it_stands(name):
    plain, turned, redrawn = answers(name)
    assert_close((turned.logits, turned.updates), (plain.logits[TURNED], plain.updates), ROUNDING)
    assert abs(redrawn - plain.logits).max() > 1e-4, 'every row drew alike'
    assert abs(plain.logits - features_of(name)[0]['logits']).max() > 1e-4


@pytest.mark.parametrize('name', deep_ones_heavy(TINY, DEAR))
def test_bfloat16_is_close_to_float32(name):
    model, variables = start(name)
    half = Classifier(model.backbone.clone(dtype=jnp.bfloat16), model.head)
    features = jax.device_get(jit(half.apply)(variables, image()))
    assert {key for key, value in features.items() if value.dtype == jnp.float32} == features.keys() & VECTORS
    assert_close(features, features_of(name)[0], 0.03)


@pytest.mark.parametrize('name', [name for name in TINY if name not in FIXED])
def test_other_image_sizes_with_the_same_parameters(name):
    model, variables = start(name)
    features = jax.eval_shape(model.apply, variables, image(1, (20, 12, 3)))
    # The last is ODE-Net's, whose first convolution pads nothing.
    assert features[ft.STEM].shape[1:3] in ((5, 3), (10, 6), (20, 12), (4, 2))
    assert features['logits'].shape == (1, CLASSES)


@pytest.mark.parametrize('patch, size', [(2, (8, 8, 1)), (4, (28, 28, 1))])
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


TOKENS = [name for name in TINY if isinstance(modelzoo.find(name)[1], ft.TokenBackbone)]


@pytest.mark.parametrize('name, run', [*((name, jit) for name in TOKENS), ('vit_test', lambda function: function)])
def test_a_token_backbone_is_the_sum_of_its_parts_also_without_jit(name, run):
    model, variables = start(name)

    def in_parts(backbone, x):
        grid = backbone.grid(*x.shape[1:3])
        return backbone.encode(backbone.embed(x) + backbone.positions(grid), grid)

    apply = functools.partial(model.backbone.apply, method=in_parts)
    features = jax.device_get(run(apply)({'params': variables['params']['backbone']}, jnp.asarray(image())))
    assert_close(features, {key: features_of(name)[0][key] for key in features}, ROUNDING)
