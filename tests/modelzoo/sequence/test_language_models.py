"""Published language models: their sizes and files, and decoding with other options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weight_files, weights
from longview.modelzoo.sequence import gla
from tests.modelzoo.tiny import filled, jit, shapes


def start(name: str, words: jax.Array, **options) -> dict:
    """Returns the initial variables of a model."""
    return jit(modelzoo.create_model(name, **options).init)(jax.random.key(0), words)


@pytest.mark.parametrize(
    'name, millions',
    [
        ('mamba_130m', 129.135),
        ('mamba_370m', 371.516),
        ('mamba_790m', 793.204),
        ('mamba_1_4b', 1372.178),
        ('mamba_2_8b', 2768.346),
        ('gla_340m', 374.476),
        ('gla_1_3b', 1365.514),
    ],
)
def test_sizes_of_the_published_networks(name, millions):
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params)) / 1e6 - millions) < 1e-3


def test_both_ways_of_naming_mamba_s_files_load_and_the_shared_table_may_stand_twice(tmp_path):
    model, words = modelzoo.create_model('mamba_test'), jnp.zeros((1, 4), jnp.int32)
    variables = filled(model, words)
    published = weights.to_published(modelzoo.find('mamba_test')[0].NAMES['Mamba'], variables['params'])
    assert 'backbone.layers.1.mixer.in_proj.weight' in published and 'lm_head.weight' not in published
    table_of_words = published.pop('backbone.embeddings.weight')
    original = published | {'backbone.embedding.weight': table_of_words, 'lm_head.weight': table_of_words}
    weight_files.write(tmp_path / 'w.safetensors', original)
    started = start('mamba_test', words, weights=tmp_path / 'w.safetensors')
    jax.tree.map(np.testing.assert_array_equal, started, variables)
    weight_files.write(tmp_path / 'w.safetensors', original | {'lm_head.weight': table_of_words + 1})
    with pytest.raises(ValueError, match=r'1 extra: lm_head\.weight'):
        start('mamba_test', words, weights=tmp_path / 'w.safetensors')


def test_a_language_model_s_file_starts_a_classifier_with_a_new_head(tmp_path):
    model, words = modelzoo.create_model('gla_test'), jnp.zeros((1, 4), jnp.int32)
    variables = filled(model, words)
    weights.save(model, variables, tmp_path / 'w.safetensors')
    again = weights.load(model, variables, tmp_path / 'w.safetensors')
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    started = start('gla_test', words, num_classes=3, weights=tmp_path / 'w.safetensors')
    assert started['params']['head']['kernel'].shape == (16, 3)
    jax.tree.map(np.testing.assert_array_equal, started['params']['backbone'], variables['params']['backbone'])


def test_gla_with_shared_heads_and_short_convolutions_decodes_as_it_reads():
    mixer = gla.GatedLinearAttention(heads=4, shared_by=2, taps=3, least=-0.1, rank=2, output_gate=False)
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    variables = filled(mixer, x)
    sizes = {name: leaf['kernel'].shape[-1] for name, leaf in variables['params'].items() if 'kernel' in leaf}
    assert (sizes['q'], sizes['k'], sizes['v'], sizes['v_conv'], sizes['decay_up']) == (8, 4, 8, 8, 4)

    def read(variables, x):
        step = lambda state, x: mixer.apply(variables, x[:, None], state, method='extend')[::-1]
        return jax.lax.scan(step, mixer.init_state(2, 16), jnp.swapaxes(x, 0, 1))[1][:, :, 0].swapaxes(0, 1)

    np.testing.assert_allclose(jit(read)(variables, x), jit(mixer.apply)(variables, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='4 heads, shared by 3, do not divide 8 channels of keys and 16 of values'):
        mixer.clone(shared_by=3).init_state(2, 16)
