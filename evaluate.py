"""Evaluates a run that was trained: ``python -m longview.evaluate runs/vig``, or ``python evaluate.py runs/vig``.

    python -m longview.evaluate runs/vig --weights=raw,last           # the newest weights, not their averages
    python -m longview.evaluate runs/vig --data=./pets --split=val    # another data set or folder
    python -m longview.evaluate runs/vig --config.data.eval_split=train --tta=flip

It prints the figures of all evaluations of the run's config and, of a classifier, a table of its classes, and writes
them into ``WORKDIR/evaluations/NAME``: ``figures.json``, ``classes.csv`` and, where matplotlib is installed,
``confusion.png`` and ``calibration.png``. Any part of the run's config that does not change the network may be
overridden.
"""

import csv
import functools
import importlib.util
import inspect
import io
import json
import pathlib
import sys
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from longview import names
from longview.engine.judge import Judged, judge
from longview.engine.opened import OpenedRun
from longview.runtime import commandline, distributed, plots
from longview.runtime.errors import RunError
from longview.runtime.outputs import write
from longview.runtime.resolve import locate, plain
from longview.runtime.workdir import recorded

names.check(__name__)

_CONFIG = pathlib.Path(__file__).parent / 'configs' / 'recorded.py'
_WEIGHTS = ('averaged', 'raw', 'best', 'last')
# So many classes are printed; all are written.
_PRINTED = 50


def evaluate(
    workdir: str | pathlib.Path, config: Any = None, *, raw: bool = False, last: bool = False, flip: bool = False
) -> Judged:
    """Evaluates a finished run.

    Args:
        workdir: of the run.
        config: in the place of the run's own, such as that one with another data set; None for its own.
        raw: the weights that were trained, of a run that evaluates averages of them.
        last: of its last checkpoint and not of its best.
        flip: the mean of the answers for an image and its mirror image, of a classifier.

    Raises:
        FileNotFoundError, ConfigError, ValueError: there is no such run, or it cannot be evaluated so.
    """
    tree = None if config is None else plain(config)
    opened = OpenedRun(pathlib.Path(workdir).expanduser(), config=tree, last=last)
    with jax.set_mesh(opened.mesh):
        opened.data.check()
        return judge(opened, raw=raw, flip=flip)


def table(judged: Judged) -> str:
    """Returns the figures, and a table of the classes, as text."""
    width = max(map(len, judged.figures))
    lines = [f'{name:{width}}  {value:.6g}' for name, value in judged.figures.items()]
    if judged.classes is not None:
        classes = judged.names
        width = max(5, *map(len, classes[:_PRINTED]))
        lines += ['', f'{"class":{width}}  examples  precision  recall      f1']
        for name, *of in list(zip(classes, *judged.classes.values()))[:_PRINTED]:
            examples, precision, recall, f1 = of
            lines.append(f'{name:{width}}  {examples:8}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}')
        if len(classes) > _PRINTED:
            lines.append(f'... and {len(classes) - _PRINTED} classes more in classes.csv')
    return '\n'.join(lines)


def save(judged: Judged, folder: pathlib.Path) -> list[str]:
    """Writes what was found into a folder; returns the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {'figures.json': dict(judged.figures)}
    if judged.classes is not None:
        files['classes.csv'] = _csv(judged)
        files['confusion.npy'] = judged.confusion
        if importlib.util.find_spec('matplotlib') is not None:
            files |= {
                'confusion.png': plots.confusion(judged.confusion, judged.names),
                'calibration.png': plots.reliability(judged.reliability),
            }
    for name, content in files.items():
        write(folder, name, content)
    return list(files)


def _csv(judged: Judged) -> str:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(['class', *judged.classes])
    rows.writerows(zip(judged.names, *judged.classes.values()))
    return out.getvalue()


def _define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    config_flags.DEFINE_config_file(
        'config', None, "The run's config; --config.KEY=VALUE changes a part of it.", flag_values=values
    )
    define = functools.partial(flags.DEFINE_string, default=None, flag_values=values)
    flags.DEFINE_list(
        'weights', ['averaged', 'best'], 'averaged or raw, of the checkpoint that is best or last.', flag_values=values
    )
    flags.DEFINE_enum(
        'tta', None, ['flip'], 'flip: the mean of the answers for an image and its mirror image.', flag_values=values
    )
    define('data', help='Another data set or folder, short for --config.data.dataset.')
    define('split', help='Another split, short for --config.data.eval_split.')
    define('name', default='last', help='The results are written into WORKDIR/evaluations/NAME.')
    flags.DEFINE_bool('json', False, 'Print the figures as JSON and nothing else.', flag_values=values)
    flags.DEFINE_bool('traceback', False, 'Show where an error came from, not only what it is.', flag_values=values)


def _parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the flags; the config file is the one that the workdir, the only other argument, holds."""
    try:
        workdirs = [argument for argument in argv[1:] if not argument.startswith('-')]
        if len(workdirs) != 1:
            raise ValueError(
                f'{len(workdirs)} workdirs are named: give one, as in python -m longview.evaluate runs/vig, and write '
                'flags as --name=value.'
            )
        recorded(workdirs[0])  # says what is wrong with it
        return commandline.parse([argv[0], f'--config={_CONFIG}:{workdirs[0]}', *argv[1:]], values)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')


def _main(argv: list[str]) -> None:
    said = flags.FLAGS
    try:
        distributed.initialize(None, None, None)
        _evaluate(argv[1], said)
    except (RunError, ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        if said.traceback:
            raise
        sys.exit(f'error: {commandline.sentence(error)} (--traceback shows where.)')


def _evaluate(workdir: str, said: flags.FlagValues) -> None:
    unknown = [word for word in said.weights if word not in _WEIGHTS]
    if unknown:
        raise ValueError(f'--weights has {unknown[0]!r}: use {" or ".join(_WEIGHTS)}, or one of each pair.')
    config = said.config
    _set_data(config, {'dataset': said.data, 'eval_split': said.split})
    last, raw = 'last' in said.weights, 'raw' in said.weights
    judged = evaluate(workdir, config, raw=raw, last=last, flip=said.tta == 'flip')
    if jax.process_index() != 0:
        return
    if said.json:
        print(json.dumps(dict(judged.figures)))
        return
    folder = pathlib.Path(workdir).expanduser() / 'evaluations' / said.name
    files = save(judged, folder)
    print(table(judged))
    print(f'\nwritten into {folder}: {", ".join(files)}')


def _set_data(config: Any, values: dict[str, str | None]) -> None:
    """Puts values into the data set of a config, the innermost one where it is made of others."""
    node = config.data
    while 'data' in node:
        node = node.data
    unknown = [key for key, value in values.items() if value is not None and not _takes(node, key)]
    if unknown:
        raise ValueError(
            f'the data of this run are {node.fn}, which takes no {unknown[0]}: change it by --config.data.KEY=VALUE.'
        )
    with node.unlocked():
        node.update({key: value for key, value in values.items() if value is not None})


def _takes(node: Any, key: str) -> bool:
    """Whether a data set's function takes a text for a key: one that has a function there takes none."""
    takes = key in inspect.signature(locate(node.fn)).parameters
    return takes and (key not in node or isinstance(node[key], str | None))


if __name__ == '__main__':
    logging.set_verbosity(logging.WARNING)
    _define_flags()
    app.run(_main, flags_parser=_parse)
