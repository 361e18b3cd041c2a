"""The training step of a run, compiled for TPUs that are not there: memory, work and communication of each chip."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from longview.counting import multiply_adds, operations
from longview.engine.programs import Programs
from longview.runtime import hlo
from longview.runtime.chips import CHIPS, Chip
from longview.runtime.memory import readable

# What a plan asks of the compiler: less work on how fast the step runs. See docs/scale.md for what it changes.
_OPTIONS = {'exec_time_optimization_effort': -1.0}
# Of a file that keeps a cost; another one where `Cost` or how it is read from the program changes.
_FORMAT = '3'
# Chips of the largest slice, https://cloud.google.com/tpu/docs/system-architecture-tpu-vm.
_MOST = {'v4': 4096, 'v5e': 256, 'v5p': 8960, 'v6e': 256}
_ENVIRONMENT = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}


class Cost(NamedTuple):
    """What a step costs each chip; memory and traffic in bytes.

    Attributes:
        arguments, outputs, temporaries, code: what the program needs at once.
        shared: what arguments and outputs have in common: the state, which the step takes over.
        multiply_adds: of matrix products and convolutions, the same number on each chip.
        operations: all arithmetic of the traced step, loops each time, the same number on each chip.
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
    operations: int
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
    _check_shape(topology, name, chip)
    options = dict(chip.options)
    if topology == f'{name}:1x1':
        options['chips_per_host_bounds'] = (1, 1, 1)
    try:
        with _alone():
            return topologies.get_topology_desc(topology, platform='tpu', **options).devices
    except (RuntimeError, NotImplementedError) as error:
        said = str(error).partition('\n')[0].rstrip('.')
        raise ValueError(
            f'--topology is {topology!r}, which libtpu does not take ({said}): install it with pip install libtpu, or '
            'use a shape that is built, as in v5e:4x4 or v5p:4x4x4.'
        ) from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keeps libtpu from asking the network whether this machine has TPUs, and from shutting out other processes."""
    given = {variable: os.environ.get(variable) for variable in _ENVIRONMENT}
    os.environ.update({variable: value for variable, value in _ENVIRONMENT.items() if given[variable] is None})
    try:
        yield
    finally:
        for variable, value in given.items():
            if value is None:
                del os.environ[variable]


def _check_shape(topology: str, name: str, chip: Chip) -> None:
    """Raises ValueError for a shape that no slice has; libtpu ends the process or plans it all the same."""
    shape = topology.partition(':')[2]
    sides = [int(side) if side.isdigit() else 0 for side in shape.split('x')]
    chips = math.prod(sides)
    if len(sides) != chip.axes or min(sides) < 1 or chips > _MOST[name]:
        example = 'x'.join('4' * chip.axes)
        raise ValueError(
            f'--topology is {topology!r}: slices of {name} have {chip.axes} sides and at most {_MOST[name]:,} chips, '
            f'as in {name}:{example}.'
        )


class DoesNotFit(ValueError):
    """A step for which the compiler found no place in the memory of the chips.

    Attributes:
        used: bytes that it would need on each chip, as the compiler says it; None where it does not.
        partial: whether those are its temporaries alone.
    """

    def __init__(self, said: str) -> None:
        super().__init__(
            f'the step does NOT FIT the memory of the chips ({said[:300]}): lower config.batch_size, raise '
            'config.accumulate or config.mesh.fsdp, set remat of the backbone, or use more chips.'
        )
        self.said = said
        used = re.search(r'(?:Used |\()([\d.]+)([KMGT]?)\)? (?:of|exceeds)', said)
        self.partial = 'temporaries' in said
        self.used = round(float(used[1]) * 1024 ** ' KMGT'.index(used[2] or ' ')) if used else None


def cost(made: Programs, topology: str) -> Cost:
    """Compiles the step of a run and returns what it costs each device; under ``jax.set_mesh``, as it was made.

    What was compiled before for this topology, by this version of libtpu, is read from a file beside jax's own cache.

    Raises:
        DoesNotFit: the compiler found no way to fit the step into the memory of the chips.
    """
    key = jax.eval_shape(jax.random.key, 0)
    arguments = (made.state, made.batch, key)
    lowered = made.step.lower(*arguments)
    kept = _kept(lowered, topology)
    found = _read(kept)
    if found is None:
        try:
            found = _cost(made, arguments, lowered)
        except DoesNotFit as error:
            found = error
        _write(kept, found)
    if isinstance(found, DoesNotFit):
        raise found
    return found


def _cost(made: Programs, arguments: tuple[Any, ...], lowered: jax.stages.Lowered) -> Cost:
    devices = len(jax.tree.leaves(made.batch)[0].sharding.mesh.devices.flat)
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
        operations=operations(made.step, *arguments) // devices,
        counted_flops=compiled.cost_analysis()['flops'],
        collectives=program.collectives,
        loops=program.loops,
    )


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile(compiler_options=_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        if re.search(r'\b[vs]mem\b', str(error)):
            raise ValueError(
                'a kernel does not fit the memory inside of a chip, whatever the batch: name another implementation of '
                f'its op, as in --config.kernels.gla=xla ({" ".join(str(error).split())[:300]}).'
            ) from error
        raise DoesNotFit(' '.join(str(error).partition('\n\n')[0].split())) from error


def _kept(lowered: jax.stages.Lowered, topology: str) -> pathlib.Path | None:
    """Returns the file of what is known of a program; None where the user keeps no compiled programs."""
    cache = jax.config.jax_compilation_cache_dir
    if not cache or '://' in cache:
        return None
    version = importlib.metadata.version('libtpu')
    said = '\n'.join([_FORMAT, topology, version, json.dumps(_OPTIONS), lowered.as_text()])
    return pathlib.Path(cache).parent / 'plans' / f'{hashlib.sha256(said.encode()).hexdigest()}.json'


def _read(kept: pathlib.Path | None) -> Cost | DoesNotFit | None:
    """Returns what was found of a program before; None where nothing was, or the file is no such thing."""
    try:
        tree = json.loads(kept.read_text()) if kept else None
        if tree is None or 'said' in tree:
            return tree and DoesNotFit(tree['said'])
        return Cost(**tree | {'collectives': [hlo.Collective(*each) for each in tree['collectives']]})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(kept: pathlib.Path | None, found: Cost | DoesNotFit) -> None:
    """Keeps what was found of a program; where it cannot be written, the next plan compiles again."""
    if kept is None:
        return
    tree = {'said': found.said} if isinstance(found, DoesNotFit) else found._asdict()
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        # A plan that is made at the same time reads either nothing or all.
        with tempfile.NamedTemporaryFile('w', dir=kept.parent, delete=False) as file:
            json.dump(tree, file)
        os.replace(file.name, kept)


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


def times(found: Cost, chip: Chip) -> dict[str, float]:
    """Returns the seconds of a step at the datasheet's peaks, by what takes them, each as if nothing else went on."""
    return {
        'products': 2 * found.multiply_adds / chip.flops,
        'memory': found.traffic / chip.bandwidth,
        'links': found.sent / chip.links,
    }


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
        f'  all arithmetic  {found.operations / 1e9:.4g} GFLOP as traced, loops each time; compiled, and of a loop the '
        f'body once, {found.counted_flops / 1e9:.4g}',
        f'  HBM             {readable(found.traffic)} read and written at least: arguments, outputs, temporaries twice',
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
    seconds = times(found, chip)
    slowest = max(seconds, key=lambda what: seconds[what])
    each = ', '.join(f'{what} {1e3 * took:.3g} ms' for what, took in seconds.items())
    sheet = (
        f'{chip.flops / 1e12:g} TFLOP/s in bfloat16, {chip.bandwidth / 1e9:g} GB/s of memory, '
        f'{chip.links / 1e9:g} GB/s of links'
    )
    return [
        f'  at best         {each}: bound by {slowest}, {batch_size / seconds[slowest]:,.0f} examples/s in all',
        f'  datasheet {name}   {sheet}',
    ]
