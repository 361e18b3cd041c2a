"""Published weights in and out, by a family's name map.

A map is a sequence of pairs (published name, our path) in which ``{i}`` stands for a number, written as its format
says: ``('blocks.{i}.mlp.fc1.weight', 'backbone/block{i:02d}/mlp/up/kernel')``. Layouts follow from our names: a
``kernel`` is (out, in, *window) in PyTorch and (*window, in, out) here, anything else is the same in both. A third
element of a pair is the number of axes of size 1 that the published array ends with and ours has not.
Batch statistics stand among the parameters in published files: `merge` and `separate` bring ours there and back.
A pair whose path is empty, or ends in a slash, names what a network computes anew though torch stores it: it is passed
over, as are the numbers of batches beside batch statistics, and torch does without it.

`load` and `save` do all of it for a classifier, `Pretrained` is one that starts from a file. Position tables of
another image size are resized by the family's ``RESIZE`` (class name to a function of backbone, path and table), as
its reference resizes them; they are the parameters that are called ``pos_embed``.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from longview.modelzoo import weight_files
from longview.modelzoo.features import Backbone, SequenceBackbone
from longview.modelzoo.heads import Classifier, LanguageHead, Linear, Loaded, filled

Names = Sequence[tuple[str, str] | tuple[str, str, int]]

_SLOT = re.compile(r'\{(\w+)(?::[^}]*)?\}')
_HEAD = 'head'


class Pretrained(Loaded):
    """A classifier whose first variables are published weights; all else is as in `Classifier`.

    Attributes:
        file: the weights; see `weight_files.read`.
        new_head: whether the head starts anew.
    """

    file: str = ''
    new_head: bool = False

    @nn.nowrap
    def load(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return read(self, like, self.file, new_head=self.new_head)


def pretrained(backbone: Backbone, num_classes: int | None, file: str | os.PathLike) -> Pretrained:
    """Returns a classifier that starts from a file.

    Args:
        backbone: of a family of the zoo.
        num_classes: with another number than the file has, or where it has no head, the head starts anew; None for
            the file's.
        file: see `weight_files.read`.
    """
    shapes, names = weight_files.shapes(file), _names(backbone)
    ours = {name: _translate(names, name, 0) or '' for name in shapes}
    biases = [shapes[name][0] for name, path in ours.items() if re.fullmatch(f'{_HEAD}/(.*/)?bias', path)]
    published = biases[0] if biases else None
    # Without a number and without a head there is nothing to start anew: `load` will say what is missing.
    head = head_of(backbone, num_classes or published)
    return Pretrained(backbone, head, os.fspath(file), num_classes is not None and num_classes != published)


def head_of(backbone: Backbone, num_classes: int | None) -> nn.Module:
    """Returns the head that a network is published with.

    Args:
        backbone: of a family of the zoo.
        num_classes: number of logits; None for 1000 or, of a network that reads words, a language model's head.
    """
    if num_classes is None and isinstance(backbone, SequenceBackbone) and backbone.vocabulary:
        return LanguageHead(backbone.vocabulary)
    head = getattr(_family(backbone), 'HEADS', {}).get(type(backbone).__name__, Linear)
    return head(1000 if num_classes is None else num_classes)


def load(
    model: Classifier,
    variables: Mapping[str, Any],
    source: str | os.PathLike | Mapping[str, np.ndarray],
    *,
    new_head: bool = False,
) -> dict[str, Any]:
    """Returns published weights in place of `variables`.

    Args:
        model: a backbone of the zoo with its head.
        variables: from ``model.init``, or only their shapes.
        source: a file, see `weight_files.read`, or arrays by published name.
        new_head: keep the head that `variables` have, whatever the source has.

    Raises:
        ValueError: names missing, left over, or of another shape, all listed.
    """
    return filled(variables, read(model, variables, source, new_head=new_head))


def read(
    model: Classifier,
    like: Mapping[str, Any],
    source: str | os.PathLike | Mapping[str, np.ndarray],
    *,
    new_head: bool = False,
) -> dict[str, Any]:
    """Returns published weights as host arrays: `load` without what `like` has and they have not, a new head."""
    wanted, names = merge(like), _names(model.backbone)
    arrays = source if isinstance(source, Mapping) else weight_files.read(source)
    if new_head:
        wanted.pop(_HEAD, None)
        arrays = {
            name: array
            for name, array in arrays.items()
            if not (_translate(names, name, 0) or '').startswith(f'{_HEAD}/')
        }
    resize = getattr(_family(model.backbone), 'RESIZE', {}).get(type(model.backbone).__name__)
    resize = None if resize is None else functools.partial(resize, model.backbone)
    merged = load_published(names, wanted, arrays, resize=resize)
    parts = {kind: {part: tree[part] for part in tree if part in merged} for kind, tree in like.items()}
    return separate(merged, parts)


def save(model: Classifier, variables: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes a classifier's variables under their published names as a .safetensors file."""
    save_published(_names(model.backbone), merge(variables), path)


def _family(backbone: Backbone) -> Any:
    return sys.modules[type(backbone).__module__]


def _names(backbone: Backbone) -> Names:
    return _family(backbone).NAMES[type(backbone).__name__]


def load_published(
    names: Names,
    params: Any,
    source: str | os.PathLike | Mapping[str, np.ndarray],
    *,
    resize: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> Any:
    """Returns published weights as a tree like `params`.

    Args:
        names: the family's map.
        params: arrays or their shapes (``jax.eval_shape``); says what is wanted, not changed.
        source: a file, see `weight_files.read`, or arrays by published name.
        resize: (our path, table) -> the table for the network's image size, for tables of another shape.

    Raises:
        ValueError: names missing, left over, or of another shape, all listed.
    """
    arrays = source if isinstance(source, Mapping) else weight_files.read(source)
    arrays = {name: array for name, array in arrays.items() if not _is_computed(names, name)}
    wanted = traverse_util.flatten_dict(params, sep='/')
    found = {ours: name for name in arrays if (ours := _translate(names, name, 0)) is not None}
    used = [arrays[name] for path, name in found.items() if path in wanted]
    extra = [name for name in arrays if _translate(names, name, 0) not in wanted and not _is_copy(arrays[name], used)]
    missing = [_translate(names, path, 1) or path for path in wanted if path not in found]
    _refuse(missing=missing, extra=extra)
    loaded = {path: _to_ours(path, np.asarray(arrays[found[path]]), _unit_axes(names, path)) for path in wanted}
    if resize is not None:
        loaded = {
            path: resize(path, array) if _is_table(path) and array.shape != tuple(wanted[path].shape) else array
            for path, array in loaded.items()
        }
    _refuse(
        misshapen=[
            f'{found[path]} ({loaded[path].shape}, not {like.shape})'
            for path, like in wanted.items()
            if loaded[path].shape != tuple(like.shape)
        ]
    )
    typed = {path: loaded[path].astype(wanted[path].dtype, copy=False) for path in wanted}
    return traverse_util.unflatten_dict(typed, sep='/')


def to_published(names: Names, params: Any) -> dict[str, np.ndarray]:
    """Returns `params` as arrays by published name, in PyTorch's layout; the inverse of `load_published`.

    Raises:
        ValueError: parameters that the map does not name, all listed.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    published = {path: _translate(names, path, 1) for path in flat}
    _refuse(extra=[path for path, name in published.items() if name is None])
    return {name: _to_torch(path, np.asarray(flat[path]), _unit_axes(names, path)) for path, name in published.items()}


def save_published(names: Names, params: Any, path: str | os.PathLike) -> None:
    """Writes `params` under their published names as a .safetensors file."""
    weight_files.write(path, to_published(names, params))


def merge(variables: Mapping[str, Any]) -> Any:
    """Returns the parameters and the batch statistics of a network as one tree; no path is in both."""
    flat = [traverse_util.flatten_dict(tree, sep='/') for tree in variables.values()]
    return traverse_util.unflatten_dict({path: leaf for tree in flat for path, leaf in tree.items()}, sep='/')


def separate(merged: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of `merged` in the collections in which `variables` has their paths."""
    flat = traverse_util.flatten_dict(merged)
    return {
        kind: jax.tree_util.tree_map_with_path(lambda path, _: flat[tuple(key.key for key in path)], tree)
        for kind, tree in variables.items()
    }


def _translate(names: Names, name: str, side: int) -> str | None:
    """Returns the other side's name of `name`, which is on `side` of the map; None where the map has it not."""
    for pair in names:
        numbers = _numbers(pair[side], name)
        if numbers is not None:
            return pair[1 - side].format(**numbers)
    return None


def _numbers(pattern: str, name: str) -> dict[str, int] | None:
    """Returns the numbers that `name` has in the slots of a map's `pattern`; None where it does not match.

    A slot that stands in the pattern twice must have the same number in both places.
    """
    text, slots = _compiled(pattern)
    match = text.fullmatch(name)
    found = [(slot, int(value)) for slot, value in zip(slots, match.groups())] if match else None
    return None if found is None or len(set(found)) > len(set(slots)) else dict(found)


@functools.cache
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Returns the regular expression of a map's pattern, and the slots that its groups stand for."""
    fixed, slots = _SLOT.split(pattern)[::2], _SLOT.split(pattern)[1::2]
    return re.compile('([0-9]+)'.join(map(re.escape, fixed))), tuple(slots)


def _unit_axes(names: Names, path: str) -> int:
    """Returns the third element of the pair that has `path`, 0 where there is none."""
    pair = next(pair for pair in names if _numbers(pair[1], path) is not None)
    return pair[2] if len(pair) > 2 else 0


def _to_ours(path: str, array: np.ndarray, unit_axes: int) -> np.ndarray:
    if unit_axes and array.shape[-unit_axes:] == (1,) * unit_axes:
        array = array.reshape(array.shape[:-unit_axes])
    return np.moveaxis(array, (0, 1), (-1, -2)) if _is_kernel(path) else array


def _to_torch(path: str, array: np.ndarray, unit_axes: int) -> np.ndarray:
    array = np.moveaxis(array, (-1, -2), (0, 1)) if _is_kernel(path) else array
    return array.reshape(array.shape + (1,) * unit_axes)


def _is_copy(array: np.ndarray, used: Sequence[np.ndarray]) -> bool:
    """Whether a matrix is one of those used, as one is that stands in the file for each of two layers that share it."""
    return array.ndim > 1 and any(array.shape == other.shape and np.array_equal(array, other) for other in used)


def _is_computed(names: Names, name: str) -> bool:
    """Whether the network computes a published array anew; see the top of this file."""
    if name.rpartition('.')[2] == 'num_batches_tracked':
        return _translate(names, name.removesuffix('num_batches_tracked') + 'running_mean', 0) is not None
    path = _translate(names, name, 0)
    return path is not None and path.rpartition('/')[2] == ''


def _is_kernel(path: str) -> bool:
    return path.rsplit('/', 1)[-1] == 'kernel'


def _is_table(path: str) -> bool:
    return path.rsplit('/', 1)[-1] == 'pos_embed'


def _refuse(**problems: list[str]) -> None:
    said = [
        f'{len(names)} {kind}: {", ".join(names[:8])}{", ..." if len(names) > 8 else ""}'
        for kind, names in problems.items()
        if names
    ]
    if said:
        raise ValueError(f'the weights do not fit the network; {"; ".join(said)}. Check the variant and num_classes.')
