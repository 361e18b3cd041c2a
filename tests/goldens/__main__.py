"""Compares ours with goldens; a line each, status 1 where one disagrees: ``python -m tests.goldens GOLDEN...``."""

import argparse
import json
import pathlib
import sys
from typing import Any

from tests.goldens import filling, functions, networks
from tests.goldens.functions import Function, FunctionReport
from tests.goldens.networks import Network, Report
from tests.goldens.table import FUNCTIONS, NETWORKS


def main(arguments: list[str]) -> int:
    """Prints one line for each golden; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m tests.goldens', description=__doc__)
    parser.add_argument('goldens', nargs='+', metavar='GOLDEN', help='a .json or .json.gz file, or a name of the table')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--build',
        type=json.loads,
        metavar='JSON',
        help='what of ours a file is of. A network: arguments of modelzoo.create_model, such as {"name": "vig_tiny", '
        '"image_size": 256}, or of a function, {"fn": "modelzoo:backbone", "variant": ...}. A function: a row of the '
        'table, {"fn": "methods.ssl.simclr:nt_xent", "arguments": {"one": "z1"}}',
    )
    what.add_argument('--like', metavar='NAME', help='the golden whose row of the table says what of ours a file is of')
    parser.add_argument('--channels', type=int, help="axis of the channels in a layer's input, with --build")
    options = parser.parse_args(arguments)
    try:
        reports = [_report(name, options) for name in options.goldens]
    except ValueError as error:
        parser.error(str(error))
    print(*reports, sep='\n')
    return int(not all(report.passed for report in reports))


def find(name: str) -> pathlib.Path:
    """Returns the file of a golden: `name` itself, or the one of the table that has this name.

    Raises:
        ValueError: there is neither.
    """
    if name.endswith(('.json', '.json.gz')):
        return pathlib.Path(name)
    for folder in (filling.FOLDER, filling.FUNCTIONS):
        if (folder / f'{name}.json.gz').exists():
            return folder / f'{name}.json.gz'
    raise ValueError(f'there is no golden {name!r}: name a file, or a row of tests/goldens/table.py.')


def _report(name: str, options: argparse.Namespace) -> Report | FunctionReport:
    golden = filling.read(find(name))
    is_network = 'input_shape' in golden
    row = _row(golden['name'], is_network, options)
    if is_network:
        return networks.compare(golden, row)
    if row is None:
        raise ValueError(f'{golden["name"]} is a function that no row of the table is of: say --build or --like.')
    return functions.compare(golden, row)


def _row(name: str, is_network: bool, options: argparse.Namespace) -> Any:
    table = NETWORKS if is_network else FUNCTIONS
    if options.like is not None:
        if options.like not in table:
            raise ValueError(f'--like={options.like}: no row of the table has this name for {name}.')
        return table[options.like]
    if options.build is None:
        return table.get(name)
    if not is_network:
        return Function(**options.build)
    default = Network(gradient=networks.GRADIENT_BAR)
    return default._replace(build=options.build, channels=options.channels)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
