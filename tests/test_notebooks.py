"""Notebooks are in step with their Python files, begin alike, and run whole."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import published, weights
from longview.trees import path_of
from tests import notebooks, runs


class Case(NamedTuple):
    """What a notebook leaves behind when it is run.

    Attributes:
        pictures: how many it shows.
        numbers: by the words before them where they are printed, the least and the largest value they may have.
        weights: the variant whose published weights it fetches, if it does.
    """

    pictures: int
    numbers: Mapping[str, tuple[float, float]]
    weights: str = ''


# Of the hub, a commit.
REVISION = '0' * 40
# The three shortest.
CASES = {
    'classify': Case(3, {'likeness of a patch to itself': (0.999, 1.001)}, 'vit_small_patch16_224'),
    'plan_a_pod': Case(3, {'MiB of parameters on each of 64 devices': (1.2, 1.6), 'at best, ms a step': (1e-3, 1.0)}),
    'train_digits': Case(4, {'test accuracy': (0.85, 1.0), 'wrong': (0, 54)}),
}
# These take a minute or so.
HEAVY = {
    'compress': Case(
        2,
        {
            'accuracy of dense': (0.85, 1.0),
            'accuracy of cut': (0.0, 0.8),
            'accuracy of tuned': (0.85, 1.0),
            'largest difference, loaded again': (0.0, 1e-5),
            'largest difference, as a program': (0.0, 1e-5),
        },
    ),
    'figure': Case(
        2,
        {
            'BN-ReLU-Conv, ends of stages: variance': (34.3, 35.3),
            'BN-ReLU-Conv, all blocks: branch': (0.67, 0.7),
            'ReLU-BN-Conv, ends of stages: variance': (50.5, 51.5),
            'ReLU-BN-Conv, all blocks: branch': (0.99, 1.01),
            'He, last block: share of the mean': (0.9, 1.0),
            'scaled weights, last block: share of the mean': (0.0, 0.05),
        },
    ),
    'finetune': Case(
        3,
        {'accuracy of the new head': (0.6, 1.0), 'accuracy of the whole network': (0.75, 1.0)},
        'vit_tiny_patch16_224',
    ),
    'kernels': Case(
        4,
        {
            'selective scan differs by': (0.0, 1e-5),
            'gated linear attention differs by': (0.0, 1e-5),
            'long convolution differs by': (0.0, 1e-5),
            'memory of gradients, selective_scan': (0.1, 10.0),
            'memory of gradients, jax.lax.scan': (20.0, 500.0),
        },
    ),
    'own_block': Case(
        1,
        {
            'attention, accuracy of the trained weights': (0.45, 1.0),
            'gated convolution, accuracy of the trained weights': (0.9, 1.0),
            'largest difference': (0.0, 1e-4),
        },
    ),
    'pretrain': Case(
        5,
        {
            'vote of the 20 nearest neighbours': (0.75, 1.0),
            'neighbours of the same digit, before': (0.4, 0.8),
            'neighbours of the same digit, after': (0.85, 1.0),
            'linear probe, 5 labels a digit, before': (0.3, 0.65),
            'linear probe, 5 labels a digit, after': (0.7, 1.0),
        },
    ),
}


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
def test_every_notebook_is_run_and_listed():
    assert CASES.keys() | HEAVY.keys() == set(notebooks.names())
    assert {path.stem for path in notebooks.FOLDER.glob('*.ipynb')} == set(notebooks.names())
    index = (notebooks.FOLDER / 'README.md').read_text()
    assert sorted(re.findall(r'^\| \[(\w+)\]\(\1\.ipynb\)', index, re.M)) == notebooks.names()


@pytest.mark.parametrize('name', CASES)
def test_it_runs_whole(name, tmp_path):
    check(name, CASES[name], tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize('name', HEAVY)
def test_the_long_ones_run_whole(name, tmp_path):
    check(name, HEAVY[name], tmp_path)


def check(name: str, case: Case, folder: pathlib.Path) -> None:
    """Runs a notebook in a folder of its own, without network, and looks at what it shows and prints."""
    if case.weights:
        keep(case.weights, folder / 'hub')
    printed = run(name, folder)
    assert len(list(folder.glob('picture*.png'))) == case.pictures
    for words, (least, largest) in case.numbers.items():
        found = [float(text) for text in re.findall(rf'{words}:? ([-+]?[\d.]+(?:e[-+]?\d+)?)', printed)]
        assert found and all(least <= value <= largest for value in found), f'{words}: {found}\n{printed}'


def keep(variant: str, home: pathlib.Path) -> None:
    """Puts weights where Hugging Face keeps the published ones of a network that it has fetched.

    They have the published names and shapes, and values as at the beginning of a training.
    """
    model = modelzoo.create_model(variant)
    wanted = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32'))
    repository = home / 'hub' / f'models--{published.table()[variant].source.replace("/", "--")}'
    snapshot = repository / 'snapshots' / REVISION
    for path in (snapshot, repository / 'refs'):
        path.mkdir(parents=True)
    (repository / 'refs' / 'main').write_text(REVISION)
    weights.save(model, jax.tree_util.tree_map_with_path(begun, wanted), snapshot / 'model.safetensors')


def begun(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Returns one for scales, zero for biases, else normal values."""
    name = path_of(path).rpartition('/')[2]
    if name in ('scale', 'bias'):
        return np.full(leaf.shape, name == 'scale', leaf.dtype)
    return (np.random.default_rng(leaf.size).normal(size=leaf.shape) * 0.02).astype(leaf.dtype)


def run(name: str, folder: pathlib.Path) -> str:
    """Runs a notebook in a process of its own, compiled as a user's; returns what it prints."""
    env = {
        **os.environ,
        'PYTHONPATH': str(runs.ROOT),
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(runs.ROOT / '.cache' / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
        'HF_HUB_OFFLINE': '1',
        'HF_HOME': str(folder / 'hub'),
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
