"""The folder of a run: where it may be, whose it is, and that only one program writes into it."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from longview.runtime.errors import RunError
from longview.runtime.renames import renamed
from longview.trees import by_path

_CONFIG = 'config.json'
_GIVEN = 'given.json'
# Keys of data sets that change no example.
_READING = ('data_dir', 'threads', 'prefetch', 'in_memory')


def folder(workdir: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a workdir, ``~`` expanded.

    Raises:
        ValueError: it is the address of a bucket or the like.
    """
    text = os.fspath(workdir)
    if re.match(r'\w[\w+.-]*://', text):
        raise ValueError(
            f'the workdir {text} is an address and not a folder: mount the bucket (gcsfuse, mount-s3) and name the '
            'folder where it is mounted.'
        )
    return pathlib.Path(text).expanduser()


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the workdir and keeps other runs out of it; of several processes of one run the first one does so.

    The operating system lets go of the lock when the process ends, however it does. A file system without locks, such
    as some mounted buckets, keeps nobody out.

    Raises:
        RunError: the folder cannot be written, or another run is using it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f'the workdir cannot be made ({error}): choose a --workdir where you may write.') from error
    if jax.process_index() != 0:
        yield
        return
    try:
        file = (workdir / 'lock').open('a+')
    except OSError as error:
        raise RunError(f'the workdir cannot be written ({error}): choose a --workdir where you may write.') from error
    with file:
        _lock(file, workdir)
        yield


def check_config(
    workdir: pathlib.Path,
    config: dict[str, Any],
    free: Iterable[str] = (),
    *,
    begun: bool | None = None,
) -> None:
    """Compares a config with the one of the run that the workdir holds.

    How data are read, wherever they are, may change.

    Args:
        workdir: belongs to the config in its ``config.json``, once it holds a checkpoint.
        config: as plain data.
        free: keys, and all below them, that may change between the parts of a run.
        begun: whether the workdir belongs to what its config.json says; by default once it holds a checkpoint.

    Raises:
        RunError: it belongs to another config; the first difference is named.
    """
    path = workdir / _CONFIG
    if not (path.exists() and (_has_checkpoint(workdir) if begun is None else begun)):
        return
    stage = (workdir / 'stage.json').exists()
    place = f'config.stages.{workdir.name}' if stage else 'config'
    remedy = f'use that value, or remove {workdir} to make it anew' if stage else 'use that value, or another --workdir'
    ours, before = _flatten(renamed(_plain(config))), _flatten(renamed(json.loads(path.read_text())))
    for key in sorted(ours.keys() | before.keys()):
        if not (_below(key, free) or _is_reading(key)) and ours.get(key) != before.get(key):
            raise RunError(
                f'{workdir} holds a {"stage" if stage else "run"} of another config: {place}.{key} was '
                f'{before.get(key)!r} and is now {ours.get(key)!r}; {remedy}.'
            )


def recorded(workdir: pathlib.Path | str) -> dict[str, Any]:
    """Returns the config of the run that a workdir holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it holds a computation of a config with stages.
    """
    file = pathlib.Path(workdir).expanduser() / _CONFIG
    if not file.exists():
        raise FileNotFoundError(f'{workdir} holds no run (there is no {_CONFIG}): name the workdir of one.')
    config = json.loads(file.read_text())
    made_by = next((config[key] for key in ('fn', 'partial') if key in config), None)
    if made_by is not None:
        raise ValueError(f'{workdir} holds a computation ({made_by}) and no run: name the workdir of a run.')
    return config


def write_config(workdir: pathlib.Path, config: dict[str, Any], *, replace: bool = False) -> None:
    """Writes the config of a run that can start.

    Args:
        workdir: keeps the config that it has once it holds a checkpoint.
        config: as plain data.
        replace: whether to replace that one, too.
    """
    path = workdir / _CONFIG
    if jax.process_index() == 0 and (replace or not (path.exists() and _has_checkpoint(workdir))):
        temporary = path.with_suffix('.tmp')
        temporary.write_text(json.dumps(_plain(config), indent=1, sort_keys=True))
        temporary.replace(path)


def last_checkpoint(workdir: pathlib.Path) -> int | None:
    """Returns the step of the last checkpoint of a workdir that belongs to a config, or None."""
    steps = _steps(workdir, 'checkpoints') if (workdir / _CONFIG).exists() else []
    return max(steps, default=None)


def write_interface(workdir: pathlib.Path, columns: Mapping[str, Any], classes: Sequence[str] | None) -> None:
    """Writes ``interface.json``, what one has to know to use the run's network where its data are not.

    Args:
        workdir: of the run.
        columns: shapes and types of a batch of the data set, before any transform; the first axis is left out.
        classes: what the classes are called; None where nobody says it.
    """
    if jax.process_index() == 0:
        columns = {name: [list(column.shape[1:]), str(column.dtype)] for name, column in columns.items()}
        temporary = workdir / 'interface.tmp'
        temporary.write_text(json.dumps({'columns': columns, 'classes': classes}, indent=1, sort_keys=True))
        temporary.replace(workdir / 'interface.json')


def write_given(workdir: pathlib.Path, given: Any) -> None:
    """Writes digests of the arrays that a run reads, to find out when it goes on whether they are the same.

    Args:
        workdir: of the run.
        given: a tree of host arrays.
    """
    if jax.process_index() == 0:
        (workdir / _GIVEN).write_text(json.dumps(_digests(given), indent=1, sort_keys=True))


def check_given(workdir: pathlib.Path, given: Any) -> None:
    """Compares arrays that are read again with those that the run began with.

    Raises:
        RunError: one is another; of a run of an earlier version nothing is known.
    """
    file = workdir / _GIVEN
    if not file.exists():
        return
    before = json.loads(file.read_text())
    for path, digest in _digests(given).items():
        if before.get(path, digest) != digest:
            raise RunError(
                f'what {workdir} read for its parts that never change is another now ({path}): put back the file or '
                'the run that it began with, or use another --workdir.'
            )


def _digests(tree: Any) -> dict[str, str]:
    return {
        path: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for path, array in by_path(tree).items()
    }


def _lock(file: Any, workdir: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise RunError(
            f'another run is using {workdir} ({file.read().strip() or "its process is not known"}): wait for its end, '
            'stop it, or use another --workdir.'
        ) from None
    except OSError:  # the file system has no locks
        return
    file.truncate(0)
    file.write(f'host {socket.gethostname()}, pid {os.getpid()}\n')
    file.flush()


def _has_checkpoint(workdir: pathlib.Path) -> bool:
    return bool(_steps(workdir, 'checkpoints') or _steps(workdir, 'best'))


def _steps(workdir: pathlib.Path, kind: str) -> list[int]:
    # Orbax gives a checkpoint its number for a name when it is finished.
    return [int(path.name) for path in (workdir / kind).glob('*') if path.name.isdigit()]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config, default=str))


def _flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
    """Returns the leaves of a config by their keys; a list of plain values is one leaf."""
    if isinstance(tree, dict):
        parts = [_flatten(value, f'{prefix}.{key}' if prefix else key) for key, value in tree.items()]
    elif isinstance(tree, list) and any(isinstance(item, (dict, list)) for item in tree):
        parts = [_flatten(item, f'{prefix}[{index}]') for index, item in enumerate(tree)]
    else:
        return {prefix: tree}
    return {key: value for part in parts for key, value in part.items()}


def _is_reading(key: str) -> bool:
    """Whether a key says where the data of a data set lie or how they are read."""
    return re.split(r'[.\[]', key)[-1] in _READING


def _below(key: str, prefixes: Iterable[str]) -> bool:
    return any(f'{key}.'.startswith(f'{prefix}.') for prefix in prefixes)
