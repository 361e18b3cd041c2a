"""Finds a data set on disk, and prepares it.

    python -m longview.data.prepare digits fashion_mnist --data_dir=DIR
    python -m longview.data.prepare imagenet2012 --data_dir=DIR --manual_dir=FOLDER_OF_THE_TWO_TAR_FILES

Ours are prepared on first use, too. For a data set of TensorFlow Datasets
(https://github.com/tensorflow/datasets, Apache-2) the second command must run where TensorFlow is
installed: most of its builders need it to prepare, none to be read. Files lie in TFDS's layout,
`DIR/name/version/*.array_record*`.

Preparing writes into a folder of its own and renames it when it is complete, so processes that
start together, also on a shared file system, each see either nothing or a whole data set; the last
ones throw their copy away.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import os
import pkgutil
import shutil
import sys
import tempfile

import tensorflow_datasets as tfds
from etils import epath

from longview import data

FORMAT = 'array_record'
_INFO = 'dataset_info.json'


class NotPreparedError(FileNotFoundError):
    """The data set exists, but not on this machine."""


def default_data_dir() -> str:
    """The folder named by TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return os.environ.get('TFDS_DATA_DIR', '') or os.path.expanduser('~/tensorflow_datasets')


def own_builder(name: str) -> type[tfds.core.GeneratorBasedBuilder] | None:
    """Our builder, by TFDS's rule (`my_set`: `longview.data.my_set:MySet`); None if not ours."""
    if not name.isidentifier() or importlib.util.find_spec(f'longview.data.{name}') is None:
        return None
    camel = ''.join(part.capitalize() for part in name.split('_'))
    return getattr(importlib.import_module(f'longview.data.{name}'), camel, None)


def open_dataset(name: str, data_dir: str | None = None, manual_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """A builder whose files are all there.

    Args:
        name: one of ours, which is prepared when missing, or any TFDS name, 'name/config' and
            'name:version' too.
        data_dir: the TFDS folder; None is `default_data_dir()`.
        manual_dir: see `prepare`.

    Raises:
        NotPreparedError: a data set that is not ours has not been prepared.
        FileNotFoundError: half prepared, or prepared in a format that needs TensorFlow.
        ValueError: no data set has this name.
    """
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
    """Writes a data set to `data_dir`, whole or not at all.

    Args:
        name: one of ours, or a TFDS name.
        data_dir: the TFDS folder.
        manual_dir: folder of the original files, for data sets that cannot be downloaded.

    Raises:
        ModuleNotFoundError: TFDS needs TensorFlow to prepare this one.
    """
    os.makedirs(data_dir, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f'.preparing-{name.replace("/", "-")}-', dir=data_dir)
    own = own_builder(name)
    try:
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
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
    ours = [module.name for module in pkgutil.iter_modules(data.__path__) if own_builder(module.name)]
    near = difflib.get_close_matches(name, ours + tfds.list_builders(with_community_datasets=False), n=1)
    hint = f'; did you mean {near[0]!r}?' if near else f'; ours are {", ".join(ours)}, the others are TFDS names.'
    return f'No data set is called {name!r}, and {data_dir} holds none of that name{hint}'


def main() -> None:
    """Prepares the named data sets, where they are missing, and prints where they are."""
    parser = argparse.ArgumentParser(description='Prepares data sets.')
    parser.add_argument('names', nargs='+')
    parser.add_argument('--data_dir', default=default_data_dir())
    parser.add_argument('--manual_dir', help='folder of the original files, where there are such')
    flags = parser.parse_args()
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
