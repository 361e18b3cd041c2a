"""Names of published arrays, and their layout.

A family's map is a sequence of pairs (published name, our path) in which ``{i}`` stands for a number, written as its
format says: ``('blocks.{i}.mlp.fc1.weight', 'backbone/block{i:02d}/mlp/up/kernel')``. ``{i+1}`` is one more than that
number, for what is counted from 1. A path may stand in several pairs, for files of the authors, of timm and of Hugging
Face's transformers have different names; the first is the one that is written. A path that ends in ``:0``, ``:1``, ...
is a part of an array, of which all are joined along the last axis: queries, keys and values that the file has apart;
they are written so where no pair has the whole. A third element of a pair is the number of axes of size 1 that the
published array ends with and ours has not.

Layouts follow from names. A ``kernel`` is (out, in, *window) in PyTorch and (*window, in, out) here; arrays of JAX,
whose names have slashes, are as ours but for how axes are split (heads apart from their channels). Axes of size 1 count
for nothing. Batch statistics stand among the parameters in published files.

A pair whose path is empty, or ends in a slash, names what a network computes anew or has no use for though files hold
it: it is passed over, as are the numbers of batches beside batch statistics.
"""

import functools
import math
import re
from collections.abc import Collection, Sequence

import numpy as np

Names = Sequence[tuple[str, str] | tuple[str, str, int]]

# What training code, and the classes of Hugging Face's transformers, put before the names of a network's parameters.
_WRAPPERS = ('module', '_orig_mod', 'model', 'network', 'net', 'backbone', 'encoder', 'img', 'resnet')
_WRAPPERS += ('vit', 'deit', 'convnext', 'convnextv2', 'swinv2', 'pvt', 'pvt_v2', 'cvt', 'bit')
_WRAPPED = re.compile(f'(?:{"|".join(_WRAPPERS)})[./](.+)')

_SLOT = re.compile(r'\{(\w+)(\+1)?(?::([^}]*))?\}')
_PART = re.compile(r':[0-9]+$')


def translate(names: Names, name: str, side: int) -> str | None:
    """Returns the other side's name of `name`, which is on `side` of the map; None where the map has it not."""
    for pair in names:
        numbers = _numbers(pair[side], name)
        if numbers is not None:
            return _SLOT.sub(lambda slot: format(numbers[slot[1]] + bool(slot[2]), slot[3] or ''), pair[1 - side])
    return None


def our_path(names: Names, name: str) -> str | None:
    """Returns our path of a published name, '' for what is passed over; what was put before it is taken off.

    A name that the map has is taken as it is; else as much is taken off as makes it one that the map has.
    """
    while True:
        path = '' if _is_counter(names, name) else translate(names, name, 0)
        wrapped = _WRAPPED.fullmatch(name)
        if path is not None or wrapped is None:
            return '' if path is not None and path.rpartition('/')[2] == '' else path
        name = wrapped[1]


def whole(path: str) -> str:
    """Returns the path of the array that `path` is a part of, or of itself."""
    return _PART.sub('', path)


def places(names: Names, path: str, found: Collection[str]) -> list[str]:
    """Returns the paths to make an array of: its own where it was found whole, or else those of its parts in order."""
    if path in found:
        return [path]
    parts = _parts(names, path)
    return parts if any(part in found for part in parts) else [path]


def _parts(names: Names, path: str) -> list[str]:
    """Returns the paths of the parts that a map tells of an array."""
    parts: list[str] = []
    while translate(names, f'{path}:{len(parts)}', 1) is not None:
        parts.append(f'{path}:{len(parts)}')
    return parts


def published(names: Names, path: str) -> dict[str, str]:
    """Returns the published name of an array by its path, or those of its parts in order where it has none whole."""
    name = translate(names, path, 1)
    found = [path] if name is not None else _parts(names, path)
    return {place: translate(names, place, 1) for place in found}


def to_ours(name: str, path: str, pieces: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Returns a published array in our layout.

    Args:
        name: its published name, or that of the first of its parts.
        path: ours, of the whole.
        pieces: the array, or all of its parts.
        shape: the shape that is wanted; the result may have another.
    """
    if len(pieces) == 1:
        return _laid_out(name, path, pieces[0], tuple(shape))
    wanted = (*shape[:-1], shape[-1] // len(pieces))
    return np.concatenate([_laid_out(name, path, piece, wanted) for piece in pieces], axis=-1)


def _laid_out(name: str, path: str, array: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    of_jax = '/' in name
    if is_kernel(path) and array.ndim > 1 and not of_jax:
        array = np.moveaxis(array, (0, 1), (-1, -2))
    same = array.size == math.prod(wanted) if of_jax else _sides(array.shape) == _sides(wanted)
    return array.reshape(wanted) if same else array


def _sides(shape: Sequence[int]) -> list[int]:
    return [side for side in shape if side != 1]


def to_torch(names: Names, path: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of ours in the layout of PyTorch, as the first pair that has `path` says."""
    pair = next(pair for pair in names if _numbers(pair[1], path) is not None)
    array = np.moveaxis(array, (-1, -2), (0, 1)) if is_kernel(whole(path)) else array
    return array.reshape(array.shape + (1,) * (pair[2] if len(pair) > 2 else 0))


def is_kernel(path: str) -> bool:
    """Whether a parameter multiplies activations."""
    return path.rsplit('/', 1)[-1] == 'kernel'


def _is_counter(names: Names, name: str) -> bool:
    """Whether torch counts something in an array: batches beside batch statistics, or models that are averaged."""
    if name.rpartition('.')[2] == 'num_batches_tracked':
        return translate(names, name.removesuffix('num_batches_tracked') + 'running_mean', 0) is not None
    return name == 'n_averaged'


def _numbers(pattern: str, name: str) -> dict[str, int] | None:
    """Returns the numbers that `name` has in the slots of a map's `pattern`; None where it does not match.

    A slot that stands in the pattern twice must have the same number in both places.
    """
    text, slots, more = _compiled(pattern)
    match = text.fullmatch(name)
    found = [(slot, int(value) - one) for slot, one, value in zip(slots, more, match.groups())] if match else None
    return None if found is None or len(set(found)) > len(set(slots)) else dict(found)


@functools.cache
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[str, ...], tuple[bool, ...]]:
    """Returns the regular expression of a map's pattern, the slots of its groups, and which are one more."""
    fixed, slots, more = (_SLOT.split(pattern)[first::4] for first in range(3))
    return re.compile('([0-9]+)'.join(map(re.escape, fixed))), tuple(slots), tuple(map(bool, more))
