"""Compares runs: ``python compare.py runs/sweep``, or ``python -m longview.compare runs/a runs/b``.

It prints what the configs of the runs differ in and what the runs reached, at their ends and at their best checkpoints,
and mean and standard deviation where they differ in the seed only. A folder stands for all runs in it, such as those of
a sweep. Only ``config.json`` and ``metrics.jsonl`` are read; the runs may still be going on.
"""

import argparse
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from longview import names
from longview.runtime import comparison, textplot

names.check(__name__)


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one sentence and with status 1, as train.py does."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f'error: {message} (--help shows how.)')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser('compare.py', description=__doc__.split('\n\n')[1], allow_abbrev=False)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='a workdir, or a folder that holds some')
    parser.add_argument(
        '--figures',
        default='',
        metavar='NAME,...',
        help='what to show, such as eval/accuracy,train/loss; by default what decides which checkpoint is the best',
    )
    parser.add_argument('--curves', action='store_true', help='draw each figure over the steps, as text')
    parser.add_argument('--png', metavar='FOLDER', help='draw each figure into a file there (needs matplotlib)')
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')
    return parser


def compare(runs: Sequence[str], figures: Sequence[str] = ()) -> str:
    """Returns the tables of some runs.

    Args:
        runs: workdirs, or folders that hold some.
        figures: to show, such as ``eval/accuracy``; by default those that decide which checkpoint is the best.

    Raises:
        FileNotFoundError, ValueError: there is no such run or figure.
    """
    outcomes = comparison.find(runs)
    return comparison.table(outcomes, comparison.chosen(outcomes, figures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    asked = _parser().parse_args(arguments)
    try:
        outcomes = comparison.find(asked.runs)
        figures = comparison.chosen(outcomes, [name for name in asked.figures.split(',') if name])
        if asked.json:
            print(json.dumps(comparison.as_data(outcomes, figures), indent=1))
        else:
            print(comparison.table(outcomes, figures))
        for figure in figures:
            curves = {outcome.name: outcome.curve(figure) for outcome in outcomes}
            if asked.curves and not asked.json:
                print('\n' + textplot.plot(curves, figure, width=min(shutil.get_terminal_size().columns, 120)))
            if asked.png is not None:
                _draw(pathlib.Path(asked.png), figure, curves)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')


def _draw(folder: pathlib.Path, figure: str, curves: dict[str, list[tuple[int, float]]]) -> None:
    from longview.runtime import plots  # numpy and matplotlib are only needed here

    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: tuple(zip(*curve)) for name, curve in curves.items() if curve}
    (folder / f'{figure.replace("/", "_")}.png').write_bytes(plots.curves(columns, figure))


if __name__ == '__main__':
    main()
