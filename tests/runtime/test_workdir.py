"""Where a workdir may be, whose it is, and that two runs do not share it."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from longview.runtime import workdir
from longview.runtime.errors import RunError
from longview.runtime.workdir import check_config, check_given, recorded, write_given

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


def test_what_is_read_again_has_to_be_the_same(tmp_path):
    given = {'fixed': {'teachers': ({'a': np.ones(2)},)}, 'networks': {'network': np.zeros(3)}}
    check_given(tmp_path, given)  # of an earlier version nothing is known
    write_given(tmp_path, given)
    check_given(tmp_path, {'fixed': given['fixed']})
    with pytest.raises(RunError, match=r'is another now \(fixed/teachers/0/a\): put back the file or the run'):
        check_given(tmp_path, {'fixed': {'teachers': ({'a': np.zeros(2)},)}})


def test_how_data_are_read_may_change_wherever_they_are(tmp_path):
    config = {'data': {'fn': 'x', 'data': {'threads': 1}}, 'parts': [{'data_dir': 'a', 'n': 1}], 'few': [1]}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    other = {'data': {'fn': 'x', 'data': {'threads': 2}}, 'parts': [{'data_dir': 'b', 'n': 1}], 'few': [1]}
    check_config(tmp_path, other, begun=True)
    other['parts'][0]['n'] = 2
    with pytest.raises(RunError, match=r'config.parts\[0\].n was 1 and is now 2; use that value, or another --workdir'):
        check_config(tmp_path, other, begun=True)
    (tmp_path / 'stage.json').write_text('{}')
    with pytest.raises(RunError, match=rf'config.stages.{tmp_path.name}.parts.* or remove {tmp_path} to make it anew'):
        check_config(tmp_path, other, begun=True)


def test_a_computation_is_no_run(tmp_path):
    (tmp_path / 'config.json').write_text('{"fn": "methods.table:Table", "runs": {}}')
    with pytest.raises(ValueError, match='holds a computation .methods.table:Table. and no run: name the workdir'):
        recorded(tmp_path)
