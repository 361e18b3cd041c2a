"""Finds a data set on disk, and prepares it.

    python -m longview.data.prepare digits fashion_mnist --data_dir=DIR
    python -m longview.data.prepare imagenet2012 --data_dir=DIR --manual_dir=FOLDER_OF_THE_TWO_TAR_FILES

Ours are prepared on first use, too. For a data set of TensorFlow Datasets
(https://github.com/tensorflow/datasets, Apache-2) the second command must run where TensorFlow is
installed: most of its builders need it to prepare, none to be read. Files lie in TFDS's layout,
`DIR/name/version/*.array_record*`.

Preparing writes into a folder of its own and renames it when it is complete, so processes that
start together, also on a shared file system, each see either nothing or a whole data set; the last
ones throw their copy away. That folder is removed whatever ends the preparation, SIGTERM too; what a
killed process or a crashed machine leaves is removed by the first preparation a day later.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fcntl
import importlib
import importlib.util
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TextIO

import tensorflow_datasets as tfds
from etils import epath

from longview import data
from longview.data.folder import ImageFolder, is_path
from longview.data.huggingface import HuggingFace, is_saved
from longview.data.indexed import Indexed
from longview.data.table import ImageTable

FORMAT = 'array_record'
_INFO = 'dataset_info.json'
_SCRATCH = '.preparing-'
_LOCK = '.lock'  # in a scratch folder, held by the process that fills it
_STALE = 24 * 3600  # seconds


class NotPreparedError(FileNotFoundError):
    """The data set exists, but not on this machine."""


def default_data_dir() -> str:
    """The folder named by TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return os.path.expanduser(os.environ.get('TFDS_DATA_DIR', '') or '~/tensorflow_datasets')


def own_builder(name: str) -> type[tfds.core.GeneratorBasedBuilder] | None:
    """Our builder, by TFDS's rule (`my_set`: `longview.data.my_set:MySet`); None if not ours."""
    if not name.isidentifier() or importlib.util.find_spec(f'longview.data.{name}') is None:
        return None
    camel = ''.join(part.capitalize() for part in name.split('_'))
    found = getattr(importlib.import_module(f'longview.data.{name}'), camel, None)
    return found if isinstance(found, type) and issubclass(found, tfds.core.GeneratorBasedBuilder) else None


def open_dataset(
    name: str, data_dir: str | None = None, manual_dir: str | None = None
) -> tfds.core.DatasetBuilder | Indexed:
    """Returns a builder whose files are complete.

    Args:
        name: one of ours, which is prepared when missing, any TFDS name, 'name/config' and
            'name:version' too, or the path of a folder of images (data/folder.py), of a CSV (data/table.py) or of
            what Hugging Face's `datasets` has saved (data/huggingface.py).
        data_dir: the TFDS folder; None is `default_data_dir()`.
        manual_dir: see `prepare`.

    Raises:
        NotPreparedError: a data set that is not ours has not been prepared.
        FileNotFoundError: half prepared, or prepared in a format that needs TensorFlow.
        ValueError: no data set has this name.
    """
    if is_path(name):
        return _at(name)
    data_dir = os.path.expanduser(data_dir) if data_dir else default_data_dir()
    own = own_builder(name)
    if own is not None:
        folder = epath.Path(data_dir) / name / str(own.VERSION)
        if not folder.exists():
            prepare(name, data_dir, manual_dir)
        if not (folder / _INFO).exists():
            raise FileNotFoundError(_half(name, folder, _INFO))
        builder = tfds.builder_from_directory(folder)
    else:
        builder = _tfds_builder(name, data_dir)
    _refuse_incomplete(builder, name)
    return builder


def _at(path: str) -> Indexed:
    """The data set that lies at a path, by what lies there."""
    if path.endswith('.csv'):
        return ImageTable(path)
    return HuggingFace(path) if is_saved(path) else ImageFolder(path)


def _tfds_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    plain = name.split('/')[0].split(':')[0]
    if plain not in tfds.list_builders(with_community_datasets=False) and not (epath.Path(data_dir) / plain).exists():
        raise ValueError(_unknown(name, data_dir))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ModuleNotFoundError):  # TFDS asks TF for its cloud
        raise ValueError(_unknown(name, data_dir)) from None
    folder = epath.Path(builder.data_dir)
    if (folder / _INFO).exists():
        return builder
    if folder.exists() and any(folder.iterdir()):
        raise FileNotFoundError(_half(name, folder, _INFO))
    manual = ' --manual_dir=FOLDER' if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ''
    raise NotPreparedError(
        f'The data set {name!r} is not prepared in {data_dir}: run '
        f'`python -m longview.data.prepare {name} --data_dir={data_dir}{manual}` where TensorFlow is '
        'installed (it is needed to prepare, not to read), or set data_dir to where it is.'
    )


def prepare(name: str, data_dir: str, manual_dir: str | None = None) -> None:
    """Writes a data set to `data_dir`, completely or not at all.

    Args:
        name: one of ours, or a TFDS name.
        data_dir: the TFDS folder.
        manual_dir: folder of the original files, for data sets that cannot be downloaded.

    Raises:
        ModuleNotFoundError: TFDS needs TensorFlow to prepare this one.
    """
    data_dir = os.path.expanduser(data_dir)
    manual_dir = os.path.expanduser(manual_dir) if manual_dir else None
    own = own_builder(name)
    try:
        with _scratch(name, data_dir) as scratch:
            if own is not None:
                builder = own(data_dir=scratch, file_format=FORMAT)
            else:
                builder = tfds.builder(name, data_dir=scratch, file_format=FORMAT)
            builder.download_and_prepare(
                download_dir=os.path.join(data_dir, 'downloads'),
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
            )
            target = epath.Path(data_dir) / os.path.relpath(builder.data_dir, scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            _rename_unless_there(builder.data_dir, target)
    except ModuleNotFoundError as error:
        if error.name != 'tensorflow':
            raise
        raise ModuleNotFoundError(
            f'Preparing {name!r} needs TensorFlow (reading does not): `pip install tensorflow-cpu` '
            'in an environment of its own, and run this there.',
            name='tensorflow',
        ) from error


@contextlib.contextmanager
def _scratch(name: str, data_dir: str) -> Iterator[str]:
    """A folder to prepare in, locked while it is in use and removed afterwards; first removes what others left."""
    os.makedirs(data_dir, exist_ok=True)
    _remove_stale(data_dir)
    folder = tempfile.mkdtemp(prefix=f'{_SCRATCH}{name.replace("/", "-")}-', dir=data_dir)
    try:
        with open(os.path.join(folder, _LOCK), 'w') as lock:
            _try_lock(lock)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(data_dir: str) -> None:
    """Removes scratch folders that no process has locked or written into for a day."""
    for entry in os.scandir(data_dir):
        if entry.name.startswith(_SCRATCH) and time.time() - _last_written(entry.path) > _STALE:
            if _is_free(entry.path):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_free(folder: str) -> bool:
    """Whether a scratch folder is ours to write, and locked by nobody."""
    try:
        with open(os.path.join(folder, _LOCK), 'a') as lock:
            return _try_lock(lock)
    except OSError:
        return False


def _last_written(folder: str) -> float:
    """Time of the last change in a folder, in seconds; now, while others remove it."""
    paths = [os.path.join(path, name) for path, _, files in os.walk(folder) for name in ('.', *files)]
    try:
        return max((os.stat(path).st_mtime for path in paths), default=time.time())
    except OSError:
        return time.time()


def _try_lock(file: TextIO) -> bool:
    """Locks a file until it is closed or the process ends; False if another process has, or locks are not to be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _rename_unless_there(source: str, target: epath.Path) -> None:
    try:
        os.rename(source, target)
    except OSError:  # the folder exists and is not empty: another process was first
        if not (target / _INFO).exists():
            raise


def _refuse_incomplete(builder: tfds.core.DatasetBuilder, name: str) -> None:
    folder, info = builder.data_dir, builder.info
    if FORMAT not in {stored.value for stored in info.available_file_formats()}:
        raise FileNotFoundError(
            f'The data set {name!r} in {folder} is stored as {info.file_format.value}, which '
            f'cannot be read by index: run `python -m longview.data.prepare {name} --data_dir=OTHER` where '
            'TensorFlow is installed, and set data_dir to that folder.'
        )
    info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    for split in info.splits.values():
        for path in split.filepaths:
            if not path.exists():
                raise FileNotFoundError(_half(name, folder, path.name))


def _half(name: str, folder: epath.PathLike, file: str) -> str:
    return (
        f'The data set {name!r} is half prepared: {file} is missing in {folder}; '
        'delete that folder and prepare it again.'
    )


def _unknown(name: str, data_dir: str) -> str:
    if os.path.isdir(name):
        return f'No data set is called {name!r}; if the folder of that name here is meant, write {"./" + name!r}.'
    ours = [module.name for module in pkgutil.iter_modules(data.__path__) if own_builder(module.name)]
    near = difflib.get_close_matches(name, ours + tfds.list_builders(with_community_datasets=False), n=1)
    hint = f'; did you mean {near[0]!r}?' if near else f'; ours are {", ".join(ours)}, the others are TFDS names.'
    return f'No data set is called {name!r}, and {data_dir} holds none of that name{hint}'


def main() -> None:
    """Prepares the named data sets if they are missing, and prints where they are."""
    parser = argparse.ArgumentParser(description='Prepares data sets.')
    parser.add_argument('names', nargs='+')
    parser.add_argument('--data_dir', default=default_data_dir())
    parser.add_argument('--manual_dir', help='folder of the original files, where there are such')
    flags = parser.parse_args()
    # As an exception SIGTERM runs what cleans up; 128 + its number is the status that a shell gives.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    for name in flags.names:
        try:
            print(_find_or_prepare(name, flags.data_dir, flags.manual_dir))
        except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
            sys.exit(str(error))


def _find_or_prepare(name: str, data_dir: str, manual_dir: str | None) -> str:
    try:
        return open_dataset(name, data_dir, manual_dir).data_dir
    except NotPreparedError:
        prepare(name, data_dir, manual_dir)
        return open_dataset(name, data_dir).data_dir


if __name__ == '__main__':
    main()
