"""Networks as StableHLO programs, which jax runs without this project.

A program is what `jax.export` serializes, ``(weights, *columns) -> answers``: both are dictionaries of arrays by name.
The weights are arguments, in a file beside it, and not constants inside: one file of weights serves the programs of all
platforms, and flatbuffers, of which the format is made, end at 2 GiB. There is one program a platform, since one for
several would hold their Pallas kernels, which lower for their own platform alone.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array

from longview.kernels import native
from longview.methods.task import chain
from longview.runtime.plan import read_run
from longview.trees import by_path

PLATFORMS = ('cpu', 'tpu', 'cuda', 'rocm')
_LOGITS = 'logits'
# Of columns that are given by their shape alone; all others are float32.
_TYPES = {'words': 'int32', 'condition': 'int32'}


class Column(NamedTuple):
    """What a network reads of a batch.

    Attributes:
        name: of the column.
        shape: of one example.
        dtype: by its name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


def column(text: str) -> Column:
    """Returns the column of a text such as ``image=32,32,3``, ``words=64`` or ``time=`` for one number an example.

    Raises:
        ValueError: it is written otherwise.
    """
    name, separator, sizes = text.partition('=')
    parts = [size for size in sizes.split(',') if size]
    if not (name.isidentifier() and separator and all(size.isdecimal() and int(size) for size in parts)):
        raise ValueError(f'--input={text} is no column and its shape: write one as --input=image=32,32,3.')
    dtype = 'bool' if name.endswith('_valid') else _TYPES.get(name, 'float32')
    return Column(name, tuple(map(int, parts)), dtype)


def columns_of_run(config: Mapping[str, Any], workdir: pathlib.Path, reads: Sequence[str]) -> list[Column]:
    """Returns what a network reads of the evaluation batches of a run, after the run's batch transforms.

    Args:
        config: of the run.
        workdir: of the run.
        reads: names of columns.

    Raises:
        ValueError: the run's data set cannot be made here, or has not these columns.
    """
    wanted = 'say what one example is, as in --input=image=32,32,3, once for each argument of the network, in order'
    try:
        run = read_run(config, workdir.absolute().parent)[0]
        spec = run.data.batch_spec(1, train=False)
        batch = jax.eval_shape(chain(run.eval_transforms), spec, jax.eval_shape(jax.random.key, 0))
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        raise ValueError(f'the data set of {workdir} cannot be asked for its shapes ({error}): {wanted}.') from error
    lost = [name for name in reads if name not in batch]
    if lost:
        raise ValueError(f'the network reads {" and ".join(lost)}, which the batches of {workdir} have not: {wanted}.')
    return [Column(name, batch[name].shape[1:], batch[name].dtype.name) for name in reads]


def program(
    network: nn.Module,
    weights: Mapping[str, Any],
    columns: Sequence[Column],
    platform: str,
    batch_size: int | None = None,
    outputs: Sequence[str] = (),
    precision: str = 'default',
) -> bytes:
    """Returns a network in evaluation as a serialized program, to be opened by ``jax.export.deserialize``.

    Args:
        network: the module.
        weights: its variables by path, such as ``params/head/kernel``, or only their shapes.
        columns: the arguments of the network, in order.
        platform: one of `PLATFORMS`.
        batch_size: None for batches of any size; ops then take no Pallas kernel, since these are made for one size.
        outputs: names of features; by default the logits or, without such, all that there is.
        precision: jax's name for the precision of float32 products on accelerators.

    Raises:
        ValueError: the network does not take these columns or has no such output.
    """
    shapes = {path: jax.ShapeDtypeStruct(np.shape(array), array.dtype) for path, array in weights.items()}

    def answers(weights: dict[str, Array], *batch: Array) -> dict[str, Array]:
        found = by_path(network.apply(traverse_util.unflatten_dict(weights, sep='/'), *batch))
        return {name or 'output': array for name, array in found.items()}

    names = _chosen(outputs, _outputs_of(network, answers, shapes, columns))
    run = lambda weights, *batch: {name: array for name, array in answers(weights, *batch).items() if name in names}
    # A program for other machines has no native code of this one.
    with jax.default_matmul_precision(precision), native.left_out():
        traced = jax.jit(run)
        if batch_size is None:
            exported = _for_any_batch(network, traced, platform, shapes, columns)
        else:
            exported = jax.export.export(traced, platforms=[platform])(shapes, *_batch(columns, batch_size))
    return bytes(exported.serialize())


def _for_any_batch(
    network: nn.Module, run: Any, platform: str, shapes: Mapping[str, Any], columns: Sequence[Column]
) -> jax.export.Exported:
    (size,) = jax.export.symbolic_shape('b')
    try:
        return jax.export.export(run, platforms=[platform])(shapes, *_batch(columns, size))
    except (TypeError, ValueError) as error:  # it asks for a number, or compares with one
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(
            f'{type(network).__name__} cannot be traced for batches of any size ({reason}): say which, as in '
            '--batch_sizes=1,64.'
        ) from error


def _batch(columns: Sequence[Column], size: Any) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((size, *each.shape), jnp.dtype(each.dtype)) for each in columns]


def _outputs_of(
    network: nn.Module, answers: Callable[..., dict[str, Array]], shapes: Mapping[str, Any], columns: Sequence[Column]
) -> list[str]:
    """Returns the names of what a network answers for one example."""
    try:
        return list(jax.eval_shape(answers, shapes, *_batch(columns, 1)))
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        said = ', '.join(f'{each.name} {each.dtype}{list(each.shape)}' for each in columns)
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(
            f'{type(network).__name__} does not take the columns {said} ({reason}): give those that it reads, each as '
            '--input=NAME=SHAPE.'
        ) from error


def _chosen(outputs: Sequence[str], found: Sequence[str]) -> Sequence[str]:
    lost = [name for name in outputs if name not in found]
    if lost:
        raise ValueError(f'the network has no output {lost[0]!r}: --outputs may name {", ".join(found)}.')
    return outputs or ([_LOGITS] if _LOGITS in found else found)
