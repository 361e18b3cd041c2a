"""Waterline and efficiency gap of networks: which kernels memory holds up, and by how much a latency is too long.

    python -m benchmarks.waterline convnext_tiny convfirst_ours [--chip=v5e] [--batch=128] [--folder=/tmp/waterline]
    python -m benchmarks.waterline convfirst_ours --fused
    python -m benchmarks.waterline resnet50 --milliseconds=20 --peak=312e12 --bandwidth=1.555e12

Lavin, 2024, "On the Efficiency of Convolutional Neural Networks", https://arxiv.org/abs/2404.03617; no code was taken.

A network in evaluation is a sequence of kernels, each with F operations and B bytes that it moves. A machine with a
peak of P operations a second and M bytes a second needs at least max(F / P, B / M) for it, and the sum for the network:

    attainable time T = sum max(F / P, B / M)        attainable efficiency = (sum F / P) / T

In the plot a kernel is a bar of width F / P and height F / B, its intensity; the water stands at P / M, and a bar that
it covers is bound by memory. The roofline of the totals, max(sum F / P, sum B / M), is no more than T: a bar far above
the water does not lift one below it. A measured latency is operations / (P * efficiency), so in a plot of accuracy
against the logarithm of latency the gap to the ideal is -log2(efficiency) octaves.

Kernels are the matrix products and convolutions of the traced program, and each `fused_block` as a whole; a
multiply-add is two operations. Bytes are the arrays that a kernel reads and writes, once each. All other layers are
taken to be computed on the way, which is optimistic; so are bytes, where a kernel reads its input more than once. Of
code for several platforms the default counts. Each network's kernels are written to FOLDER/NAME.csv and, if matplotlib
is installed, drawn in FOLDER/NAME.png.
"""

import argparse
import csv
import importlib.util
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from longview import counting, modelzoo
from longview.modelzoo import __main__ as listing

# Operations in bfloat16 and bytes from HBM, a second and chip: https://cloud.google.com/tpu/docs/system-architecture.
CHIPS = {
    'v4': (275e12, 1228e9),
    'v5e': (197e12, 819e9),
    'v5p': (459e12, 2765e9),
    'v6e': (918e12, 1640e9),
}
# Ops that are one kernel where a chip has one for them.
_WHOLE = ('fused_block',)


class Kernel(NamedTuple):
    """A kernel: the layer that it is of, its operations, and the bytes that it moves."""

    layer: str
    operations: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.operations / self.bytes


class Machine(NamedTuple):
    """Operations and bytes a second."""

    peak: float
    bandwidth: float

    @property
    def water(self) -> float:
        """The intensity below which a kernel is bound by memory."""
        return self.peak / self.bandwidth

    def least(self, kernel: Kernel) -> float:
        """Seconds of a kernel at the roofline."""
        return max(kernel.operations / self.peak, kernel.bytes / self.bandwidth)


def attainable(kernels: Sequence[Kernel], machine: Machine) -> float:
    """Returns the seconds that kernels take at least, one after the other."""
    return math.fsum(map(machine.least, kernels))


def roofline(kernels: Sequence[Kernel], machine: Machine) -> float:
    """Returns the seconds of one kernel with the operations and bytes of all: no more than `attainable`."""
    return machine.least(together(kernels, kept=0))


def efficiency(kernels: Sequence[Kernel], machine: Machine, seconds: float | None = None) -> float:
    """Returns the share of the peak that kernels reach in some time, by default in the least time."""
    taken = attainable(kernels, machine) if seconds is None else seconds
    return math.fsum(k.operations for k in kernels) / machine.peak / taken


def gap(efficiency: float) -> float:
    """Returns the efficiency gap in octaves: how often the latency could halve."""
    return -math.log2(efficiency)


def together(kernels: Sequence[Kernel], kept: float) -> Kernel:
    """Returns the kernel that computes several, of whose bytes it keeps some on the chip, written and read there."""
    operations, moved = (math.fsum(k[column] for k in kernels) for column in (1, 2))
    return Kernel('+'.join(k.layer for k in kernels), operations, moved - kept)


def kernels(function: Callable[..., Any], *arguments: Any) -> list[Kernel]:
    """Returns the kernels of ``function(*arguments)``, which is traced, in order.

    A kernel of a loop is returned once for each iteration.
    """
    return list(_of_program(jax.make_jaxpr(function)(*arguments).jaxpr, ''))


def of_network(name: str, batch: int, dtype: Any = jnp.bfloat16, **fields: Any) -> list[Kernel]:
    """Returns the kernels of a network of the zoo in evaluation, for images of its paper's size.

    Args:
        name: of a variant.
        batch: images.
        dtype: of the activations and of the weights as kernels read them.
        **fields: of the backbone.
    """
    family, _ = modelzoo.find(name)
    model = modelzoo.create_model(name, dtype=dtype, **fields)
    size = family.PUBLISHED[name].image_size if name in family.PUBLISHED else (224, 224)
    x = listing.example(model.backbone, size, batch=batch)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return kernels(lambda variables, x: model.apply(variables, x), variables, x)


def _of_program(program: core.Jaxpr, above: str) -> Iterator[Kernel]:
    for equation in program.eqns:
        layer = '/'.join(filter(None, (above, str(equation.source_info.name_stack))))
        name, params = equation.primitive.name, equation.params
        inside = list(counting.inner(params))
        if name in ('dot_general', 'conv_general_dilated') or params.get('name') in _WHOLE:
            yield _kernel(equation, layer)
        elif name == 'cond':
            platforms = params.get('branches_platforms') or (None,)
            yield from _of_program(inside[platforms.index(None)], layer)
        else:
            for _ in range(params['length'] if name == 'scan' else 1):
                for one in inside:
                    yield from _of_program(one, layer)


def _kernel(equation: core.JaxprEqn, layer: str) -> Kernel:
    arrays = [*equation.invars, *equation.outvars]
    moved = sum(array.aval.size * array.aval.dtype.itemsize for array in arrays)
    run = lambda *inputs: equation.primitive.bind(*inputs, **equation.params)
    inputs = [jax.ShapeDtypeStruct(array.aval.shape, array.aval.dtype) for array in equation.invars]
    return Kernel(layer, 2 * counting.multiply_adds(run, *inputs), moved)


def table(name: str, found: Sequence[Kernel], machine: Machine, milliseconds: float | None) -> Iterator[str]:
    """Yields the figures of a network, a line each."""
    under = sum(kernel.operations for kernel in found if kernel.intensity < machine.water)
    operations = sum(kernel.operations for kernel in found)
    moved = sum(kernel.bytes for kernel in found)
    yield f'{name}: {len(found)} kernels, {operations / 1e9:,.1f} G operations, {moved / 1e6:,.0f} MB'
    yield f'  water at {machine.water:.0f} operations a byte; {under / operations:.0%} of the operations are under it'
    yield f'  roofline of the totals {1e3 * roofline(found, machine):.3f} ms'
    shares = {'attainable': 1e3 * attainable(found, machine)}
    if milliseconds is not None:
        shares['measured'] = milliseconds
    for what, time in shares.items():
        share = efficiency(found, machine, time / 1e3)
        yield f'  {what} {time:.3f} ms, efficiency {share:.1%}, gap {gap(share):.2f} octaves'


def write(path: pathlib.Path, found: Sequence[Kernel], machine: Machine) -> None:
    """Writes the kernels as CSV, in order, with their least times."""
    with path.open('w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['layer', 'operations', 'bytes', 'intensity', 'water', 'microseconds'])
        for k in found:
            least = 1e6 * machine.least(k)
            rows.writerow(
                [k.layer, k.operations, k.bytes, round(k.intensity, 2), round(machine.water, 2), round(least, 3)]
            )


def draw(path: pathlib.Path, name: str, found: Sequence[Kernel], machine: Machine) -> None:
    """Draws the bars and the water."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout='constrained')
    axes = figure.subplots()
    widths = [1e3 * kernel.operations / machine.peak for kernel in found]
    starts = [math.fsum(widths[:index]) for index in range(len(widths))]
    dry = [kernel.intensity >= machine.water for kernel in found]
    axes.bar(
        starts,
        [kernel.intensity for kernel in found],
        widths,
        align='edge',
        color=['#4c956c' if above else '#bc4b51' for above in dry],
        edgecolor='white',
        linewidth=0.3,
    )
    axes.axhspan(0, machine.water, color='#4a90d9', alpha=0.2)
    axes.set(yscale='log', xlabel='operations / peak, ms', ylabel='operations a byte', xlim=(0, math.fsum(widths)))
    axes.set_title(f'{name}; water at {machine.water:.0f} operations a byte')
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures of networks, and writes what is behind them."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.waterline', description='Waterlines of networks.')
    parser.add_argument('networks', nargs='+', help='variants of the zoo')
    parser.add_argument('--chip', choices=CHIPS, default='v5e')
    parser.add_argument('--peak', type=float, help='operations a second, in place of the chip')
    parser.add_argument('--bandwidth', type=float, help='bytes a second, in place of the chip')
    parser.add_argument('--batch', type=int, default=128, help='images')
    parser.add_argument('--fused', action='store_true', help='set the field `fused` of the networks')
    parser.add_argument('--milliseconds', type=float, help='a measured latency of the batch')
    parser.add_argument('--folder', type=pathlib.Path, default=pathlib.Path('/tmp/waterline'))
    given = parser.parse_args(argv)
    for name in ('peak', 'bandwidth', 'milliseconds'):
        if getattr(given, name) is not None and getattr(given, name) <= 0:
            parser.error(f'--{name} is {getattr(given, name)}: use a number above 0')
    peak, bandwidth = CHIPS[given.chip]
    machine = Machine(given.peak or peak, given.bandwidth or bandwidth)
    given.folder.mkdir(parents=True, exist_ok=True)
    fields = {'fused': True} if given.fused else {}
    for name in given.networks:
        found = of_network(name, given.batch, **fields)
        title = f'{name}, fused' if given.fused else name
        print(*table(title, found, machine, given.milliseconds), sep='\n')
        path = given.folder / (f'{name}_fused' if given.fused else name)
        write(path.with_suffix('.csv'), found, machine)
        if importlib.util.find_spec('matplotlib'):
            draw(path.with_suffix('.png'), title, found, machine)
    if not importlib.util.find_spec('matplotlib'):
        print('No plot was drawn: matplotlib is not installed (pip install matplotlib).')


if __name__ == '__main__':
    main()
