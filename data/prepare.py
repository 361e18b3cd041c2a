"""Finds a data set on disk, and prepares ours where it is missing.

    python -m data.prepare digits fashion_mnist --data_dir=DIR

TFDS layout (`DIR/name/version/*.array_record*`), TensorFlow Datasets,
https://github.com/tensorflow/datasets, Apache-2. Preparing writes into a folder of its own and
renames it when it is complete, so processes that start together, also on a shared file system, each
see either nothing or a whole data set; the last ones throw their copy away.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import os
import pkgutil
import shutil
import tempfile

from etils import epath
import tensorflow_datasets as tfds

import data

FORMAT = 'array_record'
_INFO = 'dataset_info.json'


def default_data_dir() -> str:
    """The folder named by TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return os.environ.get('TFDS_DATA_DIR', '') or os.path.expanduser('~/tensorflow_datasets')


def own_builder(name: str) -> type[tfds.core.GeneratorBasedBuilder] | None:
    """Our builder of that name, by TFDS's rule (`my_set`: `data.my_set:MySet`); None if not ours."""
    if not name.isidentifier() or importlib.util.find_spec(f'data.{name}') is None:
        return None
    camel = ''.join(part.capitalize() for part in name.split('_'))
    return getattr(importlib.import_module(f'data.{name}'), camel, None)


def open_dataset(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """A builder whose files are all there.

    Args:
        name: one of ours, which is prepared when missing, or any TFDS name, 'name/config' and
            'name:version' too.
        data_dir: the TFDS folder; None is `default_data_dir()`.

    Raises:
        FileNotFoundError: not prepared, half prepared, or prepared in a format that needs
            TensorFlow.
        ValueError: no data set has this name.
    """
    data_dir = os.path.expanduser(data_dir) if data_dir else default_data_dir()
    own = own_builder(name)
    if own is not None:
        folder = epath.Path(data_dir) / name / str(own.VERSION)
        if not folder.exists():
            prepare(own, data_dir)
        if not (folder / _INFO).exists():
            raise FileNotFoundError(_half(name, folder, _INFO))
        builder = tfds.builder_from_directory(folder)
    else:
        builder = _tfds_builder(name, data_dir)
    _refuse_incomplete(builder, name)
    return builder


def _tfds_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    plain = name.split('/')[0].split(':')[0]
    if (
        plain not in tfds.list_builders(with_community_datasets=False)
        and not (epath.Path(data_dir) / plain).exists()
    ):
        raise ValueError(_unknown(name, data_dir))
    builder = tfds.builder(name, data_dir=data_dir)
    folder = epath.Path(builder.data_dir)
    if (folder / _INFO).exists():
        return builder
    if folder.exists() and any(folder.iterdir()):
        raise FileNotFoundError(_half(name, folder, _INFO))
    raise FileNotFoundError(
        f'The data set {name!r} is not prepared in {data_dir}: run '
        f'`tfds build {name} --file_format={FORMAT} --data_dir={data_dir}` where TensorFlow is '
        'installed (it is needed to prepare, not to read), or set data_dir to where it is.'
    )


def prepare(
    own: type[tfds.core.GeneratorBasedBuilder], data_dir: str, manual_dir: str | None = None
) -> None:
    """Writes one of our data sets to `data_dir`, whole or not at all."""
    os.makedirs(data_dir, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f'.preparing-{own.name}-', dir=data_dir)
    try:
        builder = own(data_dir=scratch, file_format=FORMAT)
        builder.download_and_prepare(
            download_dir=os.path.join(data_dir, 'downloads'),
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
        )
        target = epath.Path(data_dir) / own.name / str(own.VERSION)
        target.parent.mkdir(parents=True, exist_ok=True)
        _rename_unless_there(builder.data_dir, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rename_unless_there(source: str, target: epath.Path) -> None:
    try:
        os.rename(source, target)
    except OSError:  # the folder exists and is not empty: another process was first
        if not (target / _INFO).exists():
            raise


def _refuse_incomplete(builder: tfds.core.DatasetBuilder, name: str) -> None:
    folder, stored = builder.data_dir, builder.info.file_format.value
    if stored != FORMAT:
        raise FileNotFoundError(
            f'The data set {name!r} in {folder} is stored as {stored}, which cannot be read by '
            f'index: run `tfds convert_format --dataset_dir={folder} '
            f'--out_file_format={FORMAT}` where TensorFlow is installed, and start again.'
        )
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if not path.exists():
                raise FileNotFoundError(_half(name, folder, path.name))


def _half(name: str, folder: epath.PathLike, file: str) -> str:
    return (
        f'The data set {name!r} is half prepared: {file} is missing in {folder}; '
        'delete that folder and prepare it again.'
    )


def _unknown(name: str, data_dir: str) -> str:
    ours = [
        module.name for module in pkgutil.iter_modules(data.__path__) if own_builder(module.name)
    ]
    near = difflib.get_close_matches(
        name, ours + tfds.list_builders(with_community_datasets=False), n=1
    )
    hint = (
        f'; did you mean {near[0]!r}?'
        if near
        else f'; ours are {", ".join(ours)}, the others are TFDS names.'
    )
    return f'No data set is called {name!r}, and {data_dir} holds none of that name{hint}'


def main() -> None:
    """Prepares the named data sets of ours and prints where they are."""
    parser = argparse.ArgumentParser(description='Prepares our data sets.')
    parser.add_argument('names', nargs='+')
    parser.add_argument('--data_dir', default=default_data_dir())
    parser.add_argument(
        '--manual_dir', help='folder with the original files, where a data set has such'
    )
    flags = parser.parse_args()
    for name in flags.names:
        own = own_builder(name)
        if own is not None and not (epath.Path(flags.data_dir) / name / str(own.VERSION)).exists():
            prepare(own, flags.data_dir, flags.manual_dir)
        print(open_dataset(name, flags.data_dir).data_dir)


if __name__ == '__main__':
    main()
