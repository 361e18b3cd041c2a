"""The device mesh, and the sharding of arrays on it.

The mesh has four axes. ``data`` and ``fsdp`` both split the batch; ``fsdp`` also splits parameters and optimizer state
(fully sharded data parallelism: each device keeps a slice and gathers on use); ``sequence`` splits the tokens of each
sequence of a batch; ``tensor`` splits the arrays that a rule names. The sharding of an array depends on its path in the
tree: the first rule whose pattern is found in the path applies; without one, the longest axis that ``fsdp`` divides is
split. The paths of optimizer moments and averages contain that of their parameter, so one rule applies to all of them.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from longview.trees import path_of

AXES = ('data', 'fsdp', 'sequence', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes, and the rules for sharding parameters.

    Attributes:
        data, fsdp, sequence, tensor: devices along each axis; one of them may be -1, for all remaining devices.
        rules: pairs of a regular expression and a partition spec: a sequence with one axis name, tuple of names or None
            per array axis, as in ``('.*/qkv/kernel', (None, 'tensor'))``.
        fsdp_min_size: arrays with fewer values than this are not split but copied to every device, because
            gathering them would cost more time than it saves memory.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: Sequence[tuple[str, Sequence[Any]]] = ()
    fsdp_min_size: int = 2**14
    sequence: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices` (all of them by default).

    Raises:
        ValueError: the axis sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = named = [getattr(config, axis) for axis in AXES]
    known = int(np.prod([s for s in sizes if s != -1]))
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes = [len(devices) // known if size == -1 else size for size in sizes]
    if -1 in sizes or int(np.prod(sizes)) != len(devices):
        wanted = ' x '.join(f'{a}={s}' for a, s in zip(AXES, named))
        raise ValueError(
            f'mesh {wanted} does not fit {len(devices)} devices: choose config.mesh sizes whose product '
            f'is {len(devices)} (one may be -1).'
        )
    # Within a host or a slice, jax orders axes so that the last one has the fastest links.
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)


def batch_sharding(mesh: Mesh, whole: bool = False, sequences: bool = False) -> NamedSharding:
    """Returns the sharding of a batch, whose first axis is split over ``data`` and ``fsdp``, or which lies `whole`.

    That of a batch of `sequences` splits a second axis too, over ``sequence``; columns without one take
    `longview.layouts.of_rank`.
    """
    if whole:
        return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(*BATCH, 'sequence') if sequences else BATCH)


def check_sequences(mesh: Mesh, sequences: bool, shapes: Mapping[str, Any]) -> None:
    """Raises ValueError if the axis ``sequence`` cannot split a batch.

    Args:
        mesh: the devices.
        sequences: whether the examples are sequences, so that the second axis of a column is that of tokens.
        shapes: of the columns.
    """
    parts = mesh.shape['sequence']
    if parts > 1 and not sequences:
        raise ValueError(
            f'config.mesh.sequence is {parts}, and the examples of config.data are no sequences of tokens, which it '
            'splits: set config.mesh.sequence=1 and config.mesh.data=-1.'
        )
    for name, x in shapes.items():
        if len(x.shape) > 1 and x.shape[1] % parts:
            raise ValueError(
                f'config.mesh.sequence is {parts}, which does not divide the {x.shape[1]} tokens of {name!r}: use '
                f'sequences of {-(-x.shape[1] // parts) * parts}, filled up at the end, or an axis of '
                f'{math.gcd(x.shape[1], parts)}.'
            )


def check_batch(mesh: Mesh, key: str, batch_size: int) -> None:
    """Raises ValueError if the batch does not divide over the devices; `key` is the key of its size in the config."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if batch_size % parts:
        raise ValueError(
            f'config.{key} is {batch_size}, which does not divide over the {parts} devices along data '
            f'and fsdp: use a multiple of {parts}, such as {max(batch_size // parts, 1) * parts}.'
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """Returns the sharding of each array in `tree`, which may be arrays or their shapes.

    Raises:
        ValueError: a rule matches an array that it cannot split, or matches no array.
    """
    used: set[str] = set()

    def place(key_path: Any, leaf: Any) -> NamedSharding:
        path = path_of(key_path)
        for pattern, spec in config.rules:
            if re.search(pattern, path):
                used.add(pattern)
                return NamedSharding(mesh, _checked(path, leaf.shape, pattern, spec, mesh))
        return NamedSharding(mesh, _automatic(leaf.shape, mesh.shape['fsdp'], config.fsdp_min_size))

    shardings = jax.tree_util.tree_map_with_path(place, tree)
    unused = [pattern for pattern, _ in config.rules if pattern not in used]
    if unused:
        paths = [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        # That of a parameter, if there is one, says more than that of the step.
        example = max(paths, key=lambda path: '/params/' in f'/{path}')
        raise ValueError(f'config.mesh.rules: {unused[0]!r} matches no array of this run; paths look like {example!r}.')
    return shardings


def _automatic(shape: Sequence[int], fsdp: int, min_size: int) -> PartitionSpec:
    splittable = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not splittable or int(np.prod(shape)) < min_size:
        return PartitionSpec()
    longest = max(splittable, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, 'fsdp')


def _checked(path: str, shape: Sequence[int], pattern: str, spec: Sequence[Any], mesh: Mesh) -> PartitionSpec:
    if len(spec) > len(shape):
        raise ValueError(
            f'config.mesh.rules: {pattern!r} gives {len(spec)} axes for {path}, which has shape {tuple(shape)}.'
        )
    for axis, names in enumerate(spec):
        names = (names,) if isinstance(names, str) else tuple(names or ())
        unknown = [n for n in names if n not in AXES]
        if unknown:
            raise ValueError(
                f'config.mesh.rules: {pattern!r} names the axis {unknown[0]!r}; the mesh has {", ".join(AXES)}.'
            )
        parts = int(np.prod([mesh.shape[n] for n in names], dtype=np.int64))
        if shape[axis] % parts:
            raise ValueError(
                f'config.mesh.rules: {pattern!r} splits axis {axis} of {path}, of size '
                f'{shape[axis]}, into {parts} parts; choose a size that divides.'
            )
    return PartitionSpec(*(tuple(s) if isinstance(s, (list, tuple)) else s for s in spec))
