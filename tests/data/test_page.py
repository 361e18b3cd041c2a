"""The data sets that docs/data.md shows give batches."""

import pathlib
import re
import sys

import numpy as np
import pytest

from longview.runtime.resolve import resolve
from tests.data.folder import data_dir
from tests.data.pictures import png
from tests.data.saved import package, pets
from tests.data.streams import evaluation, first

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'
SECTIONS = re.split(r'^## ', PAGE.read_text(), flags=re.M)
SHOWN = [
    pytest.param(block, id=f'{section.splitlines()[0]} {number}')
    for section in SECTIONS
    for number, block in enumerate(re.findall(r'```python\n(.*?)```', section, re.S))
    if re.search('^data = ', block, re.M)
]
BATCH = {'data.mixture:Mixture': 64}


@pytest.fixture
def here(tmp_path, monkeypatch) -> None:
    """A working folder with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TFDS_DATA_DIR', data_dir())
    for number in range(20):
        for file in (f'pets/cats/{number}.png', f'pets/dogs/{number}.png', f'photos/{number}.png'):
            pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(file).write_bytes(png(np.full((4, 4, 3), number, np.uint8)))
    rows = [f'photos/{n}.png,{"cats" if n % 2 else "dogs"},{"validation" if n > 9 else "train"}' for n in range(20)]
    pathlib.Path('pets.csv').write_text('\n'.join(['file,label,split', *rows]))
    pathlib.Path('saved').mkdir()
    pathlib.Path('saved/dataset_dict.json').touch()
    monkeypatch.setitem(sys.modules, 'datasets', package({'train': pets(6), 'test': pets(6)}))
    np.save('scores.npy', np.arange(1438))


@pytest.mark.parametrize('block', SHOWN)
def test_the_page_shows_data_sets_that_give_batches(block, here):
    names = {}
    exec(block, names)
    data = resolve(names['data'])
    data.check()
    size = BATCH.get(names['data']['fn'], 20)
    for train in (True, False):
        batch = first(data, 1, size)[0] if train else evaluation(data, size)[0]
        spec = {name: (x.shape, x.dtype) for name, x in data.batch_spec(size, train).items()}
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == spec


def test_all_kinds_are_shown():
    assert len(SHOWN) >= 8
