"""Files of weights: every type, torch's own files, the hub, and what is said where one of them fails."""

import json
import pickle
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weight_files

TYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.uint8, np.bool_)


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
    (tmp_path / 'weights.h5').write_bytes(content)
    for read in (weight_files.read, weight_files.shapes):
        with pytest.raises(ValueError, match='weights.h5 is not a safetensors file'):
            read(tmp_path / 'weights.h5')


def test_a_type_without_numpy_is_named(tmp_path):
    header = json.dumps({'w': {'dtype': 'F8_E4M3', 'shape': [1], 'data_offsets': [0, 1]}}).encode()
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + b'0')
    with pytest.raises(ValueError, match='holds numbers of a type that NumPy has not .*float8_e4m3fn'):
        weight_files.read(tmp_path / 'a')


def test_a_safetensors_file_is_not_written_under_torch_s_name(tmp_path):
    with pytest.raises(ValueError, match='end it in .safetensors'):
        weight_files.write(tmp_path / 'a.pth', {})


class Tensor:
    """What is used of torch.Tensor."""

    def __init__(self, array):
        self.array = array
        self.dtype = 'torch.bfloat16' if array.dtype == ml_dtypes.bfloat16 else str(array.dtype)

    def detach(self):
        return self

    def contiguous(self):
        return Tensor(np.ascontiguousarray(self.array))

    def view(self, kind):
        return Tensor(self.array.view(kind))

    def numpy(self):
        assert self.dtype != 'torch.bfloat16', 'torch cannot do this'
        return self.array


def torch_that_loads(saved):
    """Returns a stand-in for torch whose files hold `saved`."""

    def load(path, *, map_location, weights_only):
        assert map_location == 'cpu' and weights_only
        if isinstance(saved, Exception):
            raise saved
        return saved

    return types.SimpleNamespace(load=load, Tensor=Tensor, bfloat16='torch.bfloat16', int16=np.int16)


@pytest.fixture
def pth(tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'')
    return tmp_path / 'a.pth'


@pytest.mark.parametrize(
    'wrap', [lambda saved: saved, lambda saved: {'model': saved, 'epoch': 3}, lambda saved: {'state_dict': saved}]
)
def test_torch_files_are_read_whatever_the_state_dict_stands_in(pth, monkeypatch, wrap):
    arrays = {'module.w': np.arange(6.0).reshape(2, 3), 'b': np.array([1.5, -2]).astype(ml_dtypes.bfloat16)}
    saved = wrap({name: Tensor(array) for name, array in arrays.items()})
    monkeypatch.setitem(sys.modules, 'torch', torch_that_loads(saved))
    read = weight_files.read(pth)
    np.testing.assert_array_equal(read['w'], arrays['module.w'])
    assert read['b'].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read['b'], arrays['b'])
    assert weight_files.shapes(pth) == {'w': (2, 3), 'b': (2,)}


@pytest.mark.parametrize(
    'torch, error, message',
    [
        (None, ImportError, "a.pth is one of torch's files, and reading it needs torch: install torch, or convert"),
        (torch_that_loads(pickle.UnpicklingError('x')), ValueError, 'a.pth is damaged, or holds more than tensors'),
        (torch_that_loads(RuntimeError('failed finding central directory')), ValueError, 'a.pth is damaged, or holds'),
        (torch_that_loads({'optimizer': {}, 'epoch': 3}), ValueError, 'no state dict; it holds optimizer, epoch: save'),
        (torch_that_loads([1]), ValueError, 'no state dict; it holds list: save'),
    ],
)
def test_torch_files_that_cannot_be_read_say_why(pth, monkeypatch, torch, error, message):
    monkeypatch.setitem(sys.modules, 'torch', torch)
    with pytest.raises(error, match=message):
        weight_files.read(pth)


def test_a_file_is_where_it_is(tmp_path, monkeypatch):
    (tmp_path / 'a.safetensors').write_bytes(b'')
    assert weight_files.locate(tmp_path / 'a.safetensors') == tmp_path / 'a.safetensors'
    (tmp_path / 'owner').mkdir()
    (tmp_path / 'owner' / 'name').write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    assert str(weight_files.locate('owner/name')) == 'owner/name'


@pytest.mark.parametrize('weights', ['a.safetensors', 'weights/a.safetensors', '/no/such/folder/a.pth', 'a'])
def test_a_file_that_is_not_there_is_not_asked_of_the_hub(weights):
    with pytest.raises(FileNotFoundError, match=f"weights '{weights}' are neither a file nor owner/name on the hub"):
        weight_files.locate(weights)
    with pytest.raises(FileNotFoundError, match='there is no file'):
        weight_files.read(weights)


def hub_that(answer):
    return types.SimpleNamespace(hf_hub_download=answer)


@pytest.mark.parametrize(
    'weights, revision',
    [
        ('timm/vit_tiny.augreg', None),
        ('hf-hub:timm/vit_tiny.augreg', None),
        ('timm/vit_tiny.augreg@refs/pr/1', 'refs/pr/1'),
    ],
)
def test_a_hub_id_is_downloaded(monkeypatch, tmp_path, weights, revision):
    asked = []

    def download(repository, file, *, revision):
        asked.append((repository, file, revision))
        return str(tmp_path / 'model.safetensors')

    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub_that(download))
    assert weight_files.locate(weights) == tmp_path / 'model.safetensors'
    assert asked == [('timm/vit_tiny.augreg', 'model.safetensors', revision)]


def test_without_the_package_or_a_network_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match="weights 'timm/x' are no file here, and fetching them .* huggingface_hub"):
        modelzoo.create_model('vit_test', weights='timm/x')

    def fail(*arguments, **options):
        raise ConnectionError('Name or service not known\nRetrying in 1s')

    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub_that(fail))
    message = r"cannot get model.safetensors of 'timm/x' .*, or give a file. \(ConnectionError: Name or .* not known\)"
    with pytest.raises(FileNotFoundError, match=message):
        modelzoo.create_model('vit_test', weights='timm/x')
