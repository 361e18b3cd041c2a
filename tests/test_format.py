"""One style, by machine: `ruff format` and `ruff check --fix` make what this holds."""

import subprocess
import sys

import pytest

from tests.runs import ROOT


@pytest.mark.quick
@pytest.mark.parametrize('command', [('format', '--check'), ('check',)], ids=' '.join)
def test_ruff_has_nothing_to_say(command):
    done = subprocess.run([sys.executable, '-m', 'ruff', *command, '.'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
