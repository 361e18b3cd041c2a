"""Notebooks are in step with their Python files, begin alike, and run whole."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from tests import notebooks, runs


class Case(NamedTuple):
    """What a notebook leaves behind when it is run.

    Attributes:
        pictures: how many it shows.
        numbers: by the words before them where they are printed, the least and the largest value they may have.
    """

    pictures: int
    numbers: Mapping[str, tuple[float, float]]


# The three shortest.
CASES = {
    'train_digits': Case(4, {'test accuracy': (0.85, 1.0), 'wrong': (0, 54)}),
}
# These take a minute or so.
HEAVY = {}


@pytest.mark.quick
@pytest.mark.parametrize('name', notebooks.names())
def test_the_notebook_is_written_from_its_python_file(name):
    file = notebooks.FOLDER / f'{name}.ipynb'
    same = file.exists() and file.read_text() == notebooks.ipynb(name)
    assert same, f'notebooks/{file.name} is not what notebooks/{name}.py makes: run {notebooks.COMMAND}.'


@pytest.mark.quick
@pytest.mark.parametrize('name', notebooks.names())
def test_it_begins_with_a_title_the_badge_and_the_one_header(name):
    (kind, title), header, *rest = notebooks.cells(name)
    assert kind == 'markdown' and re.match(r'# \S', title) and notebooks.badge(name) in title.splitlines()
    assert header == notebooks.cells('train_digits')[1] and f"'{notebooks.REPOSITORY}'" in header[1]
    long = [text.splitlines()[0] for kind, text in rest if kind == 'code' and len(text.splitlines()) > 16]
    assert not long, f'cells that are longer than 16 lines begin with {long}: make two of each.'


@pytest.mark.quick
def test_every_notebook_is_run():
    assert CASES.keys() | HEAVY.keys() == set(notebooks.names())
    assert {path.stem for path in notebooks.FOLDER.glob('*.ipynb')} == set(notebooks.names())


@pytest.mark.parametrize('name', CASES)
def test_it_runs_whole(name, tmp_path):
    check(name, CASES[name], tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize('name', HEAVY)
def test_the_long_ones_run_whole(name, tmp_path):
    check(name, HEAVY[name], tmp_path)


def check(name: str, case: Case, folder: pathlib.Path) -> None:
    """Runs a notebook in an empty folder without network, and looks at what it shows and prints."""
    printed = run(name, folder)
    assert len(list(folder.glob('picture*.png'))) == case.pictures
    for words, (least, largest) in case.numbers.items():
        found = [float(text) for text in re.findall(rf'{words}:? ([-+]?[\d.]+(?:e[-+]?\d+)?)', printed)]
        assert found and all(least <= value <= largest for value in found), f'{words}: {found}\n{printed}'


def run(name: str, folder: pathlib.Path, **environment: str) -> str:
    """Runs a notebook in a process of its own; returns what it prints."""
    env = {
        **os.environ,
        'PYTHONPATH': str(runs.ROOT),
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(runs.ROOT / '.cache' / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
        'XLA_FLAGS': ' '.join(runs.QUICK),
        'HF_HUB_OFFLINE': '1',
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, '-m', 'tests.notebooks', name],
        cwd=folder,
        env=env,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return runs.finish(process)[0]
