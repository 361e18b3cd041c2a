"""The training step of a run, compiled for TPUs that are not there: memory, work and communication of each chip."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from longview.counting import multiply_adds
from longview.engine.programs import Programs
from longview.runtime import hlo
from longview.runtime.memory import readable


class Chip(NamedTuple):
    """The datasheet of a chip, https://cloud.google.com/tpu/docs/system-architecture-tpu-vm.

    Attributes:
        flops: bfloat16, in 1 / s.
        bandwidth: of its memory, in bytes / s.
        links: what all its links to other chips send together, in one direction, in bytes / s.
        memory: bytes.
        options: of libtpu; a v4 and a v5p are one device each, as jax has them where they are there.
    """

    flops: float
    bandwidth: float
    links: float
    memory: int
    options: dict[str, Any]


CHIPS = {
    'v4': Chip(275e12, 1.228e12, 300e9, 32 << 30, {'chip_config_name': 'megacore'}),
    'v5e': Chip(197e12, 0.819e12, 200e9, 16 << 30, {}),
    'v5p': Chip(459e12, 2.765e12, 600e9, 95 << 30, {'chip_config_name': 'megacore'}),
    'v6e': Chip(918e12, 1.640e12, 400e9, 32 << 30, {}),
}


_ENVIRONMENT = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}


class Cost(NamedTuple):
    """What a step costs each chip; memory and traffic in bytes.

    Attributes:
        arguments, outputs, temporaries, code: what the program needs at once.
        shared: what arguments and outputs have in common: the state, which the step takes over.
        multiply_adds: of matrix products and convolutions, the same number on each chip.
        counted_flops: the compiler's own count: of a loop the body once, of a kernel what the kernel says.
        collectives: each once, with how often a step does it.
        loops: how often the body of each loop runs; None where the program does not say it.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    shared: int
    multiply_adds: int
    counted_flops: float
    collectives: list[hlo.Collective]
    loops: list[int | None]

    @property
    def memory(self) -> int:
        return self.arguments + self.outputs + self.temporaries + self.code - self.shared

    @property
    def traffic(self) -> int:
        """What goes to and from memory at least: arguments are read, outputs are written, temporaries are both.

        The compiler's own count is no bound, for a gather counts there as a reading of all that it might read: a step
        of ViT-S with RandAugment, which holds 7 GiB, would move 2.3 TiB.
        """
        return self.arguments + self.outputs + 2 * self.temporaries

    @property
    def sent(self) -> float:
        return sum(each.sent for each in self.collectives)


def chip_of(topology: str) -> tuple[str, Chip]:
    """Returns the name and the datasheet of the chips of a topology, such as ``v5e:4x4``.

    Raises:
        ValueError: there is no such chip.
    """
    name = topology.partition(':')[0]
    if name not in CHIPS:
        raise ValueError(
            f'--topology is {topology!r}: name one of {", ".join(CHIPS)} and a shape, as in --topology=v5e:4x4.'
        )
    return name, CHIPS[name]


def devices_of(topology: str) -> Sequence[jax.Device]:
    """Returns the devices of a topology, which programs can be compiled for and nothing else.

    Raises:
        ValueError: there is no such topology, or libtpu is not installed.
    """
    name, chip = chip_of(topology)
    # Else libtpu asks the network whether this machine has TPUs, complains, and keeps other processes from it.
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options = dict(chip.options)
    if topology == f'{name}:1x1':
        options['chips_per_host_bounds'] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(topology, platform='tpu', **options).devices
    except (RuntimeError, NotImplementedError) as error:
        said = str(error).partition('\n')[0].rstrip('.')
        raise ValueError(
            f'--topology is {topology!r}, which libtpu does not take ({said}): use a shape that is built, as in '
            'v5e:4x4 or v5p:4x4x4.'
        ) from error


def cost(made: Programs) -> Cost:
    """Compiles the step of a run and returns what it costs each device; under ``jax.set_mesh``, as it was made.

    Raises:
        ValueError: the compiler found no way to fit the step into the memory of the chips.
    """
    key = jax.eval_shape(jax.random.key, 0)
    arguments = (made.state, made.batch, key)
    devices = len(jax.tree.leaves(made.batch)[0].sharding.mesh.devices.flat)
    lowered = made.step.lower(*arguments)
    with nothing_cached():
        compiled = _compiled(lowered)
    memory = compiled.memory_analysis()
    program = hlo.read(compiled.as_text(), devices)
    return Cost(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        shared=memory.alias_size_in_bytes,
        multiply_adds=multiply_adds(made.step, *arguments) // devices,
        counted_flops=compiled.cost_analysis()['flops'],
        collectives=program.collectives,
        loops=program.loops,
    )


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        said = ' '.join(str(error).partition('\n\n')[0].split())
        raise ValueError(
            f'the step does NOT FIT the memory of the chips ({said[:300]}): lower config.batch_size, raise '
            'config.accumulate or config.mesh.fsdp, set remat of the backbone, or use more chips.'
        ) from error


@contextlib.contextmanager
def nothing_cached() -> Iterator[None]:
    """Keeps the program out of the persistent cache, which cannot read back those of an absent chip."""
    name = 'jax_persistent_cache_min_compile_time_secs'
    before = jax.config.values[name]
    jax.config.update(name, float('inf'))
    try:
        yield
    finally:
        jax.config.update(name, before)


def lines(found: Cost, topology: str, batch_size: int) -> list[str]:
    """Returns what is printed of the cost of a step of `batch_size` examples."""
    name, chip = chip_of(topology)
    return [
        f'a step on each chip of {topology}, compiled by libtpu',
        *_memory(found, chip),
        *_work(found),
        *_communication(found.collectives),
        *_roofline(found, name, chip, batch_size),
    ]


def _memory(found: Cost, chip: Chip) -> list[str]:
    share = found.memory / chip.memory
    verdict = 'fits' if share <= 1 else 'DOES NOT FIT'
    return [
        f'  memory          {readable(found.memory)} of {readable(chip.memory)}, {100 * share:.1f} %: it {verdict}',
        f'    arguments     {readable(found.arguments)}',
        f'    outputs       {readable(found.outputs)}, {readable(found.shared)} of them in the place of arguments',
        f'    temporaries   {readable(found.temporaries)}',
        f'    code          {readable(found.code)}',
    ]


def _work(found: Cost) -> list[str]:
    known = ', '.join(str(runs) for runs in found.loops if runs is not None)
    unknown = found.loops.count(None)
    lines = [
        f'  products        {2 * found.multiply_adds / 1e9:.4g} GFLOP of matrix products and convolutions',
        f'  all arithmetic  {found.counted_flops / 1e9:.4g} GFLOP as the compiler counts, of a loop the body once',
    ]
    if known:
        lines.append(f'  loops           their bodies run {known} times')
    if unknown:
        lines.append(f'  loops           {unknown} end by what they compute, and count once')
    return lines


def _communication(collectives: Sequence[hlo.Collective]) -> list[str]:
    rows = []
    for kind in hlo.KINDS:
        ours = [each for each in collectives if each.kind == kind]
        if ours:
            size, runs = sum(each.bytes * each.times for each in ours), sum(each.times for each in ours)
            rows.append(
                f'  {kind:18}  {runs} of together {readable(size)}, {readable(sum(each.sent for each in ours))} sent'
            )
    return rows or ['  no communication between chips']


def _roofline(found: Cost, name: str, chip: Chip, batch_size: int) -> list[str]:
    times = {
        'products': 2 * found.multiply_adds / chip.flops,
        'memory': found.traffic / chip.bandwidth,
        'links': found.sent / chip.links,
    }
    slowest = max(times, key=lambda what: times[what])
    each = ', '.join(f'{what} {1e3 * seconds:.3g} ms' for what, seconds in times.items())
    sheet = (
        f'{chip.flops / 1e12:g} TFLOP/s in bfloat16, {chip.bandwidth / 1e9:g} GB/s of memory, '
        f'{chip.links / 1e9:g} GB/s of links'
    )
    return [
        f'  at best         {each}: bound by {slowest}, {batch_size / times[slowest]:,.0f} examples/s in all',
        f'  datasheet {name}   {sheet}',
    ]
