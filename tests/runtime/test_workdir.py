"""Where a workdir may be, whose it is, and that two runs do not share it."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from longview.runtime import workdir
from longview.runtime.errors import RunError

pytestmark = pytest.mark.quick


def test_a_home_folder_is_meant_and_a_bucket_refused(monkeypatch) -> None:
    monkeypatch.setenv('HOME', '/home/somebody')
    assert workdir.folder('~/runs/a') == pathlib.Path('/home/somebody/runs/a')
    for name in ('runs/a:b', pathlib.Path('runs//a')):
        assert workdir.folder(name) == pathlib.Path(name)
    with pytest.raises(ValueError, match='gs://bucket/run is an address .* mount the bucket'):
        workdir.folder('gs://bucket/run')


def test_a_workdir_belongs_to_its_config_once_it_holds_a_checkpoint(tmp_path) -> None:
    started = lambda config, free=(): (
        workdir.check_config(tmp_path, config, free),
        workdir.write_config(tmp_path, config),
    )
    started({'seed': 0, 'optimizer': {'peak': 1.0}})
    started({'seed': 1, 'optimizer': {'peak': 1.0}})
    (tmp_path / 'checkpoints' / '8.orbax-checkpoint-tmp').mkdir(parents=True)  # of a save that was killed
    started({'seed': 2, 'optimizer': {'peak': 1.0}})
    (tmp_path / 'checkpoints' / '8').mkdir()
    started({'seed': 2, 'optimizer': {'peak': 1.0}})
    started({'seed': 2, 'optimizer': {'peak': 3.0}}, free=('optimizer',))
    with pytest.raises(RunError, match='another config: config.optimizer.peak was 1.0 and is now 2.0'):
        started({'seed': 2, 'optimizer': {'peak': 2.0}}, free=('optim', 'seed'))


HOLD = 'import sys, time; from pathlib import Path; from longview.runtime import workdir; '
HOLD += 'held = workdir.alone(Path(sys.argv[1])); held.__enter__(); print("held", flush=True); time.sleep(300)'


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path) -> None:
    first = subprocess.Popen([sys.executable, '-c', HOLD, tmp_path / 'run'], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == 'held\n'
        words = rf'another run is using .*run \(host {socket.gethostname()}, pid {first.pid}\)'
        with pytest.raises(RunError, match=words), workdir.alone(tmp_path / 'run'):
            pass
    finally:
        first.kill()
        first.communicate()
    with workdir.alone(tmp_path / 'run'):
        assert (tmp_path / 'run' / 'lock').read_text() == f'host {socket.gethostname()}, pid {os.getpid()}\n'
        with pytest.raises(RunError, match='another run is using'), workdir.alone(tmp_path / 'run'):
            pass
    with workdir.alone(tmp_path / 'run'):
        pass


def test_where_there_are_no_locks_nobody_is_refused(tmp_path, monkeypatch) -> None:
    def flock(*unused) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', flock)
    with workdir.alone(tmp_path), contextlib.ExitStack() as stack:
        stack.enter_context(workdir.alone(tmp_path))
