"""Mistakes on the command line: one sentence, status 1, nothing computed."""

import importlib
import pathlib
import subprocess
import sys
import types

import pytest
from absl import flags
from ml_collections import config_flags

from longview import train
from longview.methods.peft.low_rank import lora
from longview.runtime import commandline, renames
from longview.runtime.resolve import resolve

ROOT = pathlib.Path(__file__).parents[1]
GOOD = '--config=configs/vig_s.py:smoke'


def parsed(*arguments: str):
    sys.modules.pop('config_config', None)  # where ml_collections leaves the file it read before
    values = flags.FlagValues()
    argv = ['train.py', *arguments]
    config_flags.DEFINE_config_file('config', None, lock_config=True, flag_values=values, sys_argv=argv)
    commandline.parse(argv, values)
    return values.config


@pytest.mark.quick
@pytest.mark.parametrize(
    'arguments, words',
    [
        (('--config=configs/vig_s.py:smok',), "no preset 'smok'; did you mean 'smoke'?"),
        (('--config=configs/base.py',), "no attribute 'get_config'"),
        (('--config=configs/vig_z.py',), "No such file or directory: 'configs/vig_z.py'"),
        (('--config=configs:digits',), '--config is configs, a folder: name a file in it, as in configs/vig_s.py'),
        (('--confg=x',), "Unknown command line flag 'confg'. Did you mean: config ?"),
        (
            (GOOD, '--config.task.inner.lable_smoothing=0.1'),
            "config.task.inner has no 'lable_smoothing'; did you mean 'label_smoothing'?",
        ),
        (
            (GOOD, '--config.train_transforms[1].maen=1'),
            "config.train_transforms[1] has no 'maen'; did you mean 'mean'?",
        ),
        ((GOOD, '--config.dta.dataset=x'), "config has no 'dta'; did you mean 'data'?"),
        ((GOOD, '--config.data.image_size=big'), "invalid literal for int() with base 10: 'big'"),
    ],
)
def test_flags_that_do_not_fit(arguments: tuple[str, ...], words: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError) as error:
        parsed(*arguments)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_function_that_is_not_called_yet_can_be_overridden(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    config = parsed('--config=configs/pissa.py:digits', '--config.task.start.partial=methods.peft.low_rank:lora')
    assert resolve(config.task.start, 'start').func is lora


@pytest.mark.parametrize('old', renames.CONFIGS)
@pytest.mark.parametrize('folder', ['a checkout', 'elsewhere'])
def test_a_config_that_moved_is_found_by_its_name_of_then(old: str, folder: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(ROOT if folder == 'a checkout' else tmp_path)
    now, begin = renames.CONFIGS[old]
    get_config = importlib.import_module(f'longview.configs.{now}').get_config
    assert parsed(f'--config=configs/{old}.py').to_dict() == get_config(f'{begin}imagenet').to_dict()
    small = get_config(f'{begin}digits')
    small.seed = 3
    assert parsed('--config', f'configs/{old}.py:digits', '--config.seed=3').to_dict() == small.to_dict()
    assert parsed(f'--config={ROOT}/configs/{old}.py:digits', '--config.seed=3').to_dict() == small.to_dict()


def test_a_config_of_ones_own_by_a_name_of_then_is_left_alone(monkeypatch, tmp_path) -> None:
    (tmp_path / 'configs').mkdir()
    text = 'from ml_collections import ConfigDict\nget_config = lambda preset: ConfigDict({"mine": preset})'
    (tmp_path / 'configs' / 'vig_t.py').write_text(text)
    monkeypatch.chdir(tmp_path)
    assert parsed('--config=configs/vig_t.py:digits').mine == 'digits'


@pytest.mark.quick
@pytest.mark.parametrize(
    'given, words',
    [
        ({}, 'no --config was given'),
        ({'config': {}}, 'no --workdir was given'),
        ({'argv': ['stray']}, "'stray' is not a flag"),
    ],
)
def test_flags_that_are_missing_or_none(given: dict, words: str, monkeypatch) -> None:
    given = dict(given)
    argv = ['train.py', *given.pop('argv', [])]
    names = ('config', 'workdir', 'profile', 'coordinator', 'num_processes', 'process_id', 'explain', 'show_batch')
    none = dict.fromkeys(names)
    monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(**none | {'traceback': False} | given))
    with pytest.raises(SystemExit) as end:
        train._main(argv)
    assert end.value.code.startswith('error: ') and words in end.value.code
    assert len(end.value.code.splitlines()) == 1


@pytest.mark.parametrize(
    'arguments, words',
    [
        ((GOOD, '--config.sede=1'), "config has no 'sede'; did you mean 'seed'?"),
        ((GOOD, '--workdir=x', '--profile=5'), "--profile='5' is not FIRST:LAST"),
    ],
    ids=['while it is parsed', 'later'],
)
def test_train_ends_in_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run([sys.executable, 'train.py', *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith('error: ') and len(done.stderr.strip().splitlines()) == 1
