"""Finding and preparing: whole or not at all, and one sentence for what is wrong."""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from longview.data import prepare
from tests.data.folder import data_dir, files

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = [
    'digits/1.0.0/dataset_info.json',
    'digits/1.0.0/digits-test.array_record-00000-of-00001',
    'digits/1.0.0/digits-train.array_record-00000-of-00001',
    'digits/1.0.0/features.json',
]


@pytest.fixture
def digits(tmp_path) -> pathlib.Path:
    """A copy of the prepared data set, to be damaged."""
    prepare.open_dataset('digits', data_dir())
    shutil.copytree(pathlib.Path(data_dir()) / 'digits', tmp_path / 'digits')
    return tmp_path / 'digits' / '1.0.0'


def test_processes_that_start_together_prepare_one_whole_set(tmp_path):
    command = [sys.executable, '-m', 'longview.data.prepare', 'digits', f'--data_dir={tmp_path}']
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for run in runs:
        out, error = run.communicate(timeout=120)
        assert run.returncode == 0, error.decode()
        assert out.decode().splitlines()[-1] == str(tmp_path / 'digits' / '1.0.0')
    assert files(str(tmp_path)) == DIGITS
    assert not list(tmp_path.glob('.preparing*'))


def test_the_last_one_throws_its_copy_away(digits, tmp_path):
    before = (digits / 'dataset_info.json').stat().st_ino
    prepare.prepare('digits', str(tmp_path))
    assert (digits / 'dataset_info.json').stat().st_ino == before
    assert files(str(tmp_path)) == DIGITS


def test_a_killed_preparation_is_no_data_set(tmp_path, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, '_rename_unless_there', killed)
        prepare.open_dataset('digits', str(tmp_path))
    assert files(str(tmp_path)) == []
    # SIGKILL leaves the scratch folder as well; nobody mistakes it for the set.
    (tmp_path / '.preparing-digits-dead' / 'digits' / '1.0.0').mkdir(parents=True)
    assert prepare.open_dataset('digits', str(tmp_path)).info.splits['train'].num_examples == 1438


class Stopped(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize('error', [Stopped, SystemExit])
def test_an_exception_from_a_signal_handler_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def stopped(number, frame):
        raise error

    def examples(self, test):
        assert list(tmp_path.glob('.preparing-digits-*/.lock'))
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.setattr('longview.data.digits.Digits._generate_examples', examples)
    before = signal.signal(signal.SIGTERM, stopped)
    try:
        with pytest.raises(error):
            prepare.open_dataset('digits', str(tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.glob('.*')) and files(str(tmp_path)) == []


# Prepares a set whose second example never comes, and says when it waits for it.
SLOW = """
import sys, time
from longview.data import digits, prepare
def examples(self, test):
    print('waiting', flush=True)
    time.sleep(100)
    yield
digits.Digits._generate_examples = examples
prepare.main()
"""


def test_sigterm_ends_a_preparation_by_command_and_removes_what_it_wrote(tmp_path):
    command = [sys.executable, '-c', SLOW, 'digits', f'--data_dir={tmp_path}']
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert any(line == 'waiting\n' for line in run.stdout)
        assert list(tmp_path.glob('.preparing*'))
        run.terminate()
        assert run.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob('.*'))


def abandoned(root: pathlib.Path, name: str, days: float) -> pathlib.Path:
    """A scratch folder that was last written into so many days ago."""
    folder = root / name
    (folder / 'digits').mkdir(parents=True)
    (folder / 'digits' / 'half').touch()
    for path in (*folder.rglob('*'), folder):
        os.utime(path, (time.time() - days * 86400,) * 2)
    return folder


def test_what_a_killed_process_left_is_removed_a_day_later_unless_it_is_in_use(tmp_path):
    old, fresh = abandoned(tmp_path, '.preparing-digits-old', 1.1), abandoned(tmp_path, '.preparing-digits-fresh', 0.9)
    used = abandoned(tmp_path, '.preparing-imagenet2012-used', 50)
    other = abandoned(tmp_path, '.cache', 50)
    written = abandoned(tmp_path, '.preparing-digits-written', 50)
    os.utime(written / 'digits' / 'half')
    with open(used / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(used, (0, 0)), os.utime(used / '.lock', (0, 0))
        prepare.prepare('digits', str(tmp_path))
    assert not old.exists() and fresh.exists() and used.exists() and other.exists() and written.exists()
    assert (tmp_path / 'digits').exists()
    os.utime(used, (0, 0)), os.utime(used / '.lock', (0, 0))
    prepare.prepare('digits', str(tmp_path))
    assert not used.exists(), 'the process that held it is gone'


@pytest.mark.parametrize('name', [path.split('/')[-1] for path in DIGITS[:3]])
def test_a_half_prepared_set_is_named_with_the_missing_file(digits, name):
    (digits / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"'digits' is half prepared: {name} is missing in {digits}; delete"):
        prepare.open_dataset('digits', str(digits.parents[1]))


def test_half_prepared_sets_of_tfds_are_named_too(tmp_path):
    folder = tmp_path / 'cifar10' / '3.0.2'
    folder.mkdir(parents=True)
    (folder / 'cifar10-train.array_record-00000-of-00001').touch()
    with pytest.raises(FileNotFoundError, match=f'dataset_info.json is missing in {folder}'):
        prepare.open_dataset('cifar10', str(tmp_path))


@pytest.mark.parametrize(('name', 'manual'), [('imagenet2012', ' --manual_dir=FOLDER'), ('cifar10', '')])
def test_a_set_that_is_not_there_comes_with_its_command(tmp_path, name, manual):
    command = f'`python -m longview.data.prepare {name} --data_dir={tmp_path}{manual}` where TensorFlow'
    with pytest.raises(prepare.NotPreparedError, match=command):
        prepare.open_dataset(name, str(tmp_path))


def test_preparing_what_needs_tensorflow_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    (tmp_path / 'manual').mkdir()
    for name in ('train', 'val'):
        tarfile.open(tmp_path / 'manual' / f'ILSVRC2012_img_{name}.tar', 'w').close()
    with pytest.raises(ModuleNotFoundError, match="'imagenet2012' needs TensorFlow .*`pip install"):
        prepare.prepare('imagenet2012', str(tmp_path), str(tmp_path / 'manual'))
    assert not list(tmp_path.glob('.preparing*'))


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('digitz', "did you mean 'digits'"),
        ('imagnet2012', "did you mean 'imagenet2012'"),
        ('images', 'did you mean'),
        ('zzzz', 'ours are digits, fake_imagenet, fashion_mnist'),
        ('strange', 'No data set is called'),
    ],
)
def test_an_unknown_name_gets_the_nearest(tmp_path, name, hint):
    (tmp_path / 'strange').mkdir()
    with pytest.raises(ValueError, match=f'No data set is called {name!r}, and {tmp_path} holds none') as caught:
        prepare.open_dataset(name, str(tmp_path))
    assert hint in str(caught.value)


def test_files_without_random_access_are_refused(digits):
    info = json.loads((digits / 'dataset_info.json').read_text())
    info['fileFormat'] = 'tfrecord'
    (digits / 'dataset_info.json').write_text(json.dumps(info))
    with pytest.raises(FileNotFoundError, match='is stored as tfrecord, which cannot be read by index'):
        prepare.open_dataset('digits', str(digits.parents[1]))
    # Converted in place, both formats lie side by side.
    info['alternativeFileFormats'] = ['array_record']
    (digits / 'dataset_info.json').write_text(json.dumps(info))
    builder = prepare.open_dataset('digits', str(digits.parents[1]))
    assert len(builder.as_data_source('train')) == 1438


def test_the_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    assert prepare.default_data_dir() == str(tmp_path)
    monkeypatch.delenv('TFDS_DATA_DIR')
    assert prepare.default_data_dir() == os.path.expanduser('~/tensorflow_datasets')


def test_a_tilde_is_the_home_wherever_a_path_is_given(digits, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('TFDS_DATA_DIR', '~')
    monkeypatch.chdir(digits)
    assert prepare.default_data_dir() == str(tmp_path)
    assert prepare.open_dataset('digits').data_dir == prepare.open_dataset('digits', '~').data_dir == str(digits)
    prepare.prepare('digits', '~/sets')
    assert files(str(tmp_path / 'sets')) == DIGITS
    assert not (digits / '~').exists()


def test_tensorflow_stays_out():
    program = (
        'import sys, longview.input_pipeline, longview.data.prepare, longview.data.fashion_mnist\n'
        'sys.exit("tensorflow" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)
