"""The cache of a folder's listing: believed where it is that of the folder, and never else."""

import os
import pathlib
import time

import numpy as np
import pytest

from longview.data import listing
from longview.data.folder import ImageFolder

FILES = {f'{split}/{kind}/{number}.png' for split in 'ab' for kind in 'xy' for number in range(3)}


@pytest.fixture
def root(tmp_path, monkeypatch) -> str:
    """A folder that has not changed for long; every listing is worth a cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
    monkeypatch.setattr(listing, 'WORTH', 1)
    monkeypatch.setattr(listing, '_TICK', 0)
    for file in FILES:
        (tmp_path / 'root' / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'root' / file).touch()
    time.sleep(0.02)  # several ticks of the file system's clock: what is changed now bears another time
    return str(tmp_path / 'root')


def caches(root: str) -> list[pathlib.Path]:
    return sorted(pathlib.Path(root).parent.glob('caches/longview/folders/*'))


def files(root: str) -> set[str]:
    return {os.path.join(folder, name) for folder, names in listing.tree(root).items() for name in names.files}


@pytest.fixture
def listed(root, monkeypatch) -> list[str]:
    """The folders that have been listed since a first time, which left a cache."""
    assert files(root) == FILES and len(caches(root)) == 1
    folders, scandir = [], os.scandir

    def counted(path):
        if str(path).startswith(root):
            folders.append(path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', counted)
    return folders


def test_a_second_time_nothing_is_listed(root, listed):
    first = listing.tree(root)
    assert not listed
    caches(root)[0].unlink()
    assert listing.tree(root) == first and len(listed) == 7


@pytest.mark.parametrize(
    ('change', 'gone', 'new'),
    [
        (lambda root: (root / 'a/x/9.png').touch(), set(), {'a/x/9.png'}),
        (lambda root: (root / 'b/y/2.png').unlink(), {'b/y/2.png'}, set()),
        (lambda root: (root / 'b/y/2.png').rename(root / 'b/y/7.png'), {'b/y/2.png'}, {'b/y/7.png'}),
        (lambda root: (root / 'c').mkdir() or (root / 'c/0.png').touch(), set(), {'c/0.png'}),
    ],
    ids=['new', 'gone', 'renamed', 'split'],
)
def test_a_folder_that_changed_is_listed_anew_also_under_its_old_time(root, listed, change, gone, new):
    times = {folder: os.stat(os.path.join(root, folder)) for folder in listing.tree(root)}
    change(pathlib.Path(root))
    for folder, status in times.items():  # as tools that copy do, which leaves the time of the change itself
        os.utime(os.path.join(root, folder), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files(root) == (FILES - gone) | new
    assert listed


@pytest.mark.parametrize('damage', ['cut', 'bit', 'empty', 'text'])
def test_a_damaged_cache_is_made_anew(root, listed, damage):
    (cache,) = caches(root)
    whole = cache.read_bytes()
    place = whole.index(b'0.png')
    cache.write_bytes(
        {
            'cut': whole[:-9],
            'bit': whole[:place] + b'8' + whole[place + 1 :],
            'empty': b'',
            'text': b'{}\n{}',
        }[damage]
    )
    assert files(root) == FILES and listed
    assert cache.read_bytes() == whole


def test_a_folder_that_is_changing_and_a_small_one_leave_no_cache(root, monkeypatch):
    monkeypatch.setattr(listing, '_TICK', 3600 * 10**9)
    assert files(root) == FILES and not caches(root)
    monkeypatch.setattr(listing, '_TICK', 0)
    monkeypatch.setattr(listing, 'WORTH', len(FILES) + 1)
    assert files(root) == FILES and not caches(root)


def test_where_no_cache_can_be_written_there_is_none(root, tmp_path, monkeypatch):
    (tmp_path / 'taken').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'taken'))
    assert files(root) == FILES


def test_the_numbers_of_examples_do_not_depend_on_the_cache(root, listed):
    folders = [ImageFolder(root) for _ in range(2)]
    caches(root)[0].unlink()
    folders.append(ImageFolder(root))
    order = [[f['file_name'] for f in folder.as_data_source('a').__getitems__(range(6))] for folder in folders]
    assert order[0] == order[1] == order[2] and np.unique(folders[0].as_data_source('a').labels).tolist() == [0, 1]
