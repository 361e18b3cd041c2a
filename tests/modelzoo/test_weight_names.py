"""Names and layouts of published files: what the libraries that write them have, and what their networks answer.

names/ has one small network of each kind of file: the library that made it, the network of ours, its logits for the
input of the goldens, and names and shapes as they stand in the file, filled by the goldens' rule.
"""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weight_names, weights
from longview.modelzoo.features import SequenceBackbone
from longview.modelzoo.heads import Classifier
from tests.goldens import fill
from tests.goldens.filling import fill_words
from tests.modelzoo.tiny import jit

FOLDER = pathlib.Path(__file__).parent / 'names'
NAMES = sorted(path.stem for path in FOLDER.glob('*.txt'))
# Those whose layout is not the authors': queries, keys and values apart, matrices as convolutions, arrays of JAX.
CONVERTED = ('transformers_vit', 'transformers_swinv2', 'timm_convnextv2', 'big_vision_vit')


class Record(NamedTuple):
    """A file of names/."""

    model: Classifier
    x: np.ndarray
    logits: np.ndarray
    shapes: dict[str, tuple[int, ...]]


def record(name: str) -> Record:
    head, _, rest = (FOLDER / f'{name}.txt').read_text().partition('\n\n')
    told = dict(line.split(': ', 1) for line in head.splitlines())
    shapes = {name: tuple(map(int, sides)) for name, *sides in map(str.split, rest.splitlines())}
    model = modelzoo.create_model(told['variant'], json.loads(told['classes']), **json.loads(told['fields']))
    shape = json.loads(told['input'])
    if isinstance(model.backbone, SequenceBackbone):
        x = fill_words(shape, model.backbone.vocabulary)
    else:
        x = np.moveaxis(fill('input', shape), 1, -1)
    return Record(model, x, np.asarray(json.loads(told['logits']), np.float32), shapes)


def variables(found: Record) -> dict:
    return jax.eval_shape(found.model.init, jax.random.key(0), found.x)


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize('name', NAMES)
def test_every_array_of_a_published_file_has_its_place(name):
    found = record(name)
    wanted = variables(found)
    loaded = weights.load(found.model, wanted, zeros(found.shapes))
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, wanted)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in CONVERTED else pytest.mark.heavy) for name in NAMES]
)
def test_a_published_network_answers_as_in_its_library(name):
    found = record(name)
    arrays = {published: fill(published, shape) if shape else np.zeros(()) for published, shape in found.shapes.items()}
    loaded = weights.load(found.model, variables(found), arrays)
    logits = np.asarray(jit(found.model.apply)(loaded, found.x)['logits']).ravel()[: found.logits.size]
    # Measured: 1e-5; 7e-5 for ViT of transformers, whose norms add 1e-12 to the variance where ours add 1e-6.
    bar = 7e-4 if 'transformers_vit' in name else 1e-4
    np.testing.assert_allclose(logits, found.logits, atol=bar * found.logits.std())


@pytest.mark.parametrize(
    'family, name, path',
    [
        ('vit_test', 'module.head.weight', 'head/kernel'),
        ('vit_test', '_orig_mod.module.blocks.3.norm1.bias', 'backbone/block03/mixer_norm/bias'),
        ('vit_test', 'model.backbone.cls_token', 'backbone/cls_token'),
        ('vit_test', 'encoder.layer.1.output.dense.bias', 'backbone/block01/mlp/down/bias'),  # the map has it whole
        ('vit_test', 'vit.pooler.dense.bias', ''),
        ('vit_test', 'n_averaged', ''),
        ('vit_test', 'decoder.head.weight', None),
        ('vit_test', 'model', None),
        ('mamba_test', 'backbone.norm_f.weight', 'backbone/norm/scale'),
        ('mamba_test', 'model.backbone.norm_f.weight', 'backbone/norm/scale'),
        ('resnet_test', 'module.bn1.num_batches_tracked', ''),
        ('resnet_test', 'module.num_batches_tracked', None),
    ],
)
def test_what_is_put_before_names_is_taken_off_where_the_map_knows_the_rest(family, name, path):
    module, backbone = modelzoo.find(family)
    assert weight_names.our_path(module.NAMES[type(backbone).__name__], name) == path


def test_parts_are_joined_in_the_map_s_order_and_one_that_is_missing_is_named():
    names = [(f'{part}.weight', f'qkv/kernel:{n}') for n, part in enumerate('qkv')]
    arrays = {f'{part}.weight': np.full((2, 4), n, np.float32) for n, part in enumerate('qkv')}
    wanted = {'qkv': {'kernel': jax.ShapeDtypeStruct((4, 6), jnp.float32)}}
    shuffled = {name: arrays[name] for name in ('k.weight', 'v.weight', 'q.weight')}
    loaded = weights.load_published(names, wanted, shuffled)
    np.testing.assert_array_equal(loaded['qkv']['kernel'], np.tile([0, 0, 1, 1, 2, 2], (4, 1)))
    with pytest.raises(ValueError, match=r'network; 1 missing: k\.weight\. Check'):
        weights.load_published(names, wanted, {name: arrays[name] for name in ('q.weight', 'v.weight')})
    wider = {name: np.zeros((2, 5)) for name in arrays}
    with pytest.raises(
        ValueError, match=r'1 misshapen: q\.weight \+ k\.weight \+ v\.weight \(\(5, 6\), not \(4, 6\)\)'
    ):
        weights.load_published(names, wanted, wider)


def test_one_weight_under_two_names_has_to_be_one():
    names = [('w', 'scale'), ('v', 'bias')]
    wanted = {ours: jax.ShapeDtypeStruct((2,), jnp.float32) for _, ours in names}
    one = np.ones(2, np.float32)
    known = {'w': one, 'v': 2 * one}
    assert weights.load_published(names, wanted, known | {'module.w': one})['scale'].shape == (2,)
    with pytest.raises(ValueError, match=r'network; 1 extra: module\.w\. Check'):
        weights.load_published(names, wanted, known | {'module.w': 2 * one})
