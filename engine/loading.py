"""`longview.load`: a network with its weights, ready to answer for pictures.

    network = longview.load('vit_small_patch16_224', 'vit_small.safetensors')
    print(network.classify(PIL.Image.open('cat.jpg'))[:5])  # [(class, probability), ...]

It stands in engine/ since it takes networks from the zoo and from runs, crops from data/ and batch transforms from
methods/, so that a picture is prepared here by the very code that prepares it for an evaluation.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from longview.data.geometry import pair
from longview.data.images import CenterCrop, Crop, Resize
from longview.engine.predictor import Predictor, SquashCrop
from longview.methods.augment import Normalize
from longview.methods.task import chain
from longview.modelzoo import published
from longview.modelzoo.features import IMAGE, read_by
from longview.modelzoo.heads import Classifier, bare
from longview.modelzoo.published import Preprocessing
from longview.modelzoo.stages import Stages
from longview.modelzoo.zoo import create_model, find, list_models
from longview.runtime.checkpoint import Best
from longview.runtime.plan import read_run
from longview.runtime.resolve import resolve
from longview.runtime.stages import located
from longview.runtime.workdir import recorded

_CROPS = {'center': CenterCrop, 'squash': SquashCrop}


def load(
    name: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    *,
    features_only: bool = False,
    preprocessing: Preprocessing | None = None,
    network: str | None = None,
    **overrides: Any,
) -> Predictor:
    """Returns a network with its weights, its preprocessing and, where they are known, the names of its classes.

    Args:
        name: a variant of the zoo, or the workdir of a run.
        weights: of a variant: ``published`` (see `published.table`), a file, a folder, or ``owner/name`` on the Hugging
            Face hub; see `create_model`. Or the workdir of a run of such a network. None for a workdir as `name`.
        features_only: see `create_model`; of a variant.
        preprocessing: of a variant; by default that of its published weights, or what is usual where there are none.
            Its `size` is for networks that have no ``image_size``. A run has its own.
        network: which network of a run that has left several.
        **overrides: fields of the backbone to change; see `create_model`. ``num_classes`` is one too.

    Raises:
        FileNotFoundError: there are no such weights, or the run has no best checkpoint.
        ValueError, TypeError: the weights do not fit, or the network does not read pictures alone.
    """
    name = os.fspath(name)
    of_run = weights is not None and _is_workdir(weights)
    if not of_run and (name in list_models() or not _is_folder(name)):
        return _of_variant(name, weights, features_only, preprocessing, overrides)
    workdir = pathlib.Path(weights if of_run else name).expanduser()
    given = {'weights': None if of_run else weights, 'features_only': features_only, 'preprocessing': preprocessing}
    unused = [key for key, value in {**given, **overrides}.items() if value]
    if unused:
        raise ValueError(f'{unused[0]} is for a variant of the zoo, and {workdir} is a run: leave it out.')
    predictor = _of_run(workdir, network)
    if of_run:
        _check_variant(name, predictor.module, workdir)
    return predictor


def _is_folder(name: str) -> bool:
    if os.sep in name and not pathlib.Path(name).expanduser().is_dir():
        raise FileNotFoundError(f'{name} is neither the workdir of a run nor a variant of the zoo: correct the path.')
    return pathlib.Path(name).expanduser().is_dir()


def _is_workdir(path: str | os.PathLike) -> bool:
    """Whether a path names the workdir of a run, and not a folder of weights."""
    folder = pathlib.Path(path).expanduser()
    return (folder / 'checkpoints').is_dir() or (folder / 'best').is_dir()


def _of_variant(
    name: str,
    weights: str | os.PathLike | None,
    features_only: bool,
    preprocessing: Preprocessing | None,
    overrides: Mapping[str, Any],
) -> Predictor:
    _check_reads(find(name)[1], name)
    if weights is None:
        raise ValueError(
            f'{name} has no weights by itself: give a file of them, {published.PUBLISHED!r}, or the workdir of a run.'
        )
    row = published.table().get(name)
    known = preprocessing or (row.preprocessing if row else Preprocessing())
    model = create_model(name, weights=weights, features_only=features_only, **overrides)
    size = pair(getattr(model.backbone, 'image_size', known.size))
    channels = max(3, len(known.mean))
    variables = model.init(jax.random.key(0), jnp.zeros((1, *size, channels)))
    module = Stages(model.backbone) if features_only else bare(model)
    crop = _CROPS[known.mode](known.fraction, known.interpolation)
    classes = _published_classes(row, module)
    return Predictor(module, variables, crop, size, channels, Normalize(known.mean, known.std), classes)


def _published_classes(row: published.Weights | None, module: nn.Module) -> Sequence[str] | None:
    """Returns the names of ImageNet-1k's classes where a network has as many as its published weights for them."""
    names = published.imagenet_classes()
    wanted = getattr(getattr(module, 'head', None), 'num_classes', None)
    return names if row is not None and row.classes == wanted == len(names) else None


def _of_run(workdir: pathlib.Path, network: str | None) -> Predictor:
    config, best = recorded(workdir), Best(str(workdir))
    name = _chosen(best, network)
    module = best.module(name)
    _check_reads(module, f'the network {name} of {workdir}')
    prefix = f'deployed/{name}/'
    arrays = best({path for path in best.shapes() if path.startswith(prefix)})
    variables = traverse_util.unflatten_dict(
        {key.removeprefix(prefix): value for key, value in arrays.items()}, sep='/'
    )
    shape, classes, single = _interface(config, workdir)
    nodes = config['eval_transforms'] if 'eval_transforms' in config else ()
    transforms = resolve(located(nodes, workdir.absolute().parent), 'config.eval_transforms')
    return Predictor(
        bare(module) if isinstance(module, Classifier) else module,
        jax.tree.map(jnp.asarray, variables),
        _eval_crop(config),
        shape[:2],
        shape[2],
        chain(transforms),
        classes,
        single,
    )


def _chosen(best: Best, network: str | None) -> str:
    names = best.networks()
    if not names:
        raise ValueError(
            f'the best checkpoint of {best} holds no network: it is of an earlier version; let a run of this one start '
            'from it (methods.start:Start), and load that.'
        )
    if network is None and len(names) == 1:
        return names[0]
    if network not in names:
        raise ValueError(f'{best} has the networks {", ".join(names)}: say which one, as network={names[0]!r}.')
    return network


def _interface(config: Mapping[str, Any], workdir: pathlib.Path) -> tuple[tuple[int, ...], Sequence[str] | None, bool]:
    """Returns (height, width, channels) of a run's images before transforms, its classes, and whether each has one."""
    file = workdir / 'interface.json'
    if file.exists():
        said = json.loads(file.read_text())
        columns = {name: (tuple(shape), np.dtype(kind)) for name, (shape, kind) in said['columns'].items()}
        return columns[IMAGE][0], said['classes'], _is_class(columns.get('label'))
    data = read_run(config, workdir.absolute().parent)[0].data  # of a version that did not write it
    columns = {name: (spec.shape[1:], spec.dtype) for name, spec in data.batch_spec(1, train=False).items()}
    return columns[IMAGE][0], data.class_names, _is_class(columns.get('label'))


def _is_class(label: tuple[tuple[int, ...], np.dtype] | None) -> bool:
    return label is None or (label[0] == () and label[1].kind in 'iu')


def _eval_crop(config: Mapping[str, Any]) -> Crop:
    """Returns the crop of a run's evaluation; that of the data set inside where it is made of another."""
    node = config['data']
    while 'data' in node:
        node = node['data']
    return resolve(node['eval_crop'], 'config.data.eval_crop') if 'eval_crop' in node else Resize()


def _check_reads(module: nn.Module, what: str) -> None:
    if read_by(module) != (IMAGE,):
        raise ValueError(
            f'{what} reads {" and ".join(read_by(module))}, and a picture is an image: choose another one.'
        )


def _check_variant(name: str, module: nn.Module, workdir: pathlib.Path) -> None:
    kind = type(find(name)[1])
    if not isinstance(getattr(module, 'backbone', None), kind):
        raise ValueError(
            f'the network of {workdir} is no {kind.__name__}, and {name} is one: leave the name out, as in '
            f'longview.load({str(workdir)!r}).'
        )
