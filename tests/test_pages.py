"""What the pages show works as it stands there: the code of adding.md and weights.md, the steps of start.md."""

import contextlib
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import longview
from longview import kernels, modelzoo, train
from longview.modelzoo import weights
from tests import runs, test_docs
from tests.modelzoo import tiny

ROOT = test_docs.ROOT
DOCS = ROOT / 'docs'
# Commands that other tests run, that set up a machine, or that measure it.
ELSEWHERE = re.compile(
    r'-m (venv|pytest|tests\.|benchmarks|longview\.runtime\.profile)|--(sweep|topology|measure)|my_config'
)
# What is not at hand in a test: the hub, data that are downloaded, files of the reader's own.
NOT_HERE = re.compile(r'published|state-spaces|show_batch|data\.prepare|configs/(recorded|finetune)|-m [\w.]+\.sample')
PETS = [
    f'{split}/{name}/{n}' for split in ('train', 'val', 'validation') for name in ('cats', 'dogs') for n in range(4)
]
BLOCK = re.compile(r'^```(python|bash)\n(.*?)^```', re.M | re.S)
FILE = re.compile(r'# ([\w/]+\.py)\n')


def blocks(page: str, kind: str) -> list[str]:
    """Returns the blocks of code of a page, without those that are files."""
    return [code for found, code in BLOCK.findall((DOCS / page).read_text()) if found == kind and not FILE.match(code)]


def files(page: str) -> dict[str, str]:
    """Returns the files that a page shows, by their path, which the first line of a block names."""
    codes = [code for _, code in BLOCK.findall((DOCS / page).read_text())]
    return {FILE.match(code)[1]: code.partition('\n')[2] for code in codes if FILE.match(code)}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The files of docs/adding.md in a folder from which Python imports, the op's among the kernels."""
    for path, code in files('adding.md').items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code)
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kernels, '__path__', [*kernels.__path__, str(tmp_path / 'kernels')])
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], '__file__', '')):
            del sys.modules[name]


def test_the_examples_train_together(shown):
    config = importlib.import_module('my_config').get_config()
    config.steps = config.eval_every = config.save_every = config.log_every = 3
    config.epochs, config.optimizer.schedule.warmup_epochs = None, 0.0
    with runs.quickly():
        train.train(config, shown / 'runs')
    figures = {name: value for row in runs.rows(shown / 'runs') for name, value in row.items()}
    assert {'train/distance', 'train/loss', 'eval/accuracy'} <= figures.keys()
    assert 0 < figures['train/distance'] < figures['train/loss']


@pytest.mark.heavy
def test_the_examples_reach_what_the_page_says(shown):
    (command,) = [code for code in blocks('adding.md', 'bash') if 'longview.train' in code]
    subprocess.run(command, shell=True, check=True, cwd=shown, env=environment(shown))
    assert max(row.get('eval/accuracy', 0) for row in runs.rows(shown / 'runs/bars')) > 0.95


def test_the_network_becomes_one_of_the_zoo(shown, monkeypatch):
    family = importlib.import_module('poolnet')
    monkeypatch.setattr(modelzoo.zoo, 'families', lambda: (family,))
    model = longview.create_model('poolnet_small', 10, depth=2)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
    features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert features['map'].shape == (1, 14, 14, 384) and features['logits'].shape == (1, 10)
    assert {model.backbone.layer_of(f'backbone/{name}/x') for name in variables['params']['backbone']} == {0, 1, 2, 3}


def test_the_forms_of_the_op_agree(shown, capsys):
    (code,) = blocks('adding.md', 'python')
    names = {}
    exec(code, names)
    assert float(capsys.readouterr().out) < 1e-6
    x, mix, token_shift = names['x'], names['mix'], names['token_shift']
    ours, x_, mix_ = jax.device_get((token_shift(x, mix), x, mix))
    wanted = mix_ * x_ + (1 - mix_) * np.pad(x_, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='fast'):
        token_shift(x, mix, implementation='fast')


def test_the_page_names_the_files_that_it_shows():
    assert [*files('adding.md')][:4] == ['bars.py', 'poolnet.py', 'shifted.py', 'my_config.py']


@pytest.mark.heavy
def test_what_the_page_of_weights_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = modelzoo.create_model('deit_tiny_patch16_224')
    weights.save(model, tiny.filled(model, jnp.zeros((1, 224, 224, 3))), 'deit_tiny.safetensors')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save('cat.jpg')
    (tmp_path / 'hub').mkdir()
    (tmp_path / 'hub/model.safetensors').symlink_to(tmp_path / 'deit_tiny.safetensors')
    hub = types.SimpleNamespace(snapshot_download=lambda *_, **__: str(tmp_path / 'hub'))
    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
    names = {}
    for code in blocks('weights.md', 'python'):
        exec(code, names)
    assert names['network'].classify('cat.jpg')[0][1] > 0
    assert names['logits'].shape == (2, 10) and names['vector'].shape == (192,)
    assert names['features']['map'].shape == (2, 6, 6, 192) and names['stages'].strides == (4, 8, 16, 32)
    assert (tmp_path / 'mine.safetensors').exists()


def environment(*folders: pathlib.Path) -> dict[str, str]:
    """Returns the environment of a user who works on a CPU, with this Python and this checkout."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ['PATH']])
    cache = {'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.cache' / 'xla'), 'JAX_PLATFORMS': 'cpu'}
    return {**os.environ, **cache, 'PATH': path, 'PYTHONPATH': os.pathsep.join(map(str, (ROOT, *folders)))}


def take_first_steps(folder: pathlib.Path) -> None:
    """Does in a folder all that docs/start.md says, but for the installation."""
    names = {}
    for kind, code in BLOCK.findall((DOCS / 'start.md').read_text()):
        if 'pip install' in code:
            continue
        if kind == 'bash':
            subprocess.run(['bash', '-euo', 'pipefail', '-c', code], cwd=folder, env=environment(), check=True)
        else:
            with contextlib.chdir(folder):
                exec(code, names)


@pytest.fixture(scope='module')
def started(tmp_path_factory) -> pathlib.Path:
    """A folder in which the first steps were taken, and which has what other pages speak of."""
    folder = tmp_path_factory.mktemp('started')
    take_first_steps(folder)
    for other in ('vit_digits', 'pets', 'rates/seed=0'):
        shutil.copytree(folder / 'runs/vig_digits', folder / 'runs' / other)
    for file in ('cat.jpg', 'dog.jpg', *(f'pets/{place}.png' for place in PETS)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / 'digit.png', folder / file)
    return folder


@pytest.mark.heavy
def test_the_first_steps_lead_where_they_say(started):
    assert max(row.get('eval/accuracy', 0) for row in runs.rows(started / 'runs/vig_digits')) > 0.97
    assert (started / 'runs/vig_digits/evaluations').is_dir() and (started / 'exported/vig/model.safetensors').exists()


def runnable(page: pathlib.Path) -> list[list[str]]:
    """Returns the commands of a page that a test can run: what trains is planned by --dry_run instead."""
    found = []
    for words in test_docs.commands(page):
        words = [word.replace('SEED', '0') for word in words]
        line = ' '.join(words)
        mentioned = len(words) == 2 and words[0] == '-m'  # a command's name in a sentence, without its arguments
        skipped = (ELSEWHERE, NOT_HERE, test_docs.PLACEHOLDER)
        if mentioned or '[' in line or any(pattern.search(line) for pattern in skipped):
            continue
        trains = any(word in ('train.py', 'longview.train') for word in words[:2])
        planned = any(flag in line for flag in ('--explain', '--dry_run'))
        more = ['--dry_run'] * (trains and not planned) + ['--overwrite'] * ('longview.export' in words)
        found.append([*words, *more])
    return found


@pytest.mark.heavy
@pytest.mark.parametrize(
    'page', [page for page in test_docs.PAGES if page.name != 'start.md' and runnable(page)], ids=str
)
def test_the_commands_of_a_page_run(page, started):
    for words in runnable(page):
        words = [str(ROOT / word) if (ROOT / word).suffix == '.py' and '/' not in word else word for word in words]
        run = [sys.executable, *words]
        done = subprocess.run(run, cwd=started, env=environment(), text=True, capture_output=True, timeout=600)
        assert done.returncode == 0, f'{" ".join(words)}\n{done.stderr[-2000:]}'
