"""The contract of sequence networks: shapes for all variants, numbers and decoding for the tiny ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.flatten_util import ravel_pytree

from longview import modelzoo
from longview.modelzoo import __main__ as table
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier
from tests.modelzoo.tiny import filled, images, jit, shapes

NAMES = [name for name in modelzoo.list_models() if name not in images()]
TINY = [name for name in NAMES if name.endswith('_test')]
LENGTH, CLASSES = 7, 5
# Published as a parameter without a gradient.
FROZEN = 'filter/positions'


@functools.cache
def start(name: str) -> tuple[Classifier, dict, jax.Array]:
    """Returns a tiny model, a language model if it reads words, with its variables and an input."""
    words = modelzoo.find(name)[1].vocabulary
    model = modelzoo.create_model(name, None if words else CLASSES, drop_path=0.5)
    if words:
        x = jax.random.randint(jax.random.key(5), (4, LENGTH), 0, words)
    else:
        x = jax.random.normal(jax.random.key(5), (4, LENGTH, 2))
    variables = filled(model, x)
    if 'constants' in variables:
        compute = lambda params, x: model.apply({'params': params}, x, mutable=['constants'])[1]
        variables |= jit(compute)(variables['params'], x)
    return model, variables, x


def train_answer(model: Classifier, variables: dict, x: jax.Array) -> tuple:
    """Returns the logits, and the gradients of a weighted sum of them, in training."""

    def loss(params):
        logits = model.apply({**variables, 'params': params}, x, train=True, rngs={'drop_path': jax.random.key(2)})[
            'logits'
        ]
        return jnp.sum(logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)), logits

    gradients, logits = jax.grad(loss, has_aux=True)(variables['params'])
    return logits, gradients


@functools.cache
def plain_answer(name: str) -> tuple:
    model, variables, x = start(name)
    return jit(functools.partial(train_answer, model))(variables, x)


@functools.cache
def features_of(name: str) -> ft.Features:
    model, variables, x = start(name)
    return jit(model.apply)(variables, x)


def error(ours, wanted) -> float:
    """Returns the root mean square of the difference over that of the wanted values."""
    ours, wanted = (np.asarray(array, np.float64) for array in (ours, wanted))
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize('name', NAMES)
def test_shapes_of_every_variant(name):
    backbone, sizes = modelzoo.find(name)[1], {key: value.shape for key, value in shapes(name)[0].items()}
    assert sizes.pop('logits') == ((2, 64, backbone.vocabulary) if backbone.vocabulary else (2, 1000))
    if backbone.tied:
        assert sizes.pop(ft.TABLE) == (backbone.vocabulary, backbone.width)
    each = (2, 64, backbone.width)
    assert sizes == {ft.STEM: each, ft.TOKENS: each, ft.POOLED: (2, backbone.width)}


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_has_one_depth_and_a_telling_name(name):
    backbone, params = modelzoo.find(name)[1], shapes(name)[1]['backbone']
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items():
        owners = [prefix for group in backbone.layers for prefix in group if f'{path}/'.startswith(f'{prefix}/')]
        assert len(owners) == 1, path
        assert owners[0] in backbone.layers[backbone.layer_of(f'backbone/{path}')]
        assert leaf.dtype == jnp.float32
    assert backbone.layer_of('head/kernel') == backbone.num_layers - 1


@pytest.mark.parametrize('name', TINY)
def test_every_parameter_gets_a_finite_gradient(name):
    logits, gradients = plain_answer(name)
    assert jnp.all(jnp.isfinite(logits))
    for path, gradient in traverse_util.flatten_dict(gradients, sep='/').items():
        frozen = name == 'zoology_baseconv_test' and path.endswith(FROZEN)
        assert jnp.all(jnp.isfinite(gradient)) and (abs(gradient).max() > 0) != frozen, path


@pytest.mark.parametrize('name', ['mamba_test'])
def test_execution_options_change_no_number(name):
    model, variables, x = start(name)
    other = Classifier(model.backbone.clone(remat=True, scan=True), model.head)
    answer = jit(functools.partial(train_answer, other))(variables, x)
    ours, wanted = (ravel_pytree(tree)[0] for tree in (answer, plain_answer(name)))
    assert error(ours, wanted) <= 1e-5


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

    prompt, rest = jit(read)(variables, x[1:3])
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
    features = jit(half.apply)(variables, x)
    wide = {key for key, value in features.items() if value.dtype == jnp.float32}
    assert wide - {ft.TABLE} == {ft.POOLED, 'logits'}
    for key, value in features.items():
        assert error(value, features_of(name)[key]) <= 0.04, key


@pytest.mark.parametrize('name', ['gla_test'])
def test_training_drops_by_row_however_the_batch_is_split(name):
    model, variables, x = start(name)
    half = jit(
        lambda rows, x: model.apply(
            {**variables, 'example': {'row': rows}}, x, train=True, rngs={'drop_path': jax.random.key(2)}
        )['logits']
    )
    logits = jnp.concatenate([half(jnp.arange(4)[part], x[part]) for part in (slice(0, 2), slice(2, 4))])
    assert error(logits, plain_answer(name)[0]) <= 1e-5
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
