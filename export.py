"""Writes a trained network as files: ``python -m longview.export runs/vig out``, or ``python export.py runs/vig out``.

    python -m longview.export runs/vig out                               # weights, what the network is, a model card
    python -m longview.export runs/vig out --stablehlo                   # and programs that need nothing of Longview
    python -m longview.export runs/clip out --network=image              # one network of several
    python -m longview.export runs/vig out --stablehlo --platforms=tpu --batch_sizes=1,64

The network is that of the run's best checkpoint, as the run evaluates it; neither the data set nor the training method
is needed. ``export.load('out')`` reads it again. docs/export.md says what is in the files.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import jax

from longview import names
from longview.engine import exported, stablehlo
from longview.engine.exported import Programs, load
from longview.runtime import commandline
from longview.runtime.errors import RunError
from longview.words import nearest

names.check(__name__)

__all__ = ['Programs', 'export', 'load']

_PLATFORMS = ('cpu', 'tpu', 'cuda')


def export(
    workdir: str | os.PathLike,
    out: str | os.PathLike,
    network: str | None = None,
    programs: Programs | None = None,
    *,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes the networks of a finished run; returns the folders, one a network.

    Args:
        workdir: of the run, or of a stage.
        out: the folder of the only network, or with a folder inside for each of several.
        network: which one; None for all.
        programs: StableHLO programs beside the weights; None for none.
        overwrite: whether `out` may hold something; what an earlier export wrote there is replaced.

    Raises:
        FileNotFoundError: there is no run, or it has no best checkpoint.
        FileExistsError: `out` holds something.
        ConfigError, ValueError: the run has no such network, or it cannot be exported.
        NotImplementedError: an op of the network has no implementation for a platform.
    """
    workdir, out = (pathlib.Path(path).expanduser() for path in (workdir, out))
    found = exported.networks(workdir)
    if network is not None and network not in found:
        raise ValueError(f'{workdir} has no network {network!r}{nearest(network, found)}')
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise FileExistsError(f'{out} is there and not an empty folder: name another, or give --overwrite.')
    wanted = found if network is None else (network,)
    folders = [out / name if len(wanted) > 1 else out for name in wanted]
    for name, folder in zip(wanted, folders):
        folder.mkdir(parents=True, exist_ok=True)
        exported.save(workdir, name, folder, programs)
    return folders


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m longview.export', description=__doc__.partition(':')[0])
    parser.add_argument('workdir', help='of a run')
    parser.add_argument('out', help='folder to write into: made if missing')
    parser.add_argument('--network', help='which network of a run that has several; all by default')
    parser.add_argument('--overwrite', action='store_true', help='write into a folder that is not empty')
    parser.add_argument('--stablehlo', action='store_true', help='write programs too')
    listed = lambda text: text.split(',')
    parser.add_argument('--platforms', type=listed, default=_PLATFORMS, help='of the programs; cpu,tpu,cuda by default')
    parser.add_argument('--batch_sizes', type=listed, default=(), help='a program for each; one for any by default')
    parser.add_argument('--input', action='append', default=[], help='what the network reads, image=32,32,3')
    parser.add_argument('--outputs', type=listed, default=(), help='features; logits by default, where there are some')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _programs(said: argparse.Namespace) -> Programs | None:
    """Returns the programs that a command line asks for."""
    if not said.stablehlo:
        if said.batch_sizes or said.input or said.outputs:
            raise ValueError('--batch_sizes, --input and --outputs are about programs: give --stablehlo too.')
        return None
    unknown = [name for name in said.platforms if name not in stablehlo.PLATFORMS]
    if unknown:
        raise ValueError(f'there is no platform {unknown[0]!r}{nearest(unknown[0], stablehlo.PLATFORMS)}')
    wrong = [size for size in said.batch_sizes if not (size.isdecimal() and int(size))]
    if wrong:
        raise ValueError(f'--batch_sizes has {wrong[0]!r}: write whole numbers from 1 on, as in --batch_sizes=1,64.')
    columns = [stablehlo.column(text) for text in said.input]
    return Programs(said.platforms, [int(size) for size in said.batch_sizes], columns, said.outputs)


def main(arguments: Sequence[str]) -> int:
    """Exports and says where to; returns the exit status."""
    said = _parser().parse_args(arguments)
    try:
        folders = export(said.workdir, said.out, said.network, _programs(said), overwrite=said.overwrite)
    except (RunError, ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        if said.traceback:
            raise
        print(f'error: {commandline.sentence(error)} (--traceback shows where.)', file=sys.stderr)
        return 1
    for folder in folders:
        print(f'{folder}: {", ".join(sorted(path.name for path in folder.iterdir()))}')
    return 0


if __name__ == '__main__':
    # Programs for every platform are made without any: another run may be using the one that is here.
    jax.config.update('jax_platforms', 'cpu')
    sys.exit(main(sys.argv[1:]))
