"""The contract of sequence networks: shapes for all variants, numbers and decoding for the tiny ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo import __main__ as table
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier
from tests.modelzoo.tiny import filled, jit, shapes, sized

NAMES = [name for name in modelzoo.list_models() if isinstance(modelzoo.find(name)[1], ft.SequenceBackbone)]
TINY = [name for name in NAMES if name.endswith('_test')]
LENGTH, CLASSES = 7, 5
# Published as a parameter without a gradient.
FROZEN = 'filter/positions'


@functools.cache
def start(name: str) -> tuple[Classifier, dict, np.ndarray]:
    """Returns a tiny model, a language model if it reads words, with its variables and an input."""
    words = modelzoo.find(name)[1].vocabulary
    model = modelzoo.create_model(name, None if words else CLASSES, drop_path=0.5)
    rng = np.random.default_rng(5)
    if words:
        x = rng.integers(words, size=(4, LENGTH), dtype=np.int32)
    else:
        x = rng.normal(size=(4, LENGTH, 2)).astype(np.float32)
    variables = filled(model, x)
    if 'constants' in variables:
        compute = lambda params, x: model.apply({'params': params}, x, mutable=['constants'])[1]
        variables |= jit(compute)(variables['params'], x)
    return model, variables, x


ROWS = np.arange(4)
# The same rows in another order, each at another place.
TURNED = np.array([2, 0, 3, 1])


def trained_logits(model: Classifier, variables: dict, rows: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the logits in training on sequences that are these rows of the global batch."""
    variables = {**variables, 'example': {'row': rows}}
    return model.apply(variables, x, train=True, rngs={'drop_path': jax.random.key(2)})['logits']


def train_answer(model: Classifier, variables: dict, rows: jax.Array, x: jax.Array) -> tuple:
    """Returns the logits, and the gradients of a weighted sum of them, in training."""

    def loss(params):
        logits = trained_logits(model, {**variables, 'params': params}, rows, x)
        return jnp.sum(logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)), logits

    gradients, logits = jax.grad(loss, has_aux=True)(variables['params'])
    return logits, gradients


@functools.cache
def answers(name: str) -> tuple[tuple, np.ndarray, np.ndarray]:
    """Returns an answer of training, and two more logits: of the rows turned, and of turned rows' old sequences."""
    model, variables, x = start(name)
    run = jit(functools.partial(train_answer, model))
    turned = run(variables, TURNED, x[TURNED])[0]
    return jax.device_get((run(variables, ROWS, x), turned, run(variables, TURNED, x)[0]))


@functools.cache
def features_of(name: str) -> ft.Features:
    model, variables, x = start(name)
    return jax.device_get(jit(model.apply)(variables, x))


def error(ours, wanted) -> float:
    """Returns the root mean square of the difference over that of the wanted values."""
    ours, wanted = (np.asarray(array, np.float64) for array in (ours, wanted))
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize('name', NAMES)
def test_shapes_of_every_variant(name):
    model, x = sized(name)
    backbone, length = model.backbone, x.shape[1]
    sizes = {key: value.shape for key, value in shapes(name).features.items()}
    words = backbone.vocabulary
    assert sizes.pop('logits') == ((2, length, words) if words else (2, model.head.num_classes))
    if backbone.tied:
        assert sizes.pop(ft.TABLE) == (backbone.vocabulary, backbone.width)
    each = (2, length, backbone.width)
    assert sizes == {ft.STEM: each, ft.TOKENS: each, ft.POOLED: (2, backbone.width)}


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_has_one_depth_and_a_telling_name(name):
    backbone, params = modelzoo.find(name)[1], shapes(name).params['backbone']
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items():
        owners = [prefix for group in backbone.layers for prefix in group if f'{path}/'.startswith(f'{prefix}/')]
        assert len(owners) == 1, path
        assert owners[0] in backbone.layers[backbone.layer_of(f'backbone/{path}')]
        assert leaf.dtype == jnp.float32
    assert backbone.layer_of('head/kernel') == backbone.num_layers - 1


@pytest.mark.parametrize('name', TINY)
def test_every_parameter_gets_a_finite_gradient(name):
    (logits, gradients), _, _ = answers(name)
    assert np.isfinite(logits).all()
    for path, gradient in traverse_util.flatten_dict(gradients, sep='/').items():
        frozen = name == 'zoology_baseconv_test' and path.endswith(FROZEN)
        assert np.isfinite(gradient).all() and gradient.any() != frozen, path


@pytest.mark.parametrize('name', ['mamba_test'])
def test_execution_options_change_no_number(name):
    model, variables, x = start(name)
    other = Classifier(model.backbone.clone(remat=True, scan=True), model.head)
    answer = jax.device_get(jit(functools.partial(train_answer, other))(variables, ROWS, x))
    flat = lambda tree: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    assert error(flat(answer), flat(answers(name)[0])) <= 1e-5


@pytest.mark.parametrize('name', TINY)
def test_words_read_one_by_one_after_a_prompt_give_what_the_whole_gives(name):
    model, variables, x = start(name)
    sizes = lambda tree: jax.tree.map(jnp.shape, tree)

    def read(variables, x):
        state = model.apply(variables, len(x), method='init_state')
        state, prompt = model.apply(variables, state, x[:, :3], method='extend')
        step = lambda state, x: model.apply(variables, state, x, method='step')
        after, rest = jax.lax.scan(step, state, jnp.swapaxes(x[:, 3:], 0, 1))
        assert sizes(after) == sizes(state), 'the state grows'
        return prompt, rest

    prompt, rest = jax.device_get(jit(read)(variables, x[1:3]))
    whole = jax.tree.map(lambda value: value[1:3] if value.shape[0] == 4 else value, features_of(name))
    np.testing.assert_allclose(prompt[ft.TOKENS], whole[ft.TOKENS][:, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rest[ft.TOKENS][:, :, 0].swapaxes(0, 1), whole[ft.TOKENS][:, 3:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rest[ft.POOLED][-1], whole[ft.POOLED], rtol=1e-4, atol=1e-5)
    last = whole['logits'][:, -1] if whole['logits'].ndim == 3 else whole['logits']
    np.testing.assert_allclose(rest['logits'][-1].reshape(last.shape), last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_is_close_to_float32(name):
    model, variables, x = start(name)
    half = Classifier(model.backbone.clone(dtype=jnp.bfloat16), model.head)
    features = jax.device_get(jit(half.apply)(variables, x))
    wide = {key for key, value in features.items() if value.dtype == jnp.float32}
    assert wide - {ft.TABLE} == {ft.POOLED, 'logits'}
    for key, value in features.items():
        assert error(value, features_of(name)[key]) <= 0.04, key


# The first block is never skipped.
@pytest.mark.parametrize('name', [name for name in TINY if modelzoo.find(name)[1].depth > 1])
def test_training_draws_for_a_sequence_by_its_row_wherever_it_stands(name):
    (logits, _), turned, redrawn = answers(name)
    assert error(turned, logits[TURNED]) <= 1e-5
    assert error(redrawn, logits) > 1e-3, 'every row drew alike'
    assert error(logits, features_of(name)['logits']) > 1e-3


def test_a_network_that_reads_words_is_a_classifier_with_a_number():
    model, _, words = start('gla_test')
    classifier = modelzoo.create_model('gla_test', 3)
    features = jax.eval_shape(classifier.init_with_output, jax.random.key(0), words)[0]
    assert features['logits'].shape == (4, 3)
    assert type(model.head).__name__ == 'LanguageHead' and table.example(model.backbone, (1, 9)).shape == (1, 9)


def test_mistakes_are_said_in_words():
    words = jnp.zeros((1, 9), jnp.int32)
    for changes, message in (
        ({'pool': 'first'}, "pool is 'first': use one of mean, last"),
        ({'places': 8}, '9 words are more than the 8 places that have a position'),
    ):
        backbone = modelzoo.find('gla_test')[1].clone(**changes)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(backbone.init, jax.random.key(0), words)
