"""One name for every module, whatever is imported first, in a checkout and from an installed package."""

import subprocess
import sys

import pytest

from tests.runs import ROOT

# Prints the files that were loaded as two modules.
TWICE = """
import collections, sys
files = collections.Counter(m.__file__ for m in set(sys.modules.values()) if getattr(m, '__file__', None))
print([file for file, count in files.items() if count > 1 and 'site-packages' not in file])
"""


def python(code: str, *, cwd=ROOT, status: int = 0) -> str:
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    'imports',
    [
        'from configs import base, vig_s; import longview.configs.base, longview.configs.vig_s',
        'import longview.configs.vig_s; from configs import base',
        'from longview import train; from configs import vig_s; from longview.runtime.resolve import resolve; '
        'resolve(vig_s.get_config("smoke").task.to_dict()); import longview.modelzoo.vision.vig',
        'import longview; longview.list_models(); from longview import input_pipeline, kernels, methods, runtime, data',
    ],
)
def test_no_module_is_loaded_under_two_names(imports):
    assert python(imports + TWICE).splitlines()[-1] == '[]'


@pytest.mark.parametrize(
    'imports',
    [
        'import modelzoo',
        'import longview.modelzoo, modelzoo.vision.vig',
        'from kernels.gla import gla',
        'import data',
        'from runtime import mesh',
        'from methods.task import Task',
        'import train',
        'import input_pipeline',
    ],
)
def test_a_short_name_is_refused_with_the_whole_one(imports):
    folder = imports.split()[-1 if imports.startswith('import') else 1].split('.')[0]
    assert python(imports, status=1) == (
        f'ImportError: {folder} is a part of longview, and loaded under that name alone: '
        f'write `from longview import {folder}`.'
    )


@pytest.mark.parametrize('module', ['modelzoo', 'longview.modelzoo'])
def test_a_folder_runs_by_either_name(module):
    done = subprocess.run([sys.executable, '-m', module, 'vig_test'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and 'vig_test' in done.stdout, done.stderr


def test_a_users_own_folders_of_the_same_names_are_not_met(tmp_path):
    for name in ('data', 'kernels', 'modelzoo'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text('OWNER = "user"\n')
    code = (
        'import sys; sys.path.append({!r}); import data, kernels, modelzoo, longview; '
        "print(data.OWNER, kernels.OWNER, modelzoo.OWNER, longview.create_model('vig_test').head.num_classes)"
    )
    assert 'user user user 1000' in python(code.format(str(ROOT)), cwd=tmp_path)
