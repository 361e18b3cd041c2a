"""The schedule of TPU kernels, from libtpu's own listing: how long a loop is, and what fills it.

For `benchmarks.kernels cycles`. A chip issues one bundle of instructions a cycle, so the bundles of a loop are the
cycles of an iteration, but for those in which it waits for memory, which no listing holds. The listing is written by
the compiler, in a process of its own, since its flags are read once.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import kernels_cost
from tests.kernels import tpu as chips

_BUNDLE = re.compile(r'^\s*(0x[0-9a-f]+|0)\s+((?:\w\w )*\w\w)?\s*:\s*(>*)')
_NUMBERS = re.compile(r'^\d+( \d+)+\s*$')
_OTHERS = ('fusion', 'TLP', 'late-final', 'copy')  # listings that are not kernels


class Loop(NamedTuple):
    """A loop of a kernel: how deeply it is nested, and its first bundle and the one behind its last."""

    depth: int
    start: int
    stop: int


def loops(listing: Iterator[str]) -> list[Loop]:
    """Returns the loops of a listing of bundles, outer ones first.

    A line is an address, marks (LB: a loop begins), a colon and a `>` for each loop that the bundle is in.
    """
    found, inside, place = [], [], -1
    for line in listing:
        read = _BUNDLE.match(line)
        if not read:
            continue
        place, marks, depth = int(read[1], 16), (read[2] or '').split(), len(read[3])
        while inside and (depth < inside[-1][1] or ('LB' in marks and depth == inside[-1][1])):
            start, at = inside.pop()
            found.append(Loop(at, start, place))
        if 'LB' in marks:
            inside.append((place, depth))
    found += [Loop(at, start, place + 1) for start, at in inside]
    return sorted(found, key=lambda loop: (loop.start, loop.depth))


def table(match: str, chip: str) -> Iterator[str]:
    """Yields the lines of a table of the loops of the programs whose name contains `match`."""
    yield '| kernel | loop | bundles | full slots: matrix unit, vector unit | spills |'
    yield '|---|---|---|---|---|'
    for name in kernels_cost.PROGRAMS:
        for gradients in (False, True) if match in name else ():
            yield f'| **{name}{", with gradients" * gradients}** | | | | |'
            with tempfile.TemporaryDirectory() as folder:
                _compile_apart(name, gradients, chip, folder)
                yield from _lines(pathlib.Path(folder))


def _compile_apart(name: str, gradients: bool, chip: str, folder: str) -> None:
    flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    command = [sys.executable, '-m', 'benchmarks.kernels_cycles', name, 'gradients' if gradients else 'forward', chip]
    subprocess.run(command, env=os.environ | {'LIBTPU_INIT_ARGS': flags}, check=True, stderr=subprocess.DEVNULL)


def _lines(folder: pathlib.Path) -> Iterator[str]:
    for file in sorted(folder.glob('*final_bundles.txt')):
        name = re.sub(r'-\d+$', '', re.sub(r'^\d+-', '', file.name).rsplit('-', 1)[0])
        if 'schedule-analysis' in file.name or any(word in name for word in _OTHERS):
            continue
        (fills,) = folder.glob(f'*-{name}-*final_hlo-static-per-bundle-utilization.txt')
        slots, rows = used_slots(fills.read_text().splitlines())
        for loop in loops(iter(file.read_text().splitlines())):
            sums = dict(zip(slots, map(sum, zip(*rows[loop.start : loop.stop]))))
            size = loop.stop - loop.start
            full = [f'{100 * sums[slot] / (slots[slot] * size):.0f} %' for slot in ('MXU', 'VALU')]
            spills = f'{sums["VSTORE:SPILL"]:,}'
            yield f'| {name} | {loop.start:#x}, depth {loop.depth} | {size:,} | {", ".join(full)} | {spills} |'


def used_slots(listing: list[str]) -> tuple[dict[str, int], list[list[int]]]:
    """Returns how many instructions of each kind a bundle holds, by name, and how many each bundle has, in that order.

    The listing has the names in its second line, which differ by chip, the capacities in its third, and then a line a
    bundle.
    """
    slots = dict(zip(listing[1].split(', '), map(int, listing[2].split())))
    return slots, [list(map(int, line.split())) for line in listing if _NUMBERS.match(line)]


def main() -> None:
    """Compiles one program: its name, `forward` or `gradients`, and the chip."""
    name, kind, chip = sys.argv[1:]
    program = kernels_cost.PROGRAMS[name]()
    run, inputs = program.with_gradients() if kind == 'gradients' else program
    chips.compile_for(run, *inputs, chip=chip)


if __name__ == '__main__':
    main()
