"""Classifies images: ``python -m longview.predict runs/pets cat.jpg``, or ``python predict.py ...``.

    python -m longview.predict runs/pets photos/*.jpg --top=3                           # with a run's best network
    python -m longview.predict vit_small_patch16_224 cat.jpg --weights=published        # fetched from the hub
    python -m longview.predict vit_small_patch16_224 cat.jpg --weights=vit_small.safetensors --json

It prints the likeliest classes of each image with their probabilities. Neither the data set nor the training method of
a run is needed. `longview.load` does the same in Python.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from longview import names
from longview.engine.loading import load
from longview.runtime import commandline
from longview.runtime.errors import RunError

names.check(__name__)


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one sentence and with status 1, as train.py does."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f'error: {message} (--help shows how.)')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser('predict.py', description=__doc__.split('\n\n')[-1], allow_abbrev=False)
    parser.add_argument('network', metavar='WORKDIR|NAME', help='a run, or a variant of the zoo')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--weights', help='of a variant: published, a file, a folder, or owner/name on the hub')
    parser.add_argument('--of', metavar='NETWORK', help='which network of a run that has left several')
    parser.add_argument('--top', type=int, default=5, help='how many classes of each image to show')
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _predict(asked: argparse.Namespace) -> None:
    if asked.top < 1:
        raise ValueError(f'--top={asked.top} shows no class: give 1 or more.')
    predictor = load(asked.network, asked.weights, network=asked.of)
    found = {}
    for image in asked.images:
        found[image] = predictor.classify(image)[: asked.top]
        if not asked.json:
            print(
                '\n'.join([image, *(f'  {probability:.4f}  {name}' for name, probability in found[image])]), flush=True
            )
    if asked.json:
        print(json.dumps(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    asked = _parser().parse_args(arguments)
    try:
        _predict(asked)
    except (RunError, ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        if asked.traceback:
            raise
        sys.exit(f'error: {commandline.sentence(error)} (--traceback shows where.)')


if __name__ == '__main__':
    main()
