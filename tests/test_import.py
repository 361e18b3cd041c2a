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
        'import modelzoo, longview.modelzoo.vision.vig, modelzoo.vision.vig',
        'import longview.modelzoo.vision.vig; from modelzoo.vision import vig; import modelzoo',
        # None of these imports another one of these.
        'from kernels.gla import gla; from longview.kernels.gla import xla; import kernels.gla.xla; '
        'from configs import base, vig_s; import longview.configs.base, longview.configs.vig_s, configs.vig_s; '
        'import input_pipeline, longview.input_pipeline, data.prepare, runtime.mesh; from longview.data import prepare',
        'import train; from longview import train; from configs import vig_s; import methods.task; '
        'from longview.runtime.resolve import resolve; resolve(vig_s.get_config("smoke").task.to_dict())',
    ],
)
def test_no_module_is_loaded_under_two_names(imports):
    assert python(imports + TWICE).splitlines()[-1] == '[]'


@pytest.mark.quick
def test_a_short_name_is_the_module_of_the_whole_name():
    code = (
        'import kernels.gla.xla as short, longview.kernels.gla.xla as whole, train, input_pipeline, longview;'
        'print(short is whole, short.__name__, short.__spec__.name, train is longview.train)'
    )
    assert python(code) == 'True longview.kernels.gla.xla longview.kernels.gla.xla True\n'


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
