"""The model zoo: every architecture by the name its paper gave it.

    model = create_model('vig_small', num_classes=10, drop_path=0.1)
    variables = model.init(key, images)
    logits = model.apply(variables, images)['logits']

    model = create_model('vit_small_patch16_224', weights='vit_small.safetensors')  # init gives what the file has
    stages = create_model('convnext_tiny', weights='published', features_only=True)  # a list of maps

Names are looked up in the ``VARIANTS`` of the family files; nothing is registered.
"""

import difflib
import fnmatch
import functools
import importlib
import os
import pathlib
import pkgutil
from types import ModuleType
from typing import Any

from longview.modelzoo import published
from longview.modelzoo.features import IMAGE, Backbone, PyramidBackbone, read_by, require
from longview.modelzoo.heads import Classifier
from longview.modelzoo.layers.frame.variants import changed
from longview.modelzoo.stages import Stages
from longview.modelzoo.weight_files import locate
from longview.modelzoo.weights import head_of, pretrained

_FOLDERS = ('longview.modelzoo.vision', 'longview.modelzoo.sequence')


def backbone(variant: str, **fields: Any) -> Backbone:
    """Returns a published network without its head, changed where fields are given.

        backbone('vit_small_patch16_224', image_size=32, patch=4, dtype='bfloat16')
        backbone('vit_small_patch16_224', residual=ReZero)           # another part in the place of the network's own
        backbone('vit_small_patch16_224', mixer={'qkv_bias': False})  # or its own with other arguments

    Args:
        variant: one of `list_models`.
        **fields: of the backbone's class; `layers.frame.variants.changed` says what may be given.

    Raises:
        ValueError: there is no such variant or field; the nearest ones are given.
    """
    return changed(find(variant)[1], fields)


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    weights: str | os.PathLike | None = None,
    features_only: bool = False,
    **overrides: Any,
) -> Classifier | Stages:
    """Returns a published network: the backbone and its head, a linear one unless the family's ``HEADS`` says else.

    Args:
        name: one of `list_models`.
        num_classes: number of logits; by default 1000 or, with `weights`, what they have. With another number than
            they have the head starts anew. A network that reads words is a language model by default, and a
            classifier with a number.
        weights: a .safetensors file, one of torch's, ``owner/name`` on the Hugging Face hub, or ``published`` for what
            `published.table` names. The model's ``init`` then returns them, position tables resized to the model's
            ``image_size``, and the model refuses images that are not normalized.
        features_only: the list of the stages' maps without a classifier, of a pyramid; see `stages.Stages`.
        **overrides: fields of the backbone to change; see `backbone`.

    Raises:
        ValueError: there is no such model or field; the nearest names are given. ``init`` raises it where weights do
            not fit.
        TypeError: `features_only`, and the network is no pyramid.
        FileNotFoundError: the weights are neither here nor on the hub.
        ImportError: reading or fetching them needs a package that is not here.
    """
    made = backbone(name, **overrides)
    if features_only:
        require(made, PyramidBackbone, 'features_only')
        if num_classes is not None:
            raise ValueError(f'features_only leaves the classifier out: leave num_classes={num_classes} out, too.')
        return Stages(made, None if weights is None else os.fspath(_file(name, weights)))
    if weights is None:
        return Classifier(made, head_of(made, num_classes))
    model = pretrained(made, num_classes, _file(name, weights))
    if read_by(made) != (IMAGE,):
        return model
    return published.ImagePretrained(model.backbone, model.head, model.file, model.new_head)


def _file(name: str, weights: str | os.PathLike) -> pathlib.Path:
    return published.fetch(name) if weights == published.PUBLISHED else locate(weights)


def list_models(pattern: str = '*') -> list[str]:
    """Returns the names that a shell pattern matches, by family in the order of their tables."""
    return [name for family in families() for name in family.VARIANTS if fnmatch.fnmatch(name, pattern)]


def find(name: str) -> tuple[ModuleType, Backbone]:
    """Returns the family file that has `name`, and its backbone.

    Raises:
        ValueError: there is no such model; the nearest names are given.
    """
    for family in families():
        if name in family.VARIANTS:
            return family, family.VARIANTS[name]
    near = difflib.get_close_matches(name, list_models(), n=3, cutoff=0.5)
    hint = f'did you mean {" or ".join(near)}?' if near else 'list_models() has the names.'
    raise ValueError(f'there is no model {name!r}: {hint}')


@functools.cache
def families() -> tuple[ModuleType, ...]:
    """Returns the family files, imported."""
    found = []
    for folder in map(importlib.import_module, _FOLDERS):
        for info in pkgutil.iter_modules(folder.__path__, f'{folder.__name__}.'):
            found.append(importlib.import_module(info.name))
    return tuple(family for family in found if hasattr(family, 'VARIANTS'))
