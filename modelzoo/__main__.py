"""Lists the zoo: ``python -m longview.modelzoo [PATTERN]``, say ``python -m longview.modelzoo 'vig_h*'``.

Each line has a variant's parameters and multiply-adds beside the paper's figures, then the input size that they are for
(for a sequence 1 and its length) and the paper. They are counted from the traced program, which is not run. A scan in
chunks has more multiply-adds than the recurrence that papers count.

``--measure`` runs the variants on the device that jax finds, ``--batch_size`` inputs at once, with random parameters:
how long the logits of a batch take and how much memory their program needs.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from longview import modelzoo
from longview.counting import multiply_adds
from longview.modelzoo.features import Backbone, Grid, SequenceBackbone

_ROW = '{:16} {:>10} {:>8} {:>10} {:>8} {:>9}  {}'
_WITHOUT_FIGURES = (32, 32)
_MEASURED = '{:28} {:>10} {:>10} {:>9} {:>6} {:>9} {:>10} {:>11}'
# A program runs for so many seconds, and so many times at least, before its time is taken to be known.
_SECONDS, _RUNS = 2.0, 5


def example(backbone: Backbone, size: Grid, batch: int = 1) -> jax.ShapeDtypeStruct:
    """Returns the shape of an input: an image of `size`, or a sequence of as many elements as that has pixels."""
    if not isinstance(backbone, SequenceBackbone):
        return jax.ShapeDtypeStruct((batch, *size, 3), 'float32')
    if backbone.vocabulary is None:
        return jax.ShapeDtypeStruct((batch, math.prod(size), 1), 'float32')
    return jax.ShapeDtypeStruct((batch, math.prod(size)), 'int32')


class Cost(NamedTuple):
    """What a variant costs, without gradients.

    Attributes:
        parameters: numbers that are trained.
        multiply_adds: of one input.
        size: of an input.
        seconds: of a batch, the median over several runs of the compiled program.
        memory: bytes of the device that the program needs: parameters, input, output and what is between.
    """

    parameters: int
    multiply_adds: int
    size: Grid
    seconds: float | None = None
    memory: int | None = None


def count(name: str) -> Cost:
    """Returns what can be told of a variant without running it."""
    published = _published(name)
    size = published.image_size if published else _WITHOUT_FIGURES
    model = modelzoo.create_model(name)
    x = example(model.backbone, size)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    return Cost(parameters, multiply_adds(model.apply, variables, x), size)


def measure(name: str, batch_size: int) -> Cost:
    """Returns what a variant costs on the default device.

    Args:
        name: of the variant.
        batch_size: inputs at once.
    """
    cost = count(name)
    model = modelzoo.create_model(name)
    shape = example(model.backbone, cost.size, batch_size)
    variables = jax.tree.map_with_path(_random, jax.eval_shape(model.init, jax.random.key(0), shape))
    x = jax.device_put(np.zeros(shape.shape, shape.dtype))
    program = jax.jit(lambda variables, x: model.apply(variables, x)['logits']).lower(variables, x).compile()
    return cost._replace(seconds=_median_seconds(program, variables, x), memory=_memory(program))


def _random(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns small random parameters, which no device computes with more easily; all else, such as variances, is 1."""
    if path[0].key != 'params':
        return jax.numpy.ones(leaf.shape, leaf.dtype)
    return jax.device_put((0.02 * np.random.default_rng(0).standard_normal(leaf.shape, np.float32)).astype(leaf.dtype))


def _median_seconds(program: Callable[..., Any], *arguments: Any) -> float:
    jax.block_until_ready(program(*arguments))
    times: list[float] = []
    while len(times) < _RUNS or sum(times) < _SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _memory(program: jax.stages.Compiled) -> int | None:
    """Returns the bytes that a program needs; None where the compiler does not say."""
    # Its own `peak_memory_in_bytes` leaves out on a CPU what is between input and output.
    sizes = program.memory_analysis()
    if sizes is None:
        return None
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return held - sizes.alias_size_in_bytes


def _published(name: str) -> Any:
    return modelzoo.find(name)[0].PUBLISHED.get(name)


def row(name: str) -> str:
    """Returns the line of one variant."""
    cost, published = count(name), _published(name)
    said = [f'{value:g}' if value else '-' for value in (published[2:4] if published else (None, None))]
    return _ROW.format(
        name,
        f'{cost.parameters / 1e6:.2f} M',
        said[0],
        f'{cost.multiply_adds / 1e9:.2f} G',
        said[1],
        f'{cost.size[0]}x{cost.size[1]}',
        published.paper if published else '-',
    )


def measured_row(name: str, batch_size: int) -> str:
    """Returns the line of one variant, measured."""
    cost = measure(name, batch_size)
    return _MEASURED.format(
        name,
        f'{cost.parameters / 1e6:.2f} M',
        f'{cost.multiply_adds / 1e9:.2f} G',
        f'{cost.size[0]}x{cost.size[1]}',
        batch_size,
        f'{1e3 * cost.seconds:.1f} ms',
        f'{batch_size / cost.seconds:.1f}',
        '-' if cost.memory is None else f'{cost.memory / 2**20:.0f} MiB',
    )


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one sentence and with status 1."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f'error: {message} (--help shows how.)')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser('python -m longview.modelzoo', description='Lists the zoo.', allow_abbrev=False)
    parser.add_argument('pattern', nargs='?', default='*', help="of names, such as 'vig_h*'; by default all")
    parser.add_argument('--measure', action='store_true', help='run them: time and memory of the logits of a batch')
    parser.add_argument('--batch_size', type=int, default=8, help='inputs at once, with --measure; 8 by default')
    return parser


def main(*arguments: str) -> int:
    """Prints the table that the arguments of the command line ask for; returns 1 where nothing matches."""
    asked = _parser().parse_args(arguments)
    if asked.batch_size < 1:
        _parser().error(f'--batch_size is {asked.batch_size}: it must be at least 1.')
    found = modelzoo.list_models(asked.pattern)
    if not found:
        print(f'no model matches {asked.pattern!r}.', file=sys.stderr)
        return 1
    if asked.measure:
        print(f'on 1 {jax.devices()[0].device_kind}; a batch takes the median of {_RUNS} or more runs')
        print(_MEASURED.format('variant', 'parameters', 'mult-adds', 'input', 'batch', 'a batch', 'inputs/s', 'memory'))
    else:
        print(_ROW.format('variant', 'parameters', 'paper', 'mult-adds', 'paper', 'input', 'paper'))
    for name in found:
        print(measured_row(name, asked.batch_size) if asked.measure else row(name), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
