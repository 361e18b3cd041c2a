"""The installed package: what the wheel holds, and that it runs beside a project with folders of the same names.

python -m pytest -m heavy tests/test_package.py     # builds with pip, which fetches hatchling
"""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from longview.names import FILES, FOLDERS
from tests.runs import ROOT

pytestmark = pytest.mark.heavy


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('wheel')
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', f'--wheel-dir={folder}', '.']
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob('*.whl'))


def test_the_wheel_holds_every_module_under_one_name(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith('.py')}
    files = {path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')} | {
        ROOT / f'{name}.py' for name in FILES
    }
    own = {f'longview/{path.name}' for path in (ROOT / 'longview').glob('*.py')}
    assert held == own | {f'longview/{path.relative_to(ROOT).as_posix()}' for path in files}


def test_it_runs_beside_a_projects_own_folders_data_and_kernels(wheel, tmp_path):
    installed, project = tmp_path / 'installed', tmp_path / 'project'
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', f'--target={installed}', str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    for name in ('data', 'kernels'):
        (project / name).mkdir(parents=True)
        (project / name / '__init__.py').write_text('OWNER = "project"\n')
    code = (
        'import data, kernels, longview; from longview.kernels.gla import gla; from longview.data import digits;'
        'print(data.OWNER, kernels.OWNER, longview.__file__, longview.create_model("vig_test").head.num_classes)'
    )
    env = {**os.environ, 'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'}
    run = lambda *arguments: subprocess.run(
        [sys.executable, *arguments], cwd=project, env=env, capture_output=True, text=True, check=True
    )
    assert run('-c', code).stdout.split() == ['project', 'project', str(installed / 'longview/__init__.py'), '1000']
    small = ['depth=1', 'width=8', 'heads=1']
    options = ['--config.steps=2', '--config.optimizer.schedule.warmup_epochs=0.0']
    options += [f'--config.task.inner.backbone.{change}' for change in small]
    run('-m', 'longview.train', '--config', 'configs/vig_s.py:digits', f'--workdir={project / "run"}', *options)
    assert (project / 'run' / 'metrics.jsonl').exists()
