"""Mamba's mixer against what the published one answers; sequences in parts; its initial values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from longview.modelzoo import weights
from longview.modelzoo.layers.mixers import mamba
from longview.modelzoo.layers.norms.norm import LayerNorm, RMSNorm
from tests import goldens
from tests.modelzoo.tiny import filled, jit


def _parameters(golden: dict, module: nn.Module, names: tuple, *inputs: jax.Array) -> dict:
    wanted = jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(wanted)) == golden['parameters']
    published = {name: goldens.fill(name, shape) for name, shape, _ in golden['state']}
    return {'params': weights.load_published(names, wanted, published)}


def test_the_mixer_agrees_with_the_golden():
    golden = goldens.read(goldens.FOLDER / 'mamba1_layer.json.gz')
    x, cotangent = (jnp.asarray(goldens.fill(name, golden['input_shape'])) for name in ('input', 'cotangent'))
    module = mamba.Mamba()
    variables = _parameters(golden, module, mamba.NAMES, x)

    @jit
    def run(variables, x):
        y, pull = jax.vjp(lambda x: module.apply(variables, x), x)
        return y, pull(cotangent)[0]

    output, gradient = map(np.asarray, run(variables, x))
    assert goldens._output_error(golden['output'], output) < 1e-5
    assert goldens._gradient_error(golden['input_gradient'], gradient) < 1e-5


class Language(nn.Module):
    """The network of the golden: embedding, two blocks, a norm, and the embedding again."""

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(128, 32, name='embed')
        x = table(tokens)
        for index in range(2):
            x = x + mamba.Mamba(name=f'mixer{index}')(RMSNorm(epsilon=1e-5, name=f'norm{index}')(x))
        return LayerNorm(name='norm')(x) @ table.embedding.T


def test_a_language_model_of_it_agrees_with_the_golden():
    golden = goldens.read(goldens.FOLDER / 'zoology_mamba.json.gz')
    tokens = np.random.default_rng(0).integers(0, golden['vocabulary'], golden['input_shape'], dtype=np.int64)
    names = (
        ('backbone.embeddings.word_embeddings.weight', 'embed/embedding'),
        ('backbone.layers.{i}.norm.weight', 'norm{i}/scale'),
        *((f'backbone.layers.{{i}}.mixer.{there}', f'mixer{{i}}/{here}') for there, here in mamba.NAMES),
        ('backbone.ln_f.weight', 'norm/scale'),
        ('backbone.ln_f.bias', 'norm/bias'),
    )
    tokens = jnp.asarray(tokens, jnp.int32)
    variables = _parameters(golden, Language(), names, tokens)
    output = np.asarray(jit(Language().apply)(variables, tokens))
    assert goldens._output_error(golden['output'], output) < 1e-5


def test_a_sequence_in_parts_is_the_whole_whatever_its_parts():
    module, x = mamba.Mamba(states=4), jax.random.normal(jax.random.key(1), (2, 9, 8))
    variables = filled(module, x)
    whole = jit(module.apply)(variables, x)
    extend = jit(functools.partial(module.apply, method='extend'))
    state, outputs = module.init_state(2, 8), []
    for part in (x[:, :1], x[:, 1:2], x[:, 2:]):
        y, state = extend(variables, part, state)
        outputs.append(y)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), whole, rtol=1e-5, atol=1e-6)


def test_steps_start_between_a_thousandth_and_a_tenth():
    found = jax.nn.softplus(mamba.steps(jax.random.key(0), (4000,)))
    assert 0.99e-3 < found.min() < 1.1e-3 and 0.09 < found.max() < 0.101
    np.testing.assert_allclose(jnp.median(found), 1e-2, rtol=0.1)


def test_bfloat16_keeps_rates_steps_and_states_in_float32():
    module, x = mamba.Mamba(states=4, dtype=jnp.bfloat16), jnp.ones((1, 3, 8), jnp.bfloat16)
    variables = filled(module, x)
    y, state = jit(functools.partial(module.apply, method='extend'))(variables, x, module.init_state(1, 8))
    assert (y.dtype, state.inputs.dtype, state.states.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    wide = jit(mamba.Mamba(states=4).apply)(variables, x.astype(jnp.float32))
    assert np.linalg.norm(y.astype(jnp.float32) - wide) < 0.02 * np.linalg.norm(wide)
