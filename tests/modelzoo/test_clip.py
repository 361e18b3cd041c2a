"""CLIP: towers that answer as written out, and published weights of the whole both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import clip, weight_files, weights
from longview.modelzoo.heads.towers import EMBEDDING
from longview.modelzoo.vision import vit
from tests.modelzoo.tiny import filled, jit

MODEL = clip.clip('clip_test')
PIXELS = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
WORDS = np.array([[3, 5, 11, 0, 0], [3, 4, 6, 7, 11], [3, 11, 0, 0, 0]], np.int32)
TEXT = (WORDS, np.arange(5)[None] <= WORDS.argmax(axis=1)[:, None])  # the end is the largest number


@pytest.fixture(scope='module')
def variables():
    return jax.device_get(filled(MODEL, (PIXELS,), TEXT))


def same_bits(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_logits_are_scaled_cosines_and_padding_says_nothing(variables):
    run = jit(lambda v, x, text: (*MODEL.apply(v, (x,), text), MODEL.apply(v, (x,), text, method='logits')))
    image, text, scale, logits = jax.device_get(run(variables, PIXELS, TEXT))
    project = lambda tower, features: features['pooled'] @ variables['params'][tower]['projection']['kernel']
    seen, read = project('image', image), project('text', text)
    cosines = seen @ read.T / np.linalg.norm(seen, axis=1)[:, None] / np.linalg.norm(read, axis=1)[None]
    np.testing.assert_allclose(logits, np.exp(variables['params']['log_scale']) * cosines, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scale, np.exp(variables['params']['log_scale']), rtol=1e-6)
    # The published code knows no mask: what stands behind the end is not seen by it.
    anything = jax.device_get(run(variables, PIXELS, (np.where(TEXT[1], WORDS, 9), TEXT[1])))
    np.testing.assert_array_equal(anything[1][EMBEDDING], text[EMBEDDING])
    pooled = text['tokens'][np.arange(3), WORDS.argmax(axis=1)]
    np.testing.assert_array_equal(text['pooled'], pooled)


@pytest.mark.parametrize('names', [clip.OPENAI_NAMES, clip.TRANSFORMERS_NAMES], ids=['openai', 'transformers'])
def test_published_weights_both_ways(names, variables, tmp_path):
    clip.save(variables, tmp_path / 'w.safetensors', names)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), (PIXELS,), TEXT)
    same_bits(clip.load(MODEL, shapes, tmp_path / 'w.safetensors'), variables)
    arrays = weight_files.read(tmp_path / 'w.safetensors')
    assert len(arrays) == (38 if names is clip.OPENAI_NAMES else 46)


def test_the_files_of_openai_and_transformers_have_these_arrays(variables):
    arrays = clip.published(variables, clip.OPENAI_NAMES)
    assert arrays['visual.transformer.resblocks.0.attn.in_proj_weight'].shape == (48, 16)
    assert arrays['transformer.resblocks.0.mlp.c_fc.weight'].shape == (64, 16)
    assert arrays['visual.conv1.weight'].shape == (16, 3, 4, 4) and arrays['logit_scale'].shape == ()
    theirs = clip.published(variables)
    parts = [theirs[f'text_model.encoder.layers.0.self_attn.{name}_proj.weight'] for name in 'qkv']
    np.testing.assert_array_equal(np.concatenate(parts), arrays['transformer.resblocks.0.attn.in_proj_weight'])
    np.testing.assert_array_equal(theirs['text_projection.weight'], arrays['text_projection'].T)


@pytest.mark.parametrize('names', [clip.OPENAI_NAMES, clip.TRANSFORMERS_NAMES], ids=['openai', 'transformers'])
def test_an_image_tower_alone_is_read_from_a_file_of_the_whole(names, variables):
    model = modelzoo.create_model(
        'vit_base_patch32_clip_quickgelu_224', 3, width=16, depth=1, heads=2, patch=4, image_size=8
    )
    like = jax.eval_shape(model.init, jax.random.key(0), PIXELS)
    extra = {} if names is clip.TRANSFORMERS_NAMES else {'context_length': np.int64(77)}
    read = weights.read(model, like, clip.published(variables, names) | extra, new_head=True)
    same_bits(read['params']['backbone'], variables['params']['image']['backbone'])


def test_a_table_of_another_image_size_is_resized_as_in_the_network(variables):
    larger = clip.clip('clip_test', image=MODEL.image.clone(backbone=MODEL.image.backbone.clone(image_size=(12, 8))))
    x = np.random.default_rng(1).normal(size=(1, 12, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(larger.init, jax.random.key(0), (x,), TEXT)
    loaded = clip.load(larger, shapes, clip.published(variables))
    run = lambda model, v: jit(lambda v, x: model.apply(v, (x,), None)[0][EMBEDDING])(v, x)
    np.testing.assert_allclose(run(larger, loaded), run(MODEL, variables), atol=1e-5)


def test_what_there_is_of_the_published_sizes():
    model = clip.clip('clip_vit_base_patch32')
    columns = (
        (jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),),
        tuple(jax.ShapeDtypeStruct((1, 77), kind) for kind in ('int32', 'bool')),
    )
    found = jax.eval_shape(model.init, jax.random.key(0), *columns)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == 151_277_313  # that of transformers' CLIPModel
    with pytest.raises(ValueError, match="there is no variant 'clip_vit_b'"):
        clip.clip('clip_vit_b')


def test_the_norm_before_the_blocks_and_the_stem_without_bias():
    backbone = vit.VARIANTS['vit_base_patch32_clip_quickgelu_224'].clone(width=16, depth=0, heads=2, patch=4)
    variables = jax.device_get(filled(backbone, PIXELS))
    assert sorted(variables['params']) == ['cls_token', 'first_norm', 'norm', 'pos_embed', 'stem']
    assert sorted(variables['params']['stem']) == ['kernel'] and backbone.layers[0][-1] == 'first_norm'
