"""The first training batch of a run as its network gets it, as one picture.

    python train.py --config configs/vig_s.py:fashion_mnist --show_batch

Crops, augmentations and mixed labels are those of step 0, number by number.
"""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from longview.methods.task import chain
from longview.runtime.mesh import batch_sharding, check_batch, make_mesh
from longview.runtime.metrics import strip
from longview.runtime.plan import Run, read_run
from longview.runtime.resolve import plain

# Pixels: the least side of an image, and the height of the line below it.
_SIDE, _LINE = 96, 14


def show_batch(config: Any, file: pathlib.Path) -> pathlib.Path:
    """Writes a picture of the first examples of a run's first batch; returns its file, whose folder is made.

    Args:
        config: the tree of a config file of a single run, as its ``get_config()`` returns it.
        file: such as ``batch.png``.

    Raises:
        ConfigError, ValueError, FileNotFoundError: as `train.train`, of what it builds; or the batch has no images.
    """
    if 'stages' in config:
        raise ValueError('the config has stages, and a batch of one run is wanted: show that of a run by itself.')
    run = read_run(plain(config))[0]
    picture = picture_of(first_batch(run), run.data.class_names)
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(file)
    return file


def first_batch(run: Run) -> dict[str, np.ndarray]:
    """Returns what the first step of a run computes its loss of: a batch after crops and batch transforms."""
    run.data.check()
    mesh = make_mesh(run.mesh)
    if not run.data.whole:
        check_batch(mesh, 'batch_size', run.batch_size)
    # The step's half of the run's key, as in methods/task.py:make_step.
    rng, _ = jax.random.split(jax.random.key(run.seed))
    batches = run.data.train(batch_sharding(mesh, run.data.whole, run.data.sequences), run.batch_size, run.seed)
    with jax.set_mesh(mesh), contextlib.closing(batches):
        return jax.device_get(jax.jit(chain(run.train_transforms))(next(batches), rng))


def picture_of(
    batch: Mapping[str, np.ndarray], classes: Sequence[str] | None = None, count: int = 32, across: int = 8
) -> np.ndarray:
    """Returns images of a batch beside each other with their labels below, uint8 (height, width, 3).

    Several images of an example, such as two views of it, stand below each other. Floats, which most networks get
    normalized, are stretched so that the least value of an image is black and the largest one white.

    Args:
        batch: columns by name; those of shape (B, H, W, 1) or (B, H, W, 3) are the images.
        classes: what the classes are called; None for their numbers.
        count: of the examples shown.
        across: examples in a row.

    Raises:
        ValueError: the batch has no images.
    """
    images = [array[:count] for array in batch.values() if array.ndim == 4 and array.shape[-1] in (1, 3)]
    if not images:
        shapes = ', '.join(f'{name} {array.shape}' for name, array in batch.items())
        raise ValueError(f'the batch has no images of one or three channels, but {shapes}: there is nothing to show.')
    cells = [
        _cell([each[n] for each in images], text) for n, text in enumerate(captions(batch, classes)[: len(images[0])])
    ]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % across)
    rows = [strip(np.stack(cells[n : n + across]), 'batch') for n in range(0, len(cells), across)]
    return np.concatenate(rows)


def captions(batch: Mapping[str, np.ndarray], classes: Sequence[str] | None = None) -> list[str]:
    """Returns what is said of each example: its class, the two largest shares of a mixed one, or its number."""
    called = lambda number: str(number) if classes is None else classes[number]
    if 'target' in batch and batch['target'].ndim == 2:
        return [_shares(row, called) for row in batch['target']]
    if 'label' in batch and batch['label'].ndim == 1:
        labels = batch['label']
        return [called(x) if labels.dtype.kind in 'iu' and x >= 0 else f'{x:g}' for x in labels]
    return [f'example {index}' for index in batch['index']]


def _shares(target: np.ndarray, called: Any) -> str:
    first, second = np.argsort(-target, kind='stable')[:2] if len(target) > 1 else (0, 0)
    share = target[first] / max(target[first] + target[second], 1e-12)
    # What label smoothing gives to all classes is no share of a mixture.
    mixed = target[second] > 1.01 * np.sort(target)[::-1][2:].max(initial=0) and share < 0.995 and first != second
    return f'{called(first)} {share:.2f}, {called(second)} {1 - share:.2f}' if mixed else called(first)


def _cell(images: Sequence[np.ndarray], text: str) -> np.ndarray:
    """Returns images of an example below each other, each in whole multiples of its pixels, and a line of text."""
    large = [_enlarged(_as_bytes(image)) for image in images]
    width = max(image.shape[1] for image in large)
    padded = [np.pad(image, ((0, 1), (0, width - image.shape[1]), (0, 0)), constant_values=255) for image in large]
    return np.concatenate([*padded, _line(text, width)])


def _as_bytes(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8:
        image = image.astype(np.float32)
        low, high = image.min(), image.max()
        image = np.round(255 * (image - low) / (high - low if high > low else 1)).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _enlarged(image: np.ndarray) -> np.ndarray:
    times = -(-_SIDE // min(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _line(text: str, width: int) -> np.ndarray:
    """Returns a text in black on white, cut where there is no place, (`_LINE`, width, 3)."""
    font = PIL.ImageFont.load_default(size=10)
    while font.getlength(text) > width:
        text = text[:-1]
    picture = PIL.Image.new('RGB', (width, _LINE), 'white')
    PIL.ImageDraw.Draw(picture).text((1, 1), text, fill='black', font=font)
    return np.asarray(picture)
