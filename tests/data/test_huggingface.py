"""Sets that Hugging Face's `datasets` has saved, through a stand-in of the part of it that is asked for."""

import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest

from longview.data.prepare import open_dataset
from longview.input_pipeline import Images
from tests.data.pictures import png
from tests.data.saved import CLASSES, IMAGE, NUMBER, PIXELS, Table, package, pets
from tests.data.streams import evaluation, first


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Saves what `load_from_disk` shall return, and returns the path."""

    def save(loaded: Any) -> str:
        (tmp_path / ('dataset_dict.json' if isinstance(loaded, dict) else 'state.json')).touch()
        monkeypatch.setitem(sys.modules, 'datasets', package(loaded))
        return str(tmp_path)

    return save


def test_a_saved_set_is_a_data_set(saved):
    path = saved({'train': pets(6), 'test': pets(4)})
    for in_memory in (True, False):
        data = Images(path, in_memory=in_memory, image_size=4)
        data.check()
        assert (data.num_train, data.num_eval, data.num_classes) == (6, 4, 2)
        (batch,) = first(data, 1, 6)
        np.testing.assert_array_equal(batch['image'], PIXELS[batch['index']])
        assert (batch['label'] == batch['index'] % 2).all()
        np.testing.assert_array_equal(evaluation(data, 4)[0]['image'], PIXELS[:4])
    assert data.source().labels().tolist() == [0, 1] * 3


def test_a_single_table_is_one_split_of_which_slices_are_taken(saved):
    data = Images(saved(pets(6)), train_split='train[:4]', eval_split='train[4:]', image_size=4)
    assert (data.num_train, data.num_eval) == (4, 2)
    np.testing.assert_array_equal(evaluation(data, 2)[0]['image'], PIXELS[4:])


def test_images_are_files_bytes_or_arrays_and_labels_may_be_measured(saved, tmp_path):
    (tmp_path / '0.png').write_bytes(png(PIXELS[0]))
    file = {'bytes': None, 'path': str(tmp_path / '0.png')}
    kinds = {
        'file': (IMAGE, file),
        'bytes': ({'dtype': 'binary', '_type': 'Value'}, png(PIXELS[0])),
        'array': ({'shape': [4, 4, 3], 'dtype': 'uint8', '_type': 'Array3D'}, PIXELS[0].tolist()),
    }
    for described, image in kinds.values():
        table = Table({'image': described, 'label': NUMBER}, {'image': [image], 'label': [0.1]})
        data = Images(saved(table), eval_split='train', image_size=4)
        (batch,) = evaluation(data, 1)
        np.testing.assert_array_equal(batch['image'], PIXELS[:1])
        assert data.num_classes is None and batch['label'] == np.float32(0.1)
        assert data.batch_spec(1)['label'] == jax.ShapeDtypeStruct((1,), np.float32)
    assert open_dataset(saved(Table({'image': IMAGE}, {'image': [file]}))).as_data_source('train')[0]['file_name']


def test_what_cannot_be_read_is_said_in_a_sentence(saved):
    lacking = Table({'image': IMAGE, 'label': CLASSES}, {'image': [{'bytes': None, 'path': None}], 'label': [0]})
    with pytest.raises(ValueError, match="Example 0 of the split 'train' in .* cannot be read .it has no image.; mend"):
        Images(saved(lacking), image_size=4, eval_split='train').check()
    with pytest.raises(ValueError, match='The split test of .* has no example'):
        open_dataset(saved({'train': pets(6), 'test': pets(0)}))
    renamed = Table({'img': IMAGE, 'label': CLASSES}, {'img': [{'bytes': b'', 'path': None}], 'label': [0]})
    with pytest.raises(ValueError, match="has no .*'image', only img, label"):
        Images(saved({'train': renamed, 'test': renamed})).check()
    with pytest.raises(ValueError, match='The splits train and test of .* have different columns; save them alike'):
        open_dataset(saved({'train': pets(6), 'test': pets(6, label=NUMBER)}))


def test_without_the_package_the_extra_is_named(saved, monkeypatch):
    path = saved(pets(6))
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ModuleNotFoundError, match=r'which opens it: pip install "longview\[huggingface\]"'):
        open_dataset(path)
    assert pathlib.Path(path).is_dir()
