"""Networks to look inside of, with a batch that they read: of a config, of a run, or of the zoo (pictures.py)."""

import contextlib
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from longview.analysis.unrolled import reads
from longview.engine import dry_run
from longview.engine.loading import load
from longview.engine.opened import OpenedRun
from longview.engine.predictor import Picture
from longview.engine.programs import modules_of
from longview.methods.objective import variables_of
from longview.methods.task import Network, Task, chain, read_given, with_rows
from longview.modelzoo import features as ft
from longview.modelzoo.__main__ import example
from longview.modelzoo.heads import bare
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.zoo import create_model, find, list_models
from longview.runtime import stages
from longview.runtime.plan import Run, read_run
from longview.runtime.resolve import plain
from longview.words import nearest

# Of an image, where neither the variant nor its paper says how large it is.
_SIDE = 32


class Subject(NamedTuple):
    """A network, and what it is shown.

    Attributes:
        name: of where it is from.
        module: the network.
        variables: its arrays by collection.
        columns: what it reads, in the order of its arguments.
        noise: whether these are random numbers, because the data are not here.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    columns: tuple[jax.Array, ...]
    noise: bool


def of_config(config: Any, name: str, examples: int, network: str | None = None, stage: str | None = None) -> Subject:
    """Returns a network of a config as it begins, and the first examples of the evaluation split.

    Args:
        config: the tree of a config file, as its ``get_config()`` returns it.
        name: for titles.
        examples: how many it is shown. Unit normal numbers take their place where the data set is not here.
        network: which one, of a task that trains several.
        stage: of a config that has some, one that trains and reads no other.

    Raises:
        ConfigError, ValueError, FileNotFoundError: as `train.train`, of what it builds; or there is no such network or
            stage.
    """
    config = _of_stage(plain(config), name, stage)
    try:
        run = read_run(config)[0]
        batch = _examples(run, examples)
    except FileNotFoundError:
        run, batch = dry_run.read(config, None, None), None
    found = _begun(run)
    chosen = found[_chosen(found, network, name)]
    return _shown(name, chosen.module, chosen.variables, batch, _shapes(run, examples))


def of_name(
    name: str,
    examples: int,
    weights: str | None = None,
    network: str | None = None,
    picture: Picture | None = None,
    size: int | None = None,
) -> Subject:
    """Returns the best network of a run, or one of the zoo.

    Args:
        name: the workdir of the run, or the variant.
        examples: how many it is shown: those of the data set of a run; to a variant unit normal numbers or words.
        weights: of a variant; see `modelzoo.create_model`. None for random ones.
        network: which one, of a run that has left several.
        picture: an image of one's own in the place of `examples`; see `loading.load`.
        size: side of the images that a variant is shown; by default that of its paper.

    Raises:
        ValueError, FileNotFoundError, ImportError, OSError: there is no such run, variant, network, image or weights.
    """
    if network is not None and name in list_models():
        raise ValueError(
            f'--of={network} is for configs and runs, and {name} is a variant of the zoo, one network: leave it out.'
        )
    if picture is not None:
        loaded = load(name, weights, network=network)
        image = jnp.asarray(loaded.preprocess(picture)[None])
        return Subject(pathlib.Path(name).name, loaded.module, dict(loaded.variables), (image,), False)
    workdir = pathlib.Path(name).expanduser()
    if name not in list_models() and not workdir.is_dir():
        raise ValueError(
            f'{name} is neither the workdir of a run nor a variant of the zoo{nearest(name, list_models())}'
        )
    if name in list_models():
        return _of_variant(name, examples, weights, size)
    if weights is not None or size is not None:
        raise ValueError(f'weights and size are for a variant of the zoo, and {name} is a run: leave them out.')
    return _of_run(workdir, examples, network)


def _of_stage(config: Mapping[str, Any], name: str, stage: str | None) -> Mapping[str, Any]:
    """Returns the config of a single run."""
    if 'stages' not in config:
        if stage is not None:
            raise ValueError(f'{name} has no stages, and {stage!r} is asked for: leave --stage out.')
        return config
    begins = [each for each, node in config['stages'].items() if 'task' in node and not stages.reads(node)]
    if stage not in begins:
        raise ValueError(f'{name} has stages: say which one, as --stage={begins[0]}; there is {", ".join(begins)}.')
    return config['stages'][stage]


def _of_run(workdir: pathlib.Path, examples: int, network: str | None) -> Subject:
    opened = OpenedRun(workdir)
    with jax.set_mesh(opened.mesh):
        networks = {name: Network(n.module, jax.device_get(n.variables)) for name, n in opened.networks.items()}
    try:
        batch = _examples(opened.run, examples)
    except FileNotFoundError:
        batch = None
    chosen = networks[_chosen(networks, network, str(workdir))]
    return _shown(workdir.absolute().name, chosen.module, chosen.variables, batch, _shapes(opened.run, examples))


def _of_variant(name: str, examples: int, weights: str | None, side: int | None) -> Subject:
    family, backbone = find(name)
    published = family.PUBLISHED.get(name)
    size = published.image_size if published else pair(getattr(backbone, 'image_size', _SIDE))
    size = size if side is None else (side, side)
    model = create_model(name, weights=weights)
    shape = example(backbone, size, examples)
    columns = tuple(_random(column, shape, backbone) for column in ft.read_by(backbone))
    init = functools.partial(model.init, jax.random.key(0))
    variables = init(*columns) if weights else jax.jit(init)(*columns)
    return Subject(name, bare(model), dict(variables), columns, True)


def _examples(run: Run, count: int) -> dict[str, jax.Array]:
    """Returns the first examples of the evaluation split after its transforms; all of them, where there are fewer.

    Raises:
        FileNotFoundError: the data set is not here.
    """
    run.data.check()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with contextlib.closing(run.data.evaluate(here, count)) as split:
        batch = next(split)
    real = jax.device_get(batch['mask'])  # the rest of the batch are copies
    seen = {name: column[real] for name, column in batch.items() if name != 'mask'}
    return jax.jit(chain(run.eval_transforms))(seen, jax.random.key(run.seed))


def _shapes(run: Run, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    spec = {name: shape for name, shape in run.data.batch_spec(count, train=False).items() if name != 'mask'}
    return jax.eval_shape(lambda batch: chain(run.eval_transforms)(batch, jax.random.key(0)), spec)


def _begun(run: Run) -> dict[str, Network]:
    """Returns what a run would deploy before its first step."""
    if not isinstance(run.task, Task):
        raise TypeError(f'config.task is a {type(run.task).__name__}, and a methods.task.Task is wanted.')
    transform, spec = chain(run.train_transforms), run.data.batch_spec(run.batch_size, train=True)
    given = read_given(run.task, spec, transform)

    def init(rng: jax.Array, given: Any) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
        return run.task.init(rng, with_rows(transform(zeros, rng)), given)

    rng = jax.random.key(run.seed)
    arrays = jax.jit(lambda rng, given: variables_of(run.task.deployed(init(rng, given))))(rng, given)
    modules = modules_of(run.task, jax.eval_shape(init, rng, given))
    return {name: Network(modules[name], arrays[name]) for name in arrays}


def _chosen(networks: Mapping[str, Any], network: str | None, who: str) -> str:
    if not networks:
        raise ValueError(f'{who} deploys no network, so there is none to look into: choose another task.')
    if network is None and len(networks) == 1:
        return next(iter(networks))
    if network not in networks and len(networks) == 1:
        raise ValueError(
            f'{who} has no network {network!r}, only {next(iter(networks))!r}: leave --of out, or give that one.'
        )
    if network not in networks:
        raise ValueError(
            f'{who} has the networks {", ".join(networks)}: say which one, as --of={next(iter(networks))}.'
        )
    return network


def _shown(
    name: str,
    module: nn.Module,
    variables: Mapping[str, Any],
    batch: Mapping[str, jax.Array] | None,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> Subject:
    """Returns a network with the columns that it reads, those of the batch where there is one."""
    columns = []
    for column in reads(module):
        if batch is not None and column in batch:
            columns.append(batch[column])
        elif column in shapes:
            columns.append(_random(column, shapes[column], getattr(module, 'backbone', module)))
        elif column == ft.TIME:
            columns.append(jax.random.normal(jax.random.key(2), (columns[0].shape[0],)))
        elif column != ft.CONDITION:  # which a network does without
            raise ValueError(
                f'{type(getattr(module, "backbone", module)).__name__} reads {column}, and the data set has '
                f'{", ".join(shapes)}: choose another data set.'
            )
    return Subject(name, module, dict(variables), tuple(map(jnp.asarray, columns)), batch is None)


def _random(column: str, like: jax.ShapeDtypeStruct, network: nn.Module) -> jax.Array:
    """Returns unit normal numbers, random words, or a mask that hides nothing."""
    key = jax.random.key(1)
    if column == ft.WORDS:
        return jax.random.randint(key, like.shape, 0, network.vocabulary, like.dtype)
    if like.dtype == np.bool_:
        return jnp.ones(like.shape, like.dtype)
    dtype = like.dtype if jnp.issubdtype(like.dtype, jnp.floating) else jnp.float32
    return jax.random.normal(key, like.shape, dtype)
