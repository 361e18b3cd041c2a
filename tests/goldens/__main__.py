"""Compares ours with goldens: ``python -m tests.goldens FILE... [--build JSON]``; a line each, status 1 on failure."""

import argparse
import json
import sys

from tests import goldens


def main(arguments: list[str]) -> int:
    """Prints one line for each file; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m tests.goldens', description=__doc__)
    parser.add_argument('files', nargs='+', metavar='FILE', help='.json or .json.gz')
    parser.add_argument(
        '--build',
        type=json.loads,
        metavar='JSON',
        help='what ours is, where the name '
        'alone is not enough: arguments of modelzoo.create_model, such as {"name": "vig_tiny", '
        '"image_size": 256}, or of a function, {"fn": "modelzoo:backbone", "variant": ...}',
    )
    options = parser.parse_args(arguments)
    reports = [goldens.compare(goldens.read(file), options.build) for file in options.files]
    print(*reports, sep='\n')
    return int(not all(report.passed for report in reports))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
