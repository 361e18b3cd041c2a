"""Facts about published weights: where they are, their licence, and how images are prepared for them.

published.tsv has one row for each variant with a published file that is read here. The file is the authors' own or
timm's copy of it, of several the one whose training is nearest to the paper's. Facts are from ``pretrained_cfg`` and
results/results-imagenet.csv of timm (https://github.com/huggingface/pytorch-image-models, Apache-2.0, release 1.0.31)
and, for networks that timm has not, from the authors' pages and evaluation code. Three could not be read there and are
assumed: the crop of PVT v1 is that of DeiT, CvT's interpolation is bicubic, and CvT-W24 sees the whole image, squashed.
Licences are as stated there, and are those of the weights; Mamba's copies for transformers have that of the originals.

imagenet1k.tsv has the synsets of ImageNet-1k (Russakovsky et al., 2015, https://arxiv.org/abs/1409.0575) in the order
of their numbers, sorted, as everybody counts them, and the first word of each in WordNet 3.0
(https://wordnet.princeton.edu, Princeton University, 2006); two words that occur twice say in brackets which is which.
"""

import csv
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from longview.modelzoo import features as ft
from longview.modelzoo.weight_files import from_hub, locate
from longview.modelzoo.weights import Pretrained

# In the place of a file: the weights that the table names.
PUBLISHED = 'published'

_FOLDER = pathlib.Path(__file__).parent


class Preprocessing(NamedTuple):
    """How an image becomes what a network reads; the default is what most networks of ImageNet are evaluated with.

    Attributes:
        size: height and width of the finished image in pixels.
        fraction: of the resized image's side that the central crop keeps, at most 1.
        mode: ``center`` resizes the shorter side and keeps the image's shape, ``squash`` resizes both sides alike.
        interpolation: ``bicubic`` or ``bilinear``, with antialiasing as Pillow has it.
        mean: of each color, in units of the whole range; one number serves all.
        std: standard deviation, likewise.
    """

    size: int = 224
    fraction: float = 0.875
    mode: str = 'center'
    interpolation: str = 'bicubic'
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


class Weights(NamedTuple):
    """A published file of weights.

    Attributes:
        variant: the network's name in the zoo.
        source: ``owner/name`` on the Hugging Face hub, or a page to download from.
        file: its name there, where it is none of those that `weight_files.locate` finds by itself; else empty.
        licence: of the weights, by its SPDX name in small letters; ``not stated`` where nobody says it.
        classes: number of logits, 0 for weights without a classifier, None for a language model.
        top1: ImageNet-1k accuracy in percent with this preprocessing; None where it is not told.
        preprocessing: None for a network that reads no images.
    """

    variant: str
    source: str
    file: str
    licence: str
    classes: int | None
    top1: float | None
    preprocessing: Preprocessing | None


class ImagePretrained(Pretrained):
    """`Pretrained` whose weights are for normalized images, and which refuses pixels that are not."""

    def __call__(self, *columns: Array, train: bool = False) -> ft.Features:
        """See `Classifier`.

        Raises:
            ValueError: the images are integers.
        """
        refuse_pixels(columns[0])
        return super().__call__(*columns, train=train)


def refuse_pixels(image: Array) -> None:
    """Raises ValueError for integers in place of normalized images."""
    if jnp.issubdtype(image.dtype, jnp.integer):
        raise ValueError(
            f'the images are {image.dtype}, pixels as they are stored, and published weights are for normalized ones: '
            'use longview.load(...).preprocess, or subtract the mean and divide by the deviation before.'
        )


@functools.cache
def table() -> Mapping[str, Weights]:
    """Returns the published files by variant, in the order of the zoo."""
    with (_FOLDER / 'published.tsv').open(newline='') as file:
        rows = [_row(**row) for row in csv.DictReader(file, delimiter='\t')]
    return {row.variant: row for row in rows}


def preprocessing(variant: str, field: str) -> Any:
    """Returns a field of a variant's `Preprocessing`, for configs; the usual value for a variant without a row."""
    row = table().get(variant)
    return getattr(row.preprocessing if row is not None and row.preprocessing else Preprocessing(), field)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Returns the names of the 1000 classes of ImageNet-1k, in the order of their numbers."""
    with (_FOLDER / 'imagenet1k.tsv').open(newline='') as file:
        return tuple(row['name'] for row in csv.DictReader(file, delimiter='\t'))


def fetch(variant: str) -> pathlib.Path:
    """Returns the published file of a variant, and downloads it if necessary.

    Raises:
        FileNotFoundError: there is none, the hub does not give it, or it lies where it cannot be fetched from.
        ImportError: huggingface_hub is needed and not installed.
    """
    row = table().get(variant)
    if row is None:
        raise FileNotFoundError(
            f'no published weights of {variant!r} are known: give a file, or take a variant that '
            'modelzoo/published.tsv has.'
        )
    if '://' in row.source:
        raise FileNotFoundError(
            f'the weights of {variant} are no file of the hub: download {row.source} and give the file as weights.'
        )
    if not row.file:
        return locate(row.source)
    return from_hub(row.file, row.source, lambda hub: hub.hf_hub_download(row.source, row.file))


def _row(
    *, variant: str, source: str, file: str, licence: str, classes: str, top1: str, size: str, **image: str
) -> Weights:
    numbers = lambda text: tuple(map(float, text.split()))
    preprocessing = None
    if size:
        preprocessing = Preprocessing(
            int(size),
            float(image['fraction']),
            image['mode'],
            image['interpolation'],
            numbers(image['mean']),
            numbers(image['std']),
        )
    number = int(classes) if classes else None
    return Weights(variant, source, file, licence, number, float(top1) if top1 else None, preprocessing)
