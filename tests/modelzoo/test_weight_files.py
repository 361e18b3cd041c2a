"""Files of weights: every type and format, parts, folders, the hub, and what is said where one of them fails.

torch_files/ has files that torch 2.13.0 wrote; `TORCH` says what is in them.
"""

import collections
import json
import os
import pathlib
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weight_files, weight_torch

TYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.uint8, np.bool_)
FILES = pathlib.Path(__file__).parent / 'torch_files'
W = np.arange(24, dtype=np.float32).reshape(6, 4) / 8
# zipped.pth, and without float8 in_a_row.pth: the format of before torch 1.6, with a parameter as of before torch 0.4.
TORCH = {
    **{
        name: np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name, name))
        for name in (
            *('float64', 'float32', 'float16', 'bfloat16', 'float8_e4m3fn'),
            *('int64', 'int32', 'int16', 'int8', 'uint8', 'bool', 'complex64'),
        )
    },
    'transposed': W.T,
    'piece': W[2:, 1:3],
    'scalar': np.float32(3.5),
    'empty': np.zeros((0, 3), np.float32),
    'parameter': W,
}


def test_files_hold_every_type(tmp_path):
    arrays = {np.dtype(kind).name: np.arange(6).reshape(2, 3).astype(kind) for kind in TYPES}
    strided = np.arange(6.0).reshape(2, 3).T
    arrays |= {'scalar': np.asarray(np.float32(3)), 'strided': strided, 'empty': np.zeros((0, 2))}
    weight_files.write(tmp_path / 'a.safetensors', arrays)
    read = weight_files.read(tmp_path / 'a.safetensors')
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    assert weight_files.shapes(tmp_path / 'a.safetensors') == {name: array.shape for name, array in arrays.items()}


def test_files_are_laid_out_as_published(tmp_path):
    header = json.dumps(
        {'__metadata__': {'format': 'pt'}, 'w': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}
    ).encode()
    data = np.array([1.5, -2], '<f4').tobytes()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + data)
    np.testing.assert_array_equal(weight_files.read(tmp_path / 'a')['w'], [1.5, -2])
    weight_files.write(tmp_path / 'b', {'w': np.array([1.5, -2], np.float32)})
    written = (tmp_path / 'b').read_bytes()
    assert json.loads(written[8 : 8 + int.from_bytes(written[:8], 'little')]) == json.loads(header)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'PK\x03\x04' * 100])
def test_other_files_are_refused(tmp_path, content):
    for name, said in (
        ('a.h5', 'a.h5 is not a safetensors file'),
        ('a.pth', "a.pth is damaged, or not one of torch's files"),
        ('a.npz', 'a.npz is not an .npz of plain arrays'),
        ('a.index.json', 'a.index.json is no index of files'),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (weight_files.read, weight_files.shapes):
            with pytest.raises(ValueError, match=said):
                read(tmp_path / name)


@pytest.mark.parametrize(
    'code, kind', [('F8_E4M3', 'float8_e4m3fn'), ('F8_E5M2', 'float8_e5m2'), ('BF16', 'bfloat16'), ('C64', 'complex64')]
)
def test_types_that_numpy_has_not_by_itself_are_read(tmp_path, code, kind):
    wanted = np.asarray([0.5, -2]).astype(getattr(ml_dtypes, kind, kind))
    entry = {'dtype': code, 'shape': [2], 'data_offsets': [0, wanted.nbytes]}
    header = json.dumps({'w': entry}).encode()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + wanted.tobytes())
    found = weight_files.read(tmp_path / 'a')['w']
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_a_type_that_nobody_here_has_is_named(tmp_path):
    header = json.dumps({'w': {'dtype': 'F6_E2M3', 'shape': [4], 'data_offsets': [0, 3]}}).encode()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + b'012')
    with pytest.raises(ValueError, match='holds numbers of the type F6_E2M3, which NumPy has not: convert them'):
        weight_files.read(tmp_path / 'a')


@pytest.mark.parametrize('ending', ['.pth', '.npz'])
def test_a_safetensors_file_is_not_written_under_another_kinds_name(tmp_path, ending):
    with pytest.raises(ValueError, match='use .safetensors'):
        weight_files.write(tmp_path / f'a{ending}', {})


@pytest.mark.parametrize('name, absent', [('zipped.pth', ()), ('in_a_row.pth', ('float8_e4m3fn',))])
def test_torch_s_files_are_read_without_torch(name, absent):
    wanted = {key: array for key, array in TORCH.items() if key not in absent}
    read = weight_files.read(FILES / name)
    assert list(read) == list(wanted)
    for key, array in wanted.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)
    assert weight_files.shapes(FILES / name) == {key: array.shape for key, array in wanted.items()}


def test_of_a_checkpoint_the_averages_are_taken_and_said_and_nothing_else_is_read(capsys):
    read = weight_files.read(FILES / 'checkpoint.pth.tar')
    assert list(read) == ['module.w']
    np.testing.assert_array_equal(read['module.w'], W + 1)
    assert "checkpoint.pth.tar the weights under 'state_dict_ema' are taken" in capsys.readouterr().out
    assert weight_files.shapes(FILES / 'checkpoint.pth.tar') == {'module.w': (6, 4)}


def pickled(path: pathlib.Path, saved) -> pathlib.Path:
    """Writes an object as torch does."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps(saved, 2))
    return path


class Command:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('ran',)


@pytest.mark.parametrize(
    'saved, message',
    [
        ({'state_dict': {}, 'hook': Command()}, f'a.ckpt names {os.name}.mkdir, .* may run code: load it where you'),
        (collections.deque([1]), 'a.ckpt names collections.deque, which is neither a tensor nor a plain container'),
        ({'optimizer': {}, 'epoch': 3}, 'a.ckpt has no state dict; it holds optimizer, epoch: save'),
        ({'model': {'lr': 0.1}}, 'a.ckpt has no state dict; it holds lr: save'),
        ([1], 'a.ckpt has no state dict; it holds list: save'),
    ],
)
def test_code_and_what_is_no_state_dict_are_refused(tmp_path, monkeypatch, saved, message):
    monkeypatch.chdir(tmp_path)
    path = pickled(tmp_path / 'a.ckpt', saved)
    for read in (weight_files.read, weight_files.shapes):
        with pytest.raises(ValueError, match=message):
            read(path)
    assert not (tmp_path / 'ran').exists()


def test_a_pickled_module_is_refused():
    with pytest.raises(ValueError, match=r'names torch\.nn\.modules\.linear\.Linear, which is neither'):
        weight_files.read(FILES / 'module.pt')


@pytest.mark.parametrize('offset, shape, strides', [(20, (2, 3), (3, 1)), (0, (2, 3), (30, 1)), (4, (2,), (-1,))])
def test_a_tensor_does_not_reach_outside_of_its_storage(offset, shape, strides):
    kind = np.dtype('float32')
    tensor = weight_torch._Tensor(weight_torch._Storage('0', kind), kind, offset, shape, strides)
    with pytest.raises(ValueError, match='outside of its storage'):
        weight_torch._array(tensor, W.tobytes())


@pytest.mark.parametrize('cut', [10, 500, 2000])
def test_a_file_that_is_cut_short_is_said_to_be_damaged(tmp_path, cut):
    for name in ('zipped.pth', 'in_a_row.pth'):
        (tmp_path / name).write_bytes((FILES / name).read_bytes()[:-cut])
        with pytest.raises(ValueError, match='is damaged'):
            weight_files.read(tmp_path / name)


def test_of_an_npz_the_parameters_are_read(tmp_path):
    bytes_ = np.asarray([0.5, -2]).astype(ml_dtypes.bfloat16).view('V2')  # as NumPy saves bfloat16
    np.savez(tmp_path / 'a.npz', **{'params/head/bias': bytes_, 'params/cls': W, 'opt/0/mu/cls': W, 'chrono': W})
    read = weight_files.read(tmp_path / 'a.npz')
    assert list(read) == ['head/bias', 'cls'] and read['head/bias'].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read['head/bias'].astype(np.float32), [0.5, -2])
    assert weight_files.shapes(tmp_path / 'a.npz') == {'head/bias': (2,), 'cls': (6, 4)}
    np.savez(tmp_path / 'b.npz', w=W)
    assert list(weight_files.read(tmp_path / 'b.npz')) == ['w']


def in_parts(folder: pathlib.Path, ending: str = 'safetensors') -> pathlib.Path:
    """Writes an array into each of two files and their index, as `save_pretrained` does."""
    stem = 'model' if ending == 'safetensors' else 'pytorch_model'
    index = {}
    for n, name in enumerate('ab', 1):
        index[name] = f'{stem}-{n:05d}-of-00002.{ending}'
        if ending == 'safetensors':
            weight_files.write(folder / index[name], {name: n * W})
    path = folder / f'{stem}.{ending}.index.json'
    path.write_text(json.dumps({'metadata': {'total_size': 0}, 'weight_map': index}))
    return path


def test_all_parts_are_read(tmp_path):
    index = in_parts(tmp_path)
    for source in (tmp_path, index):
        read = weight_files.read(source)
        np.testing.assert_array_equal(read['b'], 2 * read['a'])
        assert weight_files.shapes(source) == {'a': (6, 4), 'b': (6, 4)}
    (tmp_path / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(
        FileNotFoundError, match='index.json names model-00002-of-00002.safetensors, not in that folder'
    ):
        weight_files.read(tmp_path)
    index.write_text(json.dumps({'weight_map': {'a': '../a.safetensors'}}))
    with pytest.raises(ValueError, match='is no index of files of weights'):
        weight_files.read(tmp_path)


def test_a_folder_has_its_one_file_or_the_one_that_is_named_as_usual(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'has 0 files of weights \(none\) and no model.safetensors'):
        weight_files.locate(tmp_path)
    for name in ('x.pth', 'config.json'):
        (tmp_path / name).write_bytes(b'')
    assert weight_files.locate(tmp_path) == tmp_path / 'x.pth'
    (tmp_path / 'y.npz').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match=r'has 2 files of weights \(x.pth, y.npz\) and no .*: name one file'):
        weight_files.locate(tmp_path)
    (tmp_path / 'pytorch_model.bin').write_bytes(b'')
    assert weight_files.locate(tmp_path).name == 'pytorch_model.bin'
    (tmp_path / 'model.safetensors').write_bytes(b'')
    assert weight_files.locate(tmp_path).name == 'model.safetensors'


def test_what_is_here_comes_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / 'owner').mkdir()
    (tmp_path / 'owner' / 'name').write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    assert str(weight_files.locate('owner/name')) == 'owner/name'


@pytest.mark.parametrize('weights', ['a.safetensors', 'weights/a.safetensors', '/no/such/folder/a.pth', 'a'])
def test_a_file_that_is_not_there_is_not_asked_of_the_hub(weights):
    for read in (weight_files.locate, weight_files.read):
        with pytest.raises(FileNotFoundError, match=f"weights '{weights}' are neither a file nor owner/name"):
            read(weights)


def hub(monkeypatch, answer):
    """Puts a stand-in in the place of huggingface_hub."""
    monkeypatch.setitem(sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=answer))


def hub_of(monkeypatch, folder: pathlib.Path) -> list:
    """A hub whose repositories are all `folder`; returns what is asked of it."""
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(folder)

    hub(monkeypatch, download)
    return asked


@pytest.mark.parametrize(
    'weights, revision',
    [
        ('timm/vit_tiny.augreg', None),
        ('hf-hub:timm/vit_tiny.augreg', None),
        ('timm/vit_tiny.augreg@refs/pr/1', 'refs/pr/1'),
    ],
)
def test_a_hub_id_is_downloaded(monkeypatch, tmp_path, weights, revision):
    asked = hub_of(monkeypatch, tmp_path)
    (tmp_path / 'model.safetensors').write_bytes(b'')
    assert weight_files.locate(weights) == tmp_path / 'model.safetensors'
    patterns = ['model.safetensors', 'model.safetensors.index.json', 'model-*-of-*.safetensors']
    assert asked == [('timm/vit_tiny.augreg', revision, patterns)]


def test_of_a_hub_id_parts_are_read_and_torch_s_files_where_there_are_no_others(monkeypatch, tmp_path):
    asked = hub_of(monkeypatch, tmp_path)
    with pytest.raises(
        FileNotFoundError, match="'owner/name' on the hub has neither model.safetensors nor pytorch_mod"
    ):
        weight_files.read('owner/name')
    assert [patterns[0] for *_, patterns in asked] == ['model.safetensors', 'pytorch_model.bin']
    in_parts(tmp_path, 'bin')
    assert weight_files.locate('owner/name').name == 'pytorch_model.bin.index.json'
    in_parts(tmp_path)
    assert list(weight_files.read('owner/name')) == ['a', 'b']


def test_without_the_package_or_a_network_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match="'timm/x' is no file here, and fetching .* huggingface_hub"):
        modelzoo.create_model('vit_test', weights='timm/x')

    def fail(*arguments, **options):
        raise ConnectionError('Name or service not known\nRetrying in 1s')

    hub(monkeypatch, fail)
    message = r"cannot get model.safetensors of 'timm/x' .*, or give a file. \(ConnectionError: Name or .* not known\)"
    with pytest.raises(FileNotFoundError, match=message):
        modelzoo.create_model('vit_test', weights='timm/x')


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    weight_files.write(tmp_path / 'w.safetensors', {'a': np.zeros(2, np.float32)})
    (tmp_path / 'other').touch()
    assert (tmp_path / 'w.safetensors').stat().st_mode == (tmp_path / 'other').stat().st_mode
