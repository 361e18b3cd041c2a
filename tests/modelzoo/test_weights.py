"""Published weights: both ways without loss or left-overs, and errors that list what is wrong."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

import modelzoo
from modelzoo import weights
from tests.modelzoo.tiny import shapes


def names_of(name: str) -> weights.Names:
    family, backbone = modelzoo.find(name)
    return family.NAMES[type(backbone).__name__]


def random_like(like: dict) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)


@pytest.mark.parametrize('name', modelzoo.list_models())
def test_every_parameter_has_a_published_name_and_returns_from_it(name):
    flat = traverse_util.flatten_dict(shapes(name)[1], sep='/')
    published = {weights._translate(names_of(name), path, 1): path for path in flat}
    assert len(published) == len(flat) and None not in published
    assert all(weights._translate(names_of(name), there, 0) == path for there, path in published.items())


@pytest.mark.parametrize('name', modelzoo.list_models('*_test'))
def test_round_trip_through_a_file_keeps_every_bit(name, tmp_path):
    params = random_like(shapes(name)[1])
    weights.save_published(names_of(name), params, tmp_path / 'w.safetensors')
    loaded = weights.load_published(names_of(name), shapes(name)[1], tmp_path / 'w.safetensors')
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_layouts_are_torch_s():
    params = random_like(shapes('vig_test')[1])
    published = weights.to_published(names_of('vig_test'), params)
    stem, head = params['backbone']['stem']['conv0']['kernel'], params['head']['kernel']
    np.testing.assert_array_equal(published['patch_embed.proj.0.weight'], np.transpose(stem, (3, 2, 0, 1)))
    np.testing.assert_array_equal(published['head.weight'], head.T)
    assert published['blocks.1.attn.in_proj.0.weight'].shape == (32, 1, 3, 3)
    assert published['pos_embed'].shape == (1, 16, 32)


def test_half_precision_weights_become_the_parameters_type():
    names = [('w', 'kernel')]
    loaded = weights.load_published(names, {'kernel': jax.ShapeDtypeStruct((2, 3), jnp.float32)},
                                    {'w': np.ones((3, 2), np.float16)})
    assert loaded['kernel'].dtype == np.float32 and loaded['kernel'].shape == (2, 3)


def test_what_does_not_fit_is_listed():
    names, wanted = names_of('vig_test'), shapes('vig_test')[1]
    published = weights.to_published(names, random_like(wanted))
    missing = {name: array for name, array in published.items() if name != 'norm.weight'}
    with pytest.raises(ValueError, match=r'1 missing: norm\.weight\. Check the variant and num_classes'):
        weights.load_published(names, wanted, missing)
    with pytest.raises(ValueError, match=r'2 extra: blocks\.7\.mlp_norm\.weight, fc\.weight'):
        weights.load_published(names, wanted, published | {
            'blocks.7.mlp_norm.weight': published['norm.weight'], 'fc.weight': published['norm.weight']})
    with pytest.raises(ValueError, match=r'1 misshapen: head\.bias \(\(9,\), not \(1000,\)\)'):
        weights.load_published(names, wanted, published | {'head.bias': np.zeros(9, np.float32)})
    with pytest.raises(ValueError, match='1 extra: backbone/adapter/kernel'):
        weights.to_published(names, {'backbone': {'adapter': {'kernel': np.zeros((1, 1))}}})


def test_safetensors_files_hold_every_type(tmp_path):
    arrays = {str(np.dtype(kind)): np.arange(6).reshape(2, 3).astype(kind)
              for kind in [*weights._DTYPES.values(), ml_dtypes.bfloat16]} | {'scalar': np.float32(3)}
    arrays['scalar'] = np.asarray(arrays['scalar'])
    weights.write_safetensors(tmp_path / 'a', arrays)
    read = weights.read_safetensors(tmp_path / 'a')
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_safetensors_files_are_laid_out_as_published(tmp_path):
    header = json.dumps({'__metadata__': {'format': 'pt'},
                         'w': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}).encode()
    data = np.array([1.5, -2], '<f4').tobytes()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + data)
    np.testing.assert_array_equal(weights.read_safetensors(tmp_path / 'a')['w'], [1.5, -2])


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'PK\x03\x04' * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / 'model.bin').write_bytes(content)
    with pytest.raises(ValueError, match='model.bin is not a safetensors file'):
        weights.read_safetensors(tmp_path / 'model.bin')


def test_an_unknown_type_is_named(tmp_path):
    header = json.dumps({'w': {'dtype': 'F8_E4M3', 'shape': [1], 'data_offsets': [0, 1]}}).encode()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + b'0')
    with pytest.raises(ValueError, match='w has type F8_E4M3, known are F64'):
        weights.read_safetensors(tmp_path / 'a')
