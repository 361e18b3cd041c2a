"""A network of a finished run as files that stand alone, and such files read again.

A folder holds

- ``model.safetensors``: the weights, where the family has published ones under their names and in PyTorch's layout;
- ``config.json``: ``network``, the module as a config node; ``names``, whether those of the weights are ``published``
  or ``ours``; ``arrays``, type and sizes of each by our path;
- ``README.md``, the model card (engine/card.py), and ``run.json``, the config of the run;
- programs (engine/stablehlo.py), if there are any, and ``arguments.safetensors``, the weights as they take them.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from longview.engine import stablehlo
from longview.engine.card import Facts, card
from longview.engine.stablehlo import Column
from longview.methods.task import Network
from longview.modelzoo import weight_files, weights
from longview.modelzoo.features import read_by
from longview.modelzoo.heads import Classifier, bare
from longview.runtime import metrics
from longview.runtime.checkpoint import Best
from longview.runtime.nodes import node_of
from longview.runtime.resolve import ConfigError, resolve
from longview.trees import by_path

_WEIGHTS, _CONFIG, _ARGUMENTS = 'model.safetensors', 'config.json', 'arguments.safetensors'
_PUBLISHED, _OURS = 'published', 'ours'


class Programs(NamedTuple):
    """Which programs are wanted beside the weights.

    Attributes:
        platforms: of `stablehlo.PLATFORMS`, each with programs of its own.
        batch_sizes: one program for each; () for one that takes batches of any size.
        columns: what the network reads, in the order of its arguments; () asks the data set of the run.
        outputs: as `stablehlo.program` takes them.
    """

    platforms: Sequence[str]
    batch_sizes: Sequence[int] = ()
    columns: Sequence[Column] = ()
    outputs: Sequence[str] = ()


def networks(workdir: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of the networks that a run, or a computation between runs, has left.

    Raises:
        FileNotFoundError: the workdir holds no run, or the run no best checkpoint.
        ValueError: the run is of a version that kept no networks.
    """
    if not (workdir / 'config.json').exists():
        raise FileNotFoundError(f'{workdir} holds no run (there is no config.json): name the workdir of one.')
    names = Best(str(workdir)).networks()
    if not names:
        raise ValueError(
            f'the best checkpoint of {workdir} holds the state of a run and no network: it is of an earlier version; '
            'let a run of this one start from it (methods.start:Start), and export that.'
        )
    return names


def save(workdir: pathlib.Path, name: str, folder: pathlib.Path, programs: Programs | None = None) -> None:
    """Writes a network of a run into a folder, which exists; files of an earlier export are replaced.

    Args:
        workdir: of the run.
        name: one of `networks`.
        folder: where to.
        programs: None for the weights alone.

    Raises:
        ValueError, ConfigError: the network cannot be said as a config node, or not made a program.
        NotImplementedError: an op of the network has no implementation for a platform.
    """
    best, run = Best(str(workdir)), json.loads((workdir / 'config.json').read_text())
    network = _network(best, name)
    arrays = by_path(network.variables)
    # Programs first: what is wrong with them is said before anything is written.
    columns, made = ([], {}) if programs is None else _programs(network.module, arrays, run, workdir, programs)
    _remove_earlier(folder)
    published = _published(network)
    weight_files.write(folder / _WEIGHTS, arrays if published is None else published)
    names = _OURS if published is None else _PUBLISHED
    said = {'network': node_of(network.module, name), 'names': names, 'arrays': _shapes(arrays)}
    (folder / _CONFIG).write_text(json.dumps(said, indent=1))
    (folder / 'run.json').write_text(json.dumps(run, indent=1, sort_keys=True))
    if made:
        weight_files.write(folder / _ARGUMENTS, arrays)
    for file, content in made.items():
        (folder / file).write_bytes(content)
    facts = Facts(
        folder=folder,
        workdir=workdir,
        name=name,
        module=network.module,
        arrays=arrays,
        names=names,
        run=run,
        step=best.step,
        metrics=_metrics(workdir, best.step),
        reads=[column.name for column in columns] or read_by(network.module),
        columns=columns,
        programs={file: len(content) for file, content in made.items()},
    )
    (folder / 'README.md').write_text(card(facts))


def load(folder: str | pathlib.Path) -> Network:
    """Returns a network that was exported: its module and its variables.

    Raises:
        FileNotFoundError: the folder holds no exported network.
        ConfigError, ValueError: the network cannot be made any more, or the weights are not its own.
    """
    folder = pathlib.Path(folder).expanduser()
    if not (folder / _CONFIG).exists():
        raise FileNotFoundError(f'{folder} holds no exported network (there is no {_CONFIG}): name the folder of one.')
    said = json.loads((folder / _CONFIG).read_text())
    module = resolve(said['network'], 'network')
    if said['names'] == _OURS:
        variables = traverse_util.unflatten_dict(weight_files.read(folder / _WEIGHTS), sep='/')
    else:
        like = {path: _shape(*text.split()) for path, text in said['arrays'].items()}
        variables = weights.read(module, traverse_util.unflatten_dict(like, sep='/'), folder / _WEIGHTS)
    return Network(module, jax.tree.map(jnp.asarray, variables))


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns type and sizes of arrays as texts such as ``float32 3 3 16``."""
    return {path: ' '.join(map(str, (array.dtype, *array.shape))) for path, array in arrays.items()}


def _shape(dtype: str, *sizes: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(map(int, sizes)), jnp.dtype(dtype))


def _network(best: Best, name: str) -> Network:
    try:
        module = best.module(name)
    except ConfigError:
        raise
    except ValueError as error:
        raise ValueError(
            f'the run {best} could not say what its network {name} is (a part of it cannot be imported by a name): '
            'let a run of a network whose functions stand at the top of modules start from it (methods.start:Start), '
            'and export that.'
        ) from error
    prefix = f'deployed/{name}/'
    arrays = best({path for path in best.shapes() if path.startswith(prefix)})
    arrays = {path.removeprefix(prefix): array for path, array in arrays.items()}
    module = bare(module) if isinstance(module, Classifier) else module
    return Network(module, traverse_util.unflatten_dict(arrays, sep='/'))


def _published(network: Network) -> dict[str, np.ndarray] | None:
    """Returns the arrays by their published names; None where the family has none, or not one for each array."""
    module, variables = network
    if not isinstance(module, Classifier):
        return None
    kind = type(module.backbone)
    names = getattr(sys.modules[kind.__module__], 'NAMES', {}).get(kind.__name__)
    if names is None:
        return None
    try:
        named = weights.to_published(names, weights.merge(variables))
    except ValueError:  # a part that the published network has not, such as another residual
        return None
    return named if len(named) == len(jax.tree.leaves(variables)) else None


def _programs(
    module: nn.Module, arrays: Mapping[str, np.ndarray], run: Mapping[str, Any], workdir: pathlib.Path, wanted: Programs
) -> tuple[Sequence[Column], dict[str, bytes]]:
    """Returns what the programs read, and the programs by the names of their files."""
    columns = wanted.columns or stablehlo.columns_of_run(run, workdir, read_by(module))
    precision = run['matmul_precision'] if 'matmul_precision' in run else 'default'
    sizes = {f'.batch{size}': size for size in wanted.batch_sizes} or {'': None}
    made = {
        f'model.{platform}{ending}.stablehlo': stablehlo.program(
            module, arrays, columns, platform, size, wanted.outputs, precision
        )
        for platform in wanted.platforms
        for ending, size in sizes.items()
    }
    return columns, made


def _remove_earlier(folder: pathlib.Path) -> None:
    """Removes what another export into the folder may have written and this one would not replace."""
    for path in (folder / _ARGUMENTS, *folder.glob('model.*.stablehlo')):
        path.unlink(missing_ok=True)


def _metrics(workdir: pathlib.Path, step: int) -> dict[str, float]:
    """Returns the figures of the evaluation after so many steps."""
    rows = [row for row in metrics.read(workdir / 'metrics.jsonl') if row['step'] == step]
    return {key: value for row in rows for key, value in row.items() if key.startswith('eval/')}
