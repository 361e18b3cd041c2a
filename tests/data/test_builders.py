"""Our builders: what they hold, where they look for it, and what they say when it is missing."""

import gzip
import hashlib
import pathlib
import re

import chex
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from longview.data import fashion_mnist
from longview.data.digits import to_uint8
from longview.data.fake_imagenet import COUNTS
from longview.data.prepare import open_dataset, prepare
from longview.input_pipeline import Images
from tests.data.folder import data_dir
from tests.data.pictures import numbers, png


def test_digits_hold_every_image_once_and_every_fifth_is_for_testing():
    builder = open_dataset('digits', data_dir())
    digits = load_digits()
    for split, rows in (('train', np.arange(1797) % 5 != 4), ('test', np.arange(1797) % 5 == 4)):
        source = builder.as_data_source(split)
        assert len(source) == builder.info.splits[split].num_examples == rows.sum()
        images = np.stack([example['image'] for example in source])
        chex.assert_trees_all_equal(images[..., 0], to_uint8(digits.images[rows]))
        assert [example['label'] for example in source] == digits.target[rows].tolist()


def test_gray_steps_become_bytes_by_the_documented_rule():
    want = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert to_uint8(np.arange(17.0)).tolist() == want


def test_fake_imagenet_has_the_features_and_the_oddities_of_the_real_one():
    builder = open_dataset('fake_imagenet', data_dir())
    assert set(builder.info.features) == {'image', 'label', 'file_name'}
    assert builder.info.features['label'].num_classes == 1000
    raw = {'image': tfds.decode.SkipDecoding()}
    heads, shapes = set(), set()
    for split, count in COUNTS.items():
        source = builder.as_data_source(split, decoders=raw)
        assert len(source) == builder.info.splits[split].num_examples == count
        heads |= {bytes(example['image'][:4]) for example in source}
        shapes |= {example['image'].shape for example in builder.as_data_source(split)}
    assert heads == {
        b'\xff\xd8\xff\xe0',
        b'\xff\xd8\xff\xee',
        b'\x89PNG',
    }  # JFIF, Adobe (CMYK), PNG
    assert len(shapes) > 5 and max(max(shape) for shape in shapes) >= 1600


def test_the_builder_that_the_page_shows_prepares_a_set_that_is_read(tmp_path, monkeypatch):
    page = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'
    (code,) = [block for block in re.findall(r'```python\n(.*?)```', page.read_text(), re.S) if 'class Xrays' in block]
    monkeypatch.chdir(tmp_path)
    xrays = numbers('uint16', 4, 8, 8, 1)
    for file, image in zip(('train/ill/0', 'train/healthy/1', 'test/healthy/2', 'test/ill/3'), xrays, strict=True):
        path = pathlib.Path('originals', f'{file}.png')
        path.parent.mkdir(parents=True)
        path.write_bytes(png(image))
    exec(code, {'__name__': 'page'})
    images = Images('xrays', 'sets', image_size=8)
    images.check()
    (batch,) = images.host_evaluate(np.arange(2), 2)
    order = np.argsort(batch['label'])
    assert batch['label'][order].tolist() == [0, 1] and images.num_classes == 2
    chex.assert_trees_all_equal(batch['image'][order], xrays[2:])


def write_idx(path: pathlib.Path, array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>u4').tobytes()
    content = gzip.compress(head + array.tobytes())
    path.write_bytes(content)
    return content


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """A folder with the four files of 7 + 3 images; Debian's folder and the server are away."""
    monkeypatch.setattr(fashion_mnist, 'DEBIAN', str(tmp_path / 'no debian'))
    monkeypatch.setattr(fashion_mnist, 'SERVER', (tmp_path / 'no server').as_uri())
    folder = tmp_path / 'originals'
    folder.mkdir()
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (('train', 7), ('t10k', 3)):
        arrays[f'{part}-images-idx3'] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f'{part}-labels-idx1'] = rng.integers(0, 10, count, dtype=np.uint8)
    digests = {n: hashlib.sha256(write_idx(folder / f'{n}-ubyte.gz', a)).hexdigest() for n, a in arrays.items()}
    monkeypatch.setattr(fashion_mnist, 'FILES', digests)
    return folder, arrays


def check_fashion(folder: str, arrays: dict[str, np.ndarray]) -> None:
    builder = open_dataset('fashion_mnist', folder)
    for split, part in (('train', 'train'), ('test', 't10k')):
        source = builder.as_data_source(split)
        assert len(source) == builder.info.splits[split].num_examples
        chex.assert_trees_all_equal(
            np.stack([example['image'][..., 0] for example in source]),
            arrays[f'{part}-images-idx3'],
        )
        assert [example['label'] for example in source] == arrays[f'{part}-labels-idx1'].tolist()
    assert builder.info.features['label'].names[-1] == 'Ankle boot'


def test_fashion_mnist_comes_from_a_manual_folder(tiny_fashion, tmp_path, monkeypatch):
    folder, arrays = tiny_fashion
    monkeypatch.setenv('HOME', str(folder.parent))
    prepare('fashion_mnist', str(tmp_path / 'sets'), f'~/{folder.name}')
    check_fashion(str(tmp_path / 'sets'), arrays)


def test_fashion_mnist_comes_from_debian(tiny_fashion, tmp_path, monkeypatch):
    folder, arrays = tiny_fashion
    monkeypatch.setattr(fashion_mnist, 'DEBIAN', str(folder))
    check_fashion(str(tmp_path / 'sets'), arrays)


def test_fashion_mnist_is_downloaded_and_checked(tiny_fashion, tmp_path, monkeypatch):
    folder, arrays = tiny_fashion
    monkeypatch.setattr(fashion_mnist, 'SERVER', folder.as_uri())
    check_fashion(str(tmp_path / 'sets'), arrays)
    wrong = folder / 't10k-labels-idx1-ubyte.gz'
    wrong.write_bytes(wrong.read_bytes() + b'x')
    with pytest.raises(FileNotFoundError, match=f'{wrong.name} has the SHA-256 .* not'):
        open_dataset('fashion_mnist', str(tmp_path / 'others'))


def test_fashion_mnist_says_where_to_get_it(tiny_fashion, tmp_path):
    with pytest.raises(FileNotFoundError, match='apt-get install dataset-fashion-mnist.*--manual_dir=FOLDER'):
        open_dataset('fashion_mnist', str(tmp_path / 'sets'))
    left = [path.name for path in (tmp_path / 'sets').iterdir()]
    assert left == ['downloads'], 'a failed preparation leaves no data set behind'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'plain', 'is not a whole gzip file'),
        (gzip.compress(b'\0' * 9000)[:-9], 'is not a whole gzip file'),
        (gzip.compress(b'\0\0\x0d\x01abcd'), 'does not begin as an idx file of bytes'),
        (gzip.compress(b'\0\0\x08\x01\0\0\0\x09abc'), 'announces 9 bytes and holds 3'),
    ],
    ids=['plain', 'cut', 'of numbers', 'short'],  # a gzip file holds the second it was made in
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    path = tmp_path / 'file.gz'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fashion_mnist.read_idx(path)
