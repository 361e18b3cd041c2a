"""Kernels compared with alternatives and bounds: what the compiler says of TPU programs, and seconds on one CPU core.

    python -m benchmarks.kernels tpu [--ops=gla] [--chip=v5e]
    python -m benchmarks.kernels cost [--match=mamba] [--chip=v5e]
    python -m benchmarks.kernels cycles [--match=mamba] [--chip=v5e]
    python -m benchmarks.kernels cpu [--ops=gla] [--peer_python=/venv-with-torch/bin/python] [--rounds=5]

`tpu` needs libtpu (`pip install "jax[tpu]"`) but no TPU, since it compiles ahead of time. Bytes are those moved to and
from HBM, as counted by the compiler for XLA, and by the CostEstimate of a Pallas kernel; peak and temporaries are those
of the program that would run. Seconds are not measured.

`cost` compares the bytes of ops at the sizes of networks with the fewest that they could move (kernels_cost.py),
`cycles` shows the loops of their kernels as the compiler scheduled them (kernels_cycles.py); both by libtpu too.

`cpu` runs our form and PyTorch's in separate processes, on the same core and alternately: a round is ours, theirs,
ours, theirs; printed figures are medians over the rounds, also of the ratios within a round. Seconds are CPU time, of
the best call in a second, which other work on the machine affects least.

An op is a module beside this one, in `OPS`. It has `tpu()`, which yields pairs of a name and a `Compiled` (an empty
name begins a group); `CPU`, the names of its cases; `calls(case)`, which returns functions to time by kind, already
compiled and run once; and `PEER`, the module for the other side.
"""

from __future__ import annotations

import importlib
import os
import statistics
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags

from benchmarks.peer import Peer, seconds

OPS = {
    'gla': 'benchmarks.kernels_gla',
    'scan': 'benchmarks.kernels_scan',
    'long_conv': 'benchmarks.kernels_long_conv',
    'depthwise': 'benchmarks.kernels_depthwise',
}

_BOUNDS = {'cost': 'benchmarks.kernels_cost', 'cycles': 'benchmarks.kernels_cycles'}

_OPS = flags.DEFINE_list('ops', list(OPS), 'Which ops.')
_CHIP = flags.DEFINE_string('chip', 'v5e', 'Not cpu: which chip; those of tests/kernels/tpu.py.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'cpu: times that each side is measured.')
_CORE = flags.DEFINE_integer('core', 0, 'cpu: the core that both sides run on.')
_MATCH = flags.DEFINE_string('match', '', 'cpu, cost, cycles: only cases that contain this.')
_PEER = flags.DEFINE_string('peer_python', '', 'cpu: a Python that has torch; without one only ours is timed.')


def on_tpu(op: Any, chip: str) -> None:
    """Prints what the compiler says about the programs of an op; ratios are to the first program of a group."""
    print('| program | HBM bytes, MB | ratio | peak, MiB | temporaries, MiB |', '|---|---|---|---|---|', sep='\n')
    first = None
    for name, found in op.tpu(chip):
        if not name:
            first = None
            continue
        first = first or found.bytes
        read = f'{found.bytes / 1e6:,.1f} | {found.bytes / first:.2f}'
        line = f'{read} | {found.peak / 2**20:,.0f} | {found.temp / 2**20:,.1f}'
        print(f'| {name} | {line} |', flush=True)


def on_cpu(op: Any, case: str) -> list[str]:
    """Measures a case; returns its lines of the table."""
    calls = op.calls(case)
    if not _PEER.value:
        return [_line(case, kind, [seconds(call) for _ in range(_ROUNDS.value)]) for kind, call in calls.items()]
    peer = Peer(_PEER.value, op.PEER, case)
    lines = []
    for kind, call in calls.items():
        pairs = [(seconds(call), peer.seconds(kind)) for _ in range(_ROUNDS.value)]
        lines.append(_line(case, kind, *zip(*pairs)))
    peer.close()
    return lines


def _line(case: str, kind: str, mine: list[float], theirs: list[float] = ()) -> str:
    line = f'| {case} | {kind} | {1e3 * statistics.median(mine):.2f} |'
    if not theirs:
        return f'{line} | |'
    ratio = statistics.median(here / there for here, there in zip(mine, theirs))
    return f'{line} {1e3 * statistics.median(theirs):.2f} | {ratio:.2f} |'


def main(argv: list[str]) -> None:
    """Prints the tables."""
    if argv[1:] not in (['tpu'], ['cpu'], *([kind] for kind in _BOUNDS)):
        raise app.UsageError(f'found {argv[1:]}; wanted one of tpu, cpu, {", ".join(_BOUNDS)}.')
    os.environ['JAX_PLATFORMS'] = 'cpu'
    if argv[1] in _BOUNDS:
        for line in importlib.import_module(_BOUNDS[argv[1]]).table(_MATCH.value, _CHIP.value):
            print(line, flush=True)
        return
    ops: dict[str, Callable] = {name: importlib.import_module(OPS[name]) for name in _OPS.value}
    if argv[1] == 'tpu':
        for name, op in ops.items():
            print(f'\n{name}, {_CHIP.value}; jax {jax.__version__}\n')
            on_tpu(op, _CHIP.value)
        return
    os.sched_setaffinity(0, {_CORE.value})  # the process of the other side inherits this
    print(f'one core, {_ROUNDS.value} rounds, float32; jax {jax.__version__}\n')
    print('| case | | ours, ms | PyTorch, ms | ours / PyTorch |', '|---|---|---|---|---|', sep='\n')
    for op in ops.values():
        for case in (case for case in op.CPU if _MATCH.value in case):
            print(*on_cpu(op, case), sep='\n', flush=True)


if __name__ == '__main__':
    app.run(main)
