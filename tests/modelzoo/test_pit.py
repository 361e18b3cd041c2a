"""PiT: sizes without padding, tables of another size, two tokens, maxima in the place of attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo import weights
from longview.modelzoo.heads import Classifier, TwoHeads
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.vision import pit
from tests.modelzoo.tiny import filled, jit

TINY = pit.VARIANTS['pit_test']


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_sizes_are_those_of_patches_that_overlap():
    assert pit.VARIANTS['pit_s_224'].grid(224, 256) == (27, 31) and pit.VARIANTS['pit_b_224'].grid(224, 224) == (31, 31)
    assert pit.VARIANTS['pit_b_224'].channels == (256, 512, 1024)
    features = jax.eval_shape(TINY.init_with_output, jax.random.key(0), jnp.ones((1, 22, 12, 3)))[0]
    assert features['stage0'].shape == (1, 5, 3, 8) and features['map'].shape == (1, 3, 2, 16)
    with pytest.raises(ValueError, match='image 3x16 is smaller than a patch of 4x4: take larger images, or change'):
        TINY.grid(3, 16)


def test_published_names_and_tables_of_another_size_both_ways():
    model = Classifier(pit.DistilledPiT(**pit._TINY, tokens=2), TwoHeads(3))
    x = noise(2, 24, 16, 3)
    variables = jax.device_get(filled(model, x))
    published = weights.to_published(pit.NAMES['DistilledPiT'], weights.merge(variables))
    assert published['cls_token'].shape == (1, 2, 8) and published['pos_embed'].shape == (1, 8, 4, 4)
    authors = {name.replace('transformers.1.pool', 'pools.0'): array for name, array in published.items()}
    jax.tree.map(np.testing.assert_array_equal, weights.load(model, variables, authors), variables)
    larger = Classifier(model.backbone.clone(image_size=(24, 16)), model.head)
    loaded = weights.load(larger, jax.eval_shape(larger.init, jax.random.key(0), x), published)
    run = lambda network, variables: jit(network.apply)(variables, x)
    ours, theirs = run(larger, loaded), run(model, variables)
    np.testing.assert_allclose(ours['logits'], theirs['logits'], atol=1e-5)
    # Each head reads its own token, and the answer is the mean of both.
    heads = variables['params']['head']
    answer = lambda key, name: theirs[key] @ heads[name]['kernel'] + heads[name]['bias'][None]
    np.testing.assert_allclose(theirs['label_logits'], answer('pooled', 'labels'), atol=1e-5)
    np.testing.assert_allclose(theirs['teacher_logits'], answer('distilled', 'teacher'), atol=1e-5)
    np.testing.assert_allclose(2 * theirs['logits'], theirs['label_logits'] + theirs['teacher_logits'], atol=1e-5)


def test_maxima_of_squares_of_tokens_without_parameters():
    mixer, x = pit.MaxMixer((4, 3)), noise(1, 12, 2)
    variables = jax.device_get(filled(mixer, x))
    up, out = variables['params']['qkv'], variables['params']['out']
    y = np.pad(
        gelu(jnp.asarray(x @ up['kernel'] + up['bias'][None, None])).reshape(4, 3, 6),
        ((1, 1), (1, 1), (0, 0)),
        constant_values=-9,
    )
    found = np.stack([y[i : i + 3, j : j + 3].max((0, 1)) for i in range(4) for j in range(3)])
    wanted = gelu(jnp.asarray(found)) @ out['kernel'] + out['bias'][None]
    np.testing.assert_allclose(jit(mixer.apply)(variables, x)[0], wanted, atol=1e-5)
    with pytest.raises(ValueError, match='MaxMixer gets 13 tokens for a map of 4x3: leave out the learned tokens'):
        mixer.apply(variables, jnp.ones((1, 13, 2)))


def test_every_second_block_of_a_stage_takes_maxima():
    backbone = TINY.clone(tokens=0, depths=(3, 1), mixers=(pit.attention, pit.maxima))
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))['params']
    widths = [shapes['stage0'][name]['mixer']['out']['kernel'].shape[0] for name in sorted(shapes['stage0'])]
    assert widths == [8, 24, 8] and 'cls_token' not in shapes and 'token_pool' not in shapes['stage1']
