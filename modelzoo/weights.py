"""Published weights in and out, by a family's name map (`weight_names`).

`load` and `save` do all of it for a classifier, `Pretrained` is one that starts from a file. What is there is fitted to
the network: a head of another number of classes starts anew, the first kernel is fitted to images of other than three
channels, and position tables of another image size are resized by the family's ``RESIZE`` (class name to a function of
backbone, path and table), as its reference resizes them; they are the parameters that are called ``pos_embed``.

A family has its map in ``NAMES`` (class name to map). Files whose names mean something else there have further maps in
``OTHER_NAMES`` (class name to maps); the one that knows most names of a file is taken.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from longview.modelzoo import weight_files, weight_names
from longview.modelzoo.features import Backbone, SequenceBackbone
from longview.modelzoo.heads import Classifier, LanguageHead, Linear, Loaded, filled
from longview.modelzoo.weight_names import Names
from longview.modelzoo.weight_names import translate as _translate

_HEAD = 'head'
_COLORS = 3


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
    shapes = weight_files.shapes(file)
    names = _map_of(backbone, shapes)
    ours = {name: weight_names.our_path(names, name) or '' for name in shapes}
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
        source: a file, a folder or an id on the hub, see `weight_files.read`, or arrays by published name.
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
    wanted = merge(like)
    arrays = source if isinstance(source, Mapping) else weight_files.read(source)
    names = _map_of(model.backbone, arrays)
    if new_head:
        wanted.pop(_HEAD, None)
        ours = {name: weight_names.our_path(names, name) or '' for name in arrays}
        arrays = {name: array for name, array in arrays.items() if not ours[name].startswith(f'{_HEAD}/')}
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


def _map_of(backbone: Backbone, published: Iterable[str]) -> Names:
    """Returns the map of a file with these names."""
    others = getattr(_family(backbone), 'OTHER_NAMES', {}).get(type(backbone).__name__, ())
    unknown = lambda names: sum(weight_names.our_path(names, name) is None for name in published)
    return min((_names(backbone), *others), key=unknown) if others else _names(backbone)


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
        source: see `weight_files.read`, or arrays by published name.
        resize: (our path, table) -> the table for the network's image size, for tables of another shape.

    Raises:
        ValueError: names missing, left over, or of another shape, all listed.
    """
    arrays = source if isinstance(source, Mapping) else weight_files.read(source)
    wanted = traverse_util.flatten_dict(params, sep='/')
    found, spare = _assigned(names, wanted, arrays)
    places = {path: weight_names.places(names, path, found) for path in wanted}
    missing = [_translate(names, place, 1) or place for path in wanted for place in places[path] if place not in found]
    sources = {path: [found[place] for place in places[path] if place in found] for path in wanted}
    loaded = {
        path: _fitted(path, sources[path], arrays, wanted[path].shape)
        for path in wanted
        if len(sources[path]) == len(places[path])
    }
    is_odd = lambda path: loaded[path].shape != tuple(wanted[path].shape)
    mismatch = lambda path: f'{" + ".join(sources[path])} ({loaded[path].shape}, not {tuple(wanted[path].shape)})'
    tables = [path for path in loaded if resize is not None and _is_table(path) and is_odd(path)]
    _refuse(
        missing=missing,
        extra=[name for name, twin in spare.items() if not _is_copy(arrays, name, twin, found.values())],
        misshapen=[mismatch(path) for path in loaded if is_odd(path) and path not in tables],
    )
    loaded |= {path: resize(path, loaded[path]) for path in tables}
    _refuse(misshapen=[mismatch(path) for path in tables if is_odd(path)])
    typed = {path: loaded[path].astype(wanted[path].dtype, copy=False) for path in wanted}
    return traverse_util.unflatten_dict(typed, sep='/')


def _assigned(
    names: Names, wanted: Collection[str], published: Iterable[str]
) -> tuple[dict[str, str], dict[str, str | None]]:
    """Returns the published names by our paths, of whole arrays and of parts, and the names that are not needed.

    A name that is not needed comes with the other that has its path, None where there is no other.
    """
    found: dict[str, str] = {}
    spare: dict[str, str | None] = {}
    for name in published:
        path = weight_names.our_path(names, name)
        if path is None or (path and weight_names.whole(path) not in wanted) or path in found:
            spare[name] = found.get(path)
        elif path:
            found[path] = name
    return found, spare


def _fitted(path: str, published: Sequence[str], arrays: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Returns an array of the file in our layout, a first kernel for the channels of the network's images."""
    array = weight_names.to_ours(published[0], path, [np.asarray(arrays[name]) for name in published], shape)
    *window, channels, features = shape if len(shape) == 4 else (0, 0, 0, 0)
    if weight_names.is_kernel(path) and channels != _COLORS and array.shape == (*window, _COLORS, features):
        weight_files.note(f'{published[0]} is for {_COLORS} channels, and is made to suit images of {channels}.')
        return for_channels(array, channels)
    return array


def for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns a kernel for images of another number of channels, made of one for colors.

    As in timm (https://github.com/huggingface/pytorch-image-models, Apache-2.0, release 1.0.31,
    timm/models/_manipulate.py:adapt_input_conv), so that the sums keep their size where all channels are alike.

    Args:
        kernel: (h, w, 3, features).
        channels: 1 for the sum over the colors; for another number they are repeated in turn, and scaled.
    """
    kernel = kernel.astype(np.float32)  # files of half precision have sums too
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    return kernel[:, :, np.arange(channels) % _COLORS] * np.float32(_COLORS / channels)


def to_published(names: Names, params: Any) -> dict[str, np.ndarray]:
    """Returns `params` as arrays by published name, in PyTorch's layout; the inverse of `load_published`.

    Raises:
        ValueError: parameters that the map does not name, all listed.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    published = {path: weight_names.published(names, path) for path in flat}
    _refuse(extra=[path for path, found in published.items() if not found])
    split = lambda path: np.split(np.asarray(flat[path]), len(published[path]), axis=-1)
    return {
        name: weight_names.to_torch(names, place, piece)
        for path, found in published.items()
        for (place, name), piece in zip(found.items(), split(path) if len(found) > 1 else [np.asarray(flat[path])])
    }


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


def _is_copy(arrays: Mapping[str, np.ndarray], name: str, twin: str | None, used: Collection[str]) -> bool:
    """Whether a file holds an array once more, as it does for each of two layers that share one.

    It is compared with its twin, which has its path, or where there is none with all that are used, unless it is a
    vector: these are often equal without being shared.
    """
    if twin is None and arrays[name].ndim < 2:
        return False
    same = lambda one, other: one.shape == other.shape and np.array_equal(one, other)
    return any(same(arrays[name], arrays[other]) for other in (used if twin is None else [twin]))


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
