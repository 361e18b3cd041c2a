"""Fashion-MNIST: 28x28 gray photographs of ten kinds of clothing.

Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017, https://arxiv.org/abs/1708.07747;
https://github.com/zalandoresearch/fashion-mnist, MIT. Name, version, splits, classes and features
are those of TFDS's builder of the same name, whose preparing needs TensorFlow; ours reads the four
idx files itself, from the first place that has them:
    1. `--manual_dir` of `python -m longview.data.prepare`, or DATA_DIR/downloads/manual;
    2. Debian's package dataset-fashion-mnist;
    3. the authors' server, checked against the SHA-256 that TFDS has on record.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pathlib
import urllib.request
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from longview.data.decoding import encode_png

DEBIAN = '/usr/share/datasets/fashion-mnist'
SERVER = 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com'
# File name (of NAME-ubyte.gz) and the SHA-256 of the authors' own file; Debian's differ in the gzip
# header alone.
FILES = {
    'train-images-idx3': '3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84',
    'train-labels-idx1': 'a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845',
    't10k-images-idx3': '346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073',
    't10k-labels-idx1': '67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5',
}
CLASSES = (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat',
    'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads a gzipped idx file of bytes: 0, 0, 8, the number of axes, their lengths as big-endian
    uint32, the bytes.

    Raises:
        ValueError: it is something else, or cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (EOFError, OSError) as error:
        raise ValueError(f'{path} is not a whole gzip file ({error}); fetch it again.') from error
    if len(raw) < 4 or raw[:3] != b'\0\0\x08':
        raise ValueError(f'{path} does not begin as an idx file of bytes (0, 0, 8) but with {raw[:3]!r}.')
    shape = np.frombuffer(raw, '>u4', raw[3], offset=4).astype(int)
    start = 4 + 4 * raw[3]
    if len(raw) - start != shape.prod():
        raise ValueError(f'{path} announces {shape.prod()} bytes and holds {len(raw) - start}; fetch it again.')
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def find_files(folders: tuple[str, ...], download_dir: str) -> pathlib.Path:
    """The first folder that holds all four files; `download_dir`, after a download, where none
    does.

    Raises:
        FileNotFoundError: they are nowhere, and the server cannot be reached.
    """
    for folder in map(pathlib.Path, (*folders, DEBIAN, download_dir)):
        if all((folder / f'{name}-ubyte.gz').exists() for name in FILES):
            return folder
    try:
        for name, digest in FILES.items():
            download(f'{SERVER}/{name}-ubyte.gz', pathlib.Path(download_dir) / f'{name}-ubyte.gz', digest)
    except OSError as error:
        raise FileNotFoundError(
            f'Fashion-MNIST is not on this machine and its server does not answer ({error}): run '
            '`apt-get install dataset-fashion-mnist`, or '
            '`python -m longview.data.prepare fashion_mnist --manual_dir=FOLDER` '
            f'with the folder that holds {", ".join(f"{name}-ubyte.gz" for name in FILES)}.'
        ) from error
    return pathlib.Path(download_dir)


def download(url: str, target: pathlib.Path, digest: str) -> None:
    """Fetches a file, and keeps it only if its SHA-256 is `digest`.

    Raises:
        OSError: it cannot be fetched, or is another file.
    """
    with urllib.request.urlopen(url, timeout=60) as answer:
        content = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise OSError(f'{url} has the SHA-256 {found}, not {digest}')
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(f'.{os.getpid()}')
    scratch.write_bytes(content)
    scratch.replace(target)


class FashionMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits `train` (60,000), `test` (10,000); `image` (28, 28, 1) uint8, `label` of 10."""

    VERSION = tfds.core.Version('3.0.1')
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'Put the four *-ubyte.gz files of Fashion-MNIST into this folder.'

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Zalando articles, 28x28 gray.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(28, 28, 1), encoding_format='png'),
                    'label': tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://github.com/zalandoresearch/fashion-mnist',
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        try:
            manual = (str(dl_manager.manual_dir),)
        except AssertionError:  # TFDS's way to say that the folder is empty or missing
            manual = ()
        folder = find_files(manual, str(dl_manager.download_dir / 'fashion_mnist'))
        return {
            'train': self._generate_examples(folder, 'train'),
            'test': self._generate_examples(folder, 't10k'),
        }

    def _generate_examples(self, folder: pathlib.Path, part: str) -> Iterator[tuple[int, dict]]:
        images = read_idx(folder / f'{part}-images-idx3-ubyte.gz')[..., None]
        labels = read_idx(folder / f'{part}-labels-idx1-ubyte.gz')
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {'image': encode_png(image), 'label': int(label)}
