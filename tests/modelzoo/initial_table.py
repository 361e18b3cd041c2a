"""The table of how all variants start, docs/initial_values.tsv.

    python -m tests.modelzoo.initial_table          # writes it anew; it traces the whole zoo
    python -m tests.modelzoo.initial_table vig_tiny # or only the rows of some variants

Its columns are variant, leaf, drawn, mean, deviation and kurtosis. A leaf is the end of a path, and its row holds for
every parameter and batch statistic whose path ends so, unless a longer end has a row of its own; ``block#`` is any
block. `drawn` is the number of random values that the moments are of, 0 for fixed values. A deviation may depend on the
shape, as ``1.414/sqrt(fan_out)``, which makes one row of many. The kurtosis tells laws of equal deviation apart: 3 is
that of normal values, 1.8 that of uniform ones, and 0 stands for values that are all equal.
"""

import collections
import csv
import functools
import math
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tests.ledger import listed
from tests.modelzoo import initial
from tests.modelzoo.initial import Moments

TABLE = pathlib.Path(__file__).parents[2] / 'docs' / 'initial_values.tsv'
COMMAND = 'python -m tests.modelzoo.initial_table'
COLUMNS = ('variant', 'leaf', 'drawn', 'mean', 'deviation', 'kurtosis')
# As in jax.nn.initializers: the last two axes are inputs and outputs, those before them count in both.
FANS = {
    'fan_in': lambda shape: math.prod(shape[:-1]),
    'fan_out': lambda shape: math.prod(shape[:-2]) * shape[-1],
    'fan_in+fan_out': lambda shape: math.prod(shape[:-2]) * (shape[-2] + shape[-1]),
}


class Leaf(NamedTuple):
    """How a parameter starts, and its shape."""

    moments: Moments
    shape: tuple[int, ...]


class Row(NamedTuple):
    """Moments as they stand in the table; the deviation is divided by the root of `fan`, a key of `FANS`, if any."""

    drawn: int
    mean: float
    deviation: float
    kurtosis: float
    fan: str | None = None

    def moments(self, shape: Sequence[int]) -> Moments:
        """Returns the moments of a parameter of a shape."""
        deviation = self.deviation / math.sqrt(FANS[self.fan](shape)) if self.fan else self.deviation
        return Moments(self.drawn, self.mean, deviation, self.kurtosis)

    def cells(self) -> tuple[str, ...]:
        """Returns the row's last four cells."""
        deviation = f'{self.deviation:.9g}' + (f'/sqrt({self.fan})' if self.fan else '')
        return (str(self.drawn), f'{self.mean:.9g}', deviation, f'{self.kurtosis:.9g}')


Rows = Mapping[str, Row]


def leaves(name: str) -> dict[str, Leaf]:
    """Returns how each parameter and batch statistic of a variant starts, by path."""
    return {path: Leaf(initial.moments(made), made.shape) for path, made in initial.of_network(name).items()}


def rows(found: Mapping[str, Leaf]) -> dict[str, Row]:
    """Returns few rows that together say how all leaves start."""
    blocks = {}
    for path, leaf in found.items():
        blocks.setdefault(_of_any_block(path), []).append(_candidates(leaf))
    usual = {path: _shared(candidates) for path, candidates in blocks.items()}
    own = {path: _candidates(leaf) for path, leaf in found.items()}
    unusual = {path: some[0] for path, some in own.items() if not {*some} & {*usual[_of_any_block(path)]}}
    return _by_end(usual, '', None) | unusual


Candidates = tuple[Row, ...]


def _candidates(leaf: Leaf) -> Candidates:
    """Returns the rows that say how a leaf starts, the plainest first, rounded well below what can be told apart."""
    moments = leaf.moments
    if not moments.drawn:
        return (Row(0, *(float(f'{number:.9g}') for number in moments[1:])),)
    centred = abs(moments.mean) < initial.ERRORS * moments.errors()[0]
    mean = 0.0 if centred else float(f'{moments.mean:.4g}')
    row = lambda deviation, fan=None: Row(
        moments.drawn, mean, float(f'{deviation:.4g}'), float(f'{moments.kurtosis:.3g}'), fan
    )
    fans = FANS if centred and len(leaf.shape) > 1 else {}
    scaled = [row(moments.deviation * math.sqrt(of(leaf.shape)), fan) for fan, of in fans.items()]
    return (row(moments.deviation), *scaled)


def _shared(blocks: Sequence[Candidates]) -> Candidates:
    """Returns the rows that hold in all blocks, or the one that holds in most."""
    usual = _most_frequent(blocks)
    return tuple(row for row in blocks[0] if all(row in candidates for candidates in blocks)) or (usual,)


def _by_end(paths: Mapping[str, Candidates], end: str, shorter: Row | None) -> dict[str, Row]:
    """Returns rows for paths that all end with `end`, where a row for a shorter end may say something already."""
    if all(shorter in candidates for candidates in paths.values()):
        return {}
    usual = _most_frequent(paths.values()) if end else None
    said = {} if usual == shorter else {end: usual}
    if all(usual in candidates for candidates in paths.values()):
        return said
    longer = {}
    for path, candidates in paths.items():
        longer.setdefault(_longer(end, path), {})[path] = candidates
    for next_end, some in longer.items():
        said |= _by_end(some, next_end, usual)
    return said


def _most_frequent(candidates: Iterable[Candidates]) -> Row:
    return collections.Counter(row for some in candidates for row in some).most_common(1)[0][0]


def _longer(end: str, path: str) -> str:
    """Returns the end of a path that has one part more."""
    parts = end.count('/') + 1 if end else 0
    return '/'.join(path.split('/')[-1 - parts :])


def _of_any_block(path: str) -> str:
    return re.sub(r'(block|gate)\d+', r'\1#', path)


def row_of(path: str, table: Rows) -> str | None:
    """Returns the leaf whose row holds for a path; None if there is none."""
    parts = _of_any_block(path).split('/')
    ends = [path, *('/'.join(parts[first:]) for first in range(len(parts)))]
    return next((end for end in ends if end in table), None)


def changes(table: Rows, found: Mapping[str, Leaf]) -> list[str]:
    """Returns in words what starts otherwise than rows of the table say."""
    ends = {path: row_of(path, table) for path in found}
    lines = [f'  {end}: nothing starts like this any more' for end in table if end not in ends.values()]
    for path, (moments, shape) in found.items():
        before = None if ends[path] is None else table[ends[path]].moments(shape)
        if before is None:
            lines.append(f'  {_of_any_block(path)}: not in the table; now {moments}')
        elif not moments.agrees(before):
            lines.append(f'  {_of_any_block(path)}: before {before}; now {moments}')
    return [*dict.fromkeys(lines)]


@functools.cache
def recorded() -> dict[str, dict[str, Row]]:
    """Returns the table: rows by variant and leaf."""
    table = {}
    with open(TABLE, newline='') as file:
        for cells in csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE):
            deviation, _, fan = cells['deviation'].rstrip(')').partition('/sqrt(')
            numbers = map(float, (cells['mean'], deviation, cells['kurtosis']))
            table.setdefault(cells['variant'], {})[cells['leaf']] = Row(int(cells['drawn']), *numbers, fan or None)
    return table


def written(table: Mapping[str, Rows]) -> str:
    """Returns the table as text."""
    lines = [COLUMNS, *((name, end, *row.cells()) for name in listed() for end, row in table[name].items())]
    return ''.join('\t'.join(line) + '\n' for line in lines)


if __name__ == '__main__':
    names = sys.argv[1:] or listed()
    known = recorded() if sys.argv[1:] else {}
    TABLE.write_text(written(known | {name: rows(leaves(name)) for name in names}))
