"""Folders without splits and tables of files: what they hold, in what order, and what is refused."""

import hashlib
import pathlib

import numpy as np
import pytest

from longview.data.prepare import open_dataset
from tests.data.pictures import png

IMAGE = png(np.zeros((2, 2, 3), np.uint8))


def write(root: pathlib.Path, *files: str) -> str:
    """Makes files of a folder, the images among them the same image, and returns the folder's path."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(IMAGE)
    return str(root)


def table(root: pathlib.Path, *lines: str, name: str = 'pets.csv') -> str:
    (root / name).write_text('\n'.join([*lines, '']), encoding='utf-8-sig')
    return str(root / name)


def stored(builder, split: str) -> list[tuple[str, float]]:
    """Path and label of each example of a split, whose labels can be had without the images."""
    source = builder.as_data_source(split)
    examples = source.__getitems__(range(len(source)))
    assert source.labels.tolist() == [example['label'] for example in examples]
    assert all(example['image'] == IMAGE for example in examples)
    root = pathlib.Path(builder.data_dir)
    root = root if root.is_dir() else root.parent
    return [(str(pathlib.Path(e['file_name']).relative_to(root)), float(e['label'])) for e in examples]


def by_hash(*paths: str) -> list[str]:
    """The order of examples: that of the SHA-256 of their paths, which begin with a slash."""
    return sorted(paths, key=lambda path: hashlib.sha256(f'/{path}'.encode()).digest())


PETS = [f'{kind}/{number}.jpg' for kind in ('Zebras', 'cats', 'dogs') for number in range(4)]


def test_a_folder_without_splits_is_one_and_its_slices_hold_every_example_once(tmp_path):
    folder = open_dataset(write(tmp_path, *PETS, '.git/0.txt', 'cats/._0.jpg', 'README.txt'))
    assert list(folder.info.splits) == ['train'] and folder.info.features['label'].names == ['Zebras', 'cats', 'dogs']
    files = [file for file, _ in stored(folder, 'train')]
    assert files == by_hash(*PETS)
    assert [f for f, _ in stored(folder, 'train[:75%]') + stored(folder, 'train[75%:]')] == files
    assert stored(folder, 'train')[files.index('dogs/1.jpg')] == ('dogs/1.jpg', 2)


def test_with_splits_the_order_is_that_of_the_paths_in_them(tmp_path):
    folder = open_dataset(write(tmp_path, *(f'train/{file}' for file in PETS), 'unlabelled/0.jpg'))
    assert [file for file, _ in stored(folder, 'train')] == [f'train/{file}' for file in by_hash(*PETS)]
    assert list(folder.info.splits) == ['train']


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (
            ['cats/0.jpg', 'cats/wild/1.jpg', 'dogs/0.jpg'],
            'cats holds folders, as a split does, and the image 0.jpg, as',
        ),
        (['train/0.jpg', 'val/0.jpg'], 'has no folder of folders in it, nor one for each class; wanted'),
        (['images/0.jpg', 'images/1.jpg'], 'has no folder of folders in it, nor one for each class; wanted'),
        (['cats/0.jpg', 'dogs/0.txt'], 'dogs/0.txt is no image'),
        (['cats/.0.jpg', 'dogs/.0.jpg'], 'holds no image; wanted'),
    ],
    ids=['both', 'no classes', 'one class', 'no image', 'hidden'],
)
def test_other_layouts_are_refused_in_a_sentence(tmp_path, files, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(write(tmp_path, *files))
    assert '\n' not in str(caught.value)


def test_a_link_to_a_folder_that_it_lies_in_is_refused(tmp_path):
    write(tmp_path, *PETS)
    (tmp_path / 'cats' / 'all').symlink_to(tmp_path)
    with pytest.raises(ValueError, match='cats/all is a link to a folder that it lies in: take it away'):
        open_dataset(str(tmp_path))


def test_a_table_names_files_their_classes_and_splits(tmp_path):
    write(tmp_path, *PETS)
    lines = [f'{"train" if "3" not in file else "held out"},{file.split("/")[0]},{file}' for file in PETS]
    pets = open_dataset(table(tmp_path, 'split,label,file', *lines[::-1], ''))
    assert list(pets.info.splits) == ['held out', 'train'] and pets.info.splits['train'].num_examples == 9
    assert pets.info.features['label'].names == ['Zebras', 'cats', 'dogs']
    got = stored(pets, 'train')
    assert [file for file, _ in got] == by_hash(*(file for file in PETS if '3' not in file))
    assert all(['Zebras', 'cats', 'dogs'][int(label)] == file.split('/')[0] for file, label in got)


def test_classes_may_be_whole_numbers_and_numbers_are_measured(tmp_path):
    write(tmp_path, *PETS)
    classes = open_dataset(table(tmp_path, 'file,label', *(f'{file},{i}' for i, file in enumerate(PETS))))
    assert classes.info.features['label'].num_classes == 12
    assert dict(stored(classes, 'train')) == {file: i for i, file in enumerate(PETS)}
    numbers = open_dataset(table(tmp_path, 'file,number', *(f'{file},{i - 2.5}' for i, file in enumerate(PETS))))
    assert numbers.info.features['label'].np_dtype == np.float32
    assert dict(stored(numbers, 'train[:50%]+train[50%:]')) == {file: i - 2.5 for i, file in enumerate(PETS)}


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['image,label', 'a.jpg,cat'], "has the header 'image,label'; wanted the header file,label or file,number"),
        (['file,label,spilt', 'a.jpg,cat,train'], "has the header 'file,label,spilt'; wanted"),
        ([], "has the header ''; wanted"),
        (['file,label'], 'has a header and no image'),
        (['file,label', 'a.jpg,cat', 'b.jpg'], 'Line 3 of .*pets.csv has no label: fill it in'),
        (['file,label', 'a.jpg,cat', 'b.jpg,dog', 'a.jpg,dog'], 'a.jpg stands twice in .*, in lines 2 and 4'),
        (['file,label', 'a.jpg,0.5', 'b.jpg,1'], 'are numbers such as 0.5: call the column number where they are'),
        (['file,number', 'a.jpg,0.5', 'b.jpg,many'], "Line 3 of .* has the number 'many', which is none"),
        (['file,number', 'a.jpg,nan'], "Line 2 of .* has the number 'nan', which is none"),
    ],
)
def test_other_tables_are_refused_in_a_sentence(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(table(tmp_path, *lines))
    assert '\n' not in str(caught.value)


def test_a_table_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='There is no table gone.csv; write the path of a CSV'):
        open_dataset('gone.csv')
    with pytest.raises(FileNotFoundError, match='There is no table .*gone.csv; write the path of a CSV'):
        open_dataset(str(tmp_path / 'gone.csv'))
