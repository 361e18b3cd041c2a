"""A folder of images as a data set: what is a class, in what order, and what is refused."""

import pathlib

import numpy as np
import pytest

from longview.data.folder import ImageFolder
from longview.data.prepare import open_dataset
from tests.data.pictures import png

IMAGE = png(np.zeros((2, 2, 3), np.uint8))


@pytest.fixture
def pets(tmp_path) -> pathlib.Path:
    """Three cats, two dogs and a zebra in `train`, the same two of each in `test`; hidden files about."""
    root = tmp_path / 'pets'
    for split, kinds in (('train', {'cats': 3, 'dogs': 2, 'Zebras': 1}), ('test', {'cats': 2, 'dogs': 2, 'Zebras': 2})):
        for kind, count in kinds.items():
            (root / split / kind).mkdir(parents=True)
            for number in range(count):
                (root / split / kind / f'{number}.PNG').write_bytes(IMAGE)
    for hidden in ('.git', 'train/.ipynb_checkpoints', 'train/cats/.thumbnails'):
        (root / hidden).mkdir()
    for hidden in ('.DS_Store', 'train/.DS_Store', 'train/cats/.DS_Store', 'train/cats/.thumbnails/0.txt'):
        (root / hidden).write_bytes(b'x')
    (root / 'README.txt').write_text('beside the splits')
    return root


def names(folder: ImageFolder, split: str) -> list[str]:
    """CLASS/FILE of every example, whose label is that class."""
    source = folder.as_data_source(split)
    classes = folder.info.features['label'].names
    found = [source[index] for index in range(len(source))]
    assert found == source.__getitems__(list(range(len(source))))
    assert len(source) == folder.info.splits[split].num_examples
    for example in found:
        assert pathlib.Path(example['file_name']).parent.name == classes[example['label']]
        assert example['image'] == IMAGE
    return ['/'.join(pathlib.Path(example['file_name']).parts[-2:]) for example in found]


def test_folders_are_splits_and_classes_in_sorted_order_and_what_is_hidden_is_neither(pets):
    folder = open_dataset(str(pets))
    assert list(folder.info.splits) == ['test', 'train']
    assert folder.info.features['label'].names == ['Zebras', 'cats', 'dogs']
    want = [
        f'{kind}/{number}.PNG' for kind, count in (('Zebras', 1), ('cats', 3), ('dogs', 2)) for number in range(count)
    ]
    assert sorted(names(folder, 'train')) == want


def test_the_order_is_a_mixture_that_another_image_and_another_place_leave_alone(pets):
    before = names(ImageFolder(str(pets)), 'train')
    assert before != sorted(before)
    (pets / 'train' / 'cats' / 'new.png').write_bytes(IMAGE)
    moved = pets.rename(pets.parent / 'elsewhere')
    assert [name for name in names(ImageFolder(str(moved)), 'train') if 'new' not in name] == before


def test_slices_are_those_of_tfds(pets):
    folder = ImageFolder(str(pets))
    whole, test = names(folder, 'train'), names(folder, 'test')
    assert names(folder, 'train[:50%]') == whole[:3] and names(folder, 'train[-2:]') == whole[-2:]
    assert names(folder, 'train[1:3]+test') == whole[1:3] + test


def test_images_may_lie_deeper_and_behind_links(pets):
    (pets / 'train' / 'cats' / 'wild').mkdir()
    (pets / 'train' / 'cats' / 'wild' / 'lynx.jpg').write_bytes(IMAGE)
    (pets / 'train' / 'dogs').rename(pets.parent / 'hounds')
    (pets / 'train' / 'dogs').symlink_to(pets.parent / 'hounds')
    files = [example['file_name'] for example in ImageFolder(str(pets)).as_data_source('train')]
    assert len(files) == 7 and str(pets / 'train/cats/wild/lynx.jpg') in files


def test_a_path_may_begin_at_home_or_here(pets, monkeypatch):
    monkeypatch.setenv('HOME', str(pets.parent))
    assert open_dataset('~/pets').data_dir == str(pets)
    monkeypatch.chdir(pets)
    assert open_dataset('../pets').name == open_dataset('./').name == 'pets'


def test_a_folder_that_is_named_like_a_data_set_is_not_taken_for_it_but_hinted_at(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    with pytest.raises(ValueError, match=r"No data set is called 'pets'; if the folder .* is meant, write '\./pets'\."):
        open_dataset('pets', str(pets.parent / 'sets'))
    (pets.parent / 'digits').mkdir()
    assert open_dataset('digits', str(pets.parent / 'sets')).info.splits['train'].num_examples == 1438


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (
            lambda pets: pets.rename(pets.parent / 'gone'),
            FileNotFoundError,
            'There is no folder .*pets; wanted FOLDER/',
        ),
        (
            lambda pets: (pets / 'test').rename(pets / '.test') and (pets / 'train').rename(pets / '.t'),
            ValueError,
            'no f',
        ),
        (lambda pets: (pets / 'test/dogs').rename(pets / 'test/Dogs'), ValueError, "test has no class 'dogs', which"),
        (lambda pets: (pets / 'train/cats/0.PNG').rename(pets / 'train/cats/0.db'), ValueError, r'0\.db is no image'),
        (lambda pets: [f.unlink() for f in pets.glob('test/*/*')], ValueError, '.*pets/test holds no image; wanted'),
    ],
    ids=['missing', 'no split', 'other classes', 'no image', 'no images'],
)
def test_other_layouts_are_refused_in_a_sentence(pets, change, error, message):
    change(pets)
    with pytest.raises(error, match=message) as caught:
        ImageFolder(str(pets))
    assert '\n' not in str(caught.value)
