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

_BUNDLE = re.compile(r'^\s*(0x[0-9a-f]+|0)\s+((?:\w\w )*\w\w)?\s*:\s*(>*)')
_NUMBERS = re.compile(r'^\d+( \d+)+\s*$')
_OTHERS = ('fusion', 'TLP', 'late-final', 'copy')  # listings that are not kernels


class Loop(NamedTuple):
    """A loop of a kernel: how deeply it is nested, and its first bundle and the one behind its last."""

    depth: int
    start: int
    stop: int


class Schedule(NamedTuple):
    """How long a loop is, in bundles, how full its slots are, and how many registers it stores for want of more.

    matrix, vector: the part of the slots of the matrix unit and of the vector unit.
    """

    bundles: int
    matrix: float
    vector: float
    spills: int


def loops(listing: Iterator[str]) -> list[Loop]:
    """Returns the loops of a listing of bundles, outer ones first.

    A line is an address, marks (LB: a loop begins), a colon and a `>` for each loop that the bundle is in. Those of the
    last iteration may stand among the others, marked as outside of the loop, so it ends before the next one begins.
    """
    read = [match for match in map(_BUNDLE.match, listing) if match]
    depths = [len(match[3]) for match in read]
    begins = [n for n, match in enumerate(read) if 'LB' in (match[2] or '').split()]
    found = []
    for first in begins:
        stop = next((n for n in begins if n > first and depths[n] <= depths[first]), len(read))
        inside = [n for n in range(first, stop) if depths[n] >= depths[first]]
        found.append(Loop(depths[first], int(read[first][1], 16), int(read[inside[-1]][1], 16) + 1))
    return found


def table(match: str, chip: str) -> Iterator[str]:
    """Yields the lines of a table of the loops of the programs whose name contains `match`."""
    yield '| kernel | loop | bundles | full slots: matrix unit, vector unit | spills |'
    yield '|---|---|---|---|---|'
    for name in kernels_cost.PROGRAMS:
        for gradients in (False, True) if match in name else ():
            yield f'| **{name}{", with gradients" * gradients}** | | | | |'
            with tempfile.TemporaryDirectory() as folder:
                compile_apart(name, gradients, chip, folder)
                yield from _lines(pathlib.Path(folder))


def compile_apart(name: str, gradients: bool, chip: str, folder: str) -> None:
    """Writes the listings of one of `kernels_cost.PROGRAMS` to a folder."""
    flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    command = [sys.executable, '-m', 'benchmarks.kernels_cycles', name, 'gradients' if gradients else 'forward', chip]
    subprocess.run(command, env=os.environ | {'LIBTPU_INIT_ARGS': flags}, check=True, stderr=subprocess.DEVNULL)


def _lines(folder: pathlib.Path) -> Iterator[str]:
    for name, loop, found in schedules(folder):
        full = f'{found.matrix:.0%}, {found.vector:.0%}'.replace('%', ' %')
        yield f'| {name} | {loop.start:#x}, depth {loop.depth} | {found.bundles:,} | {full} | {found.spills:,} |'


def schedules(folder: pathlib.Path) -> Iterator[tuple[str, Loop, Schedule]]:
    """Yields the kernels and loops whose listings are in the folder."""
    for file in sorted(folder.glob('*final_bundles.txt')):
        name = re.sub(r'-\d+$', '', re.sub(r'^\d+-', '', file.name).rsplit('-', 1)[0])
        if 'schedule-analysis' in file.name or any(word in name for word in _OTHERS):
            continue
        (fills,) = folder.glob(f'*-{name}-*final_hlo-static-per-bundle-utilization.txt')
        slots, rows = used_slots(fills.read_text().splitlines())
        for loop in loops(iter(file.read_text().splitlines())):
            sums = dict(zip(slots, map(sum, zip(*rows[loop.start : loop.stop]))))
            size = loop.stop - loop.start
            full = (sums[slot] / (slots[slot] * size) for slot in ('MXU', 'VALU'))
            yield name, loop, Schedule(size, *full, sums['VSTORE:SPILL'])


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
    kernels_cost.PROGRAMS[name]().compile(kind == 'gradients', chip)


if __name__ == '__main__':
    main()
