"""A TFDS folder for the tests of one process, with small sets that are odd or broken on purpose."""

import atexit
import functools
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from longview.data.fake_imagenet import FakeImagenet
from longview.data.prepare import FORMAT

GARBAGE = 2


class Broken(FakeImagenet, skip_registration=True):
    """fake_imagenet whose third image is no image."""

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for index, example in super()._generate_examples(split):
            yield index, example | ({'image': b'no image'} if index == GARBAGE else {})


class Unlabelled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Text, which `Images` cannot serve."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({'text': tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {'train': self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        yield 0, {'text': 'nothing to see'}


@functools.cache
def data_dir() -> str:
    """Made on first use, removed when the process ends."""
    folder = tempfile.mkdtemp(prefix='longview-data-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def with_broken_sets() -> str:
    """`data_dir()`, where 'broken' and 'unlabelled' have been prepared too."""
    for builder in (Broken, Unlabelled):
        builder(data_dir=data_dir(), file_format=FORMAT).download_and_prepare()
    return data_dir()


def image_set(name: str, image: Any, label: Any, examples: list[tuple[Any, Any]]) -> str:
    """Prepares a set in `data_dir()` whose splits `train` and `test` both hold `examples`; returns its name."""
    features = tfds.features.FeaturesDict({'image': image, 'label': label})
    rows = [{'image': pixels, 'label': number} for pixels, number in examples]
    members = {
        'VERSION': tfds.core.Version('1.0.0'),
        '__module__': __name__,
        'name': name,
        '_info': lambda self: tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True),
        '_split_generators': lambda self, downloads: {s: self._generate_examples() for s in ('train', 'test')},
        '_generate_examples': lambda self: iter(enumerate(rows)),
    }
    kind = type(name, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    kind(data_dir=data_dir(), file_format=FORMAT).download_and_prepare()
    return name


def files(folder: str) -> list[str]:
    """Every file below a folder."""
    return sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob('*') if p.is_file())
