"""Trains what a config describes: ``python train.py --config configs/vig_s.py:digits --workdir runs/vig``.

The same command starts a run, resumes it after a kill and, on every host of a pod, joins it. It writes
``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and ``best/`` into the workdir; where the config
has stages, each into a folder of its own, and so the runs of a sweep, ``--sweep 'config.seed=0,1,2'``. On SIGTERM or
Ctrl-C, and when ``--max_minutes`` are over, it saves and exits with status 0. What a user can mend ends it in one
sentence and with status 1.

``--dry_run`` computes nothing and needs neither workdir nor data: it prints what the run will be (docs/scale.md).
"""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from longview import names
from longview.engine import dry_run, explain, show, stages, trainer
from longview.engine import sweep as sweeps
from longview.runtime import allocator, commandline, distributed, profiler
from longview.runtime.checkpoint import quiet_failed_writes
from longview.runtime.errors import RunError
from longview.runtime.preemption import Preempted, StopSignals
from longview.runtime.resolve import plain
from longview.runtime.workdir import folder

names.check(__name__)


def train(
    config: Any,
    workdir: str | os.PathLike,
    span: tuple[int, int] | None = None,
    *,
    max_minutes: float | None = None,
) -> dict[str, float]:
    """Runs `config` to its end, from its last checkpoint if there is one; returns the last scores.

    Args:
        config: the tree of a config file, as its ``get_config()`` returns it.
        workdir: the run's folder.
        span: first and last step to profile.
        max_minutes: after which it is stopped as by a signal; None for as long as it takes.

    Raises:
        ConfigError, ValueError, FileNotFoundError: the config or the data set cannot work; said
            before anything is computed.
        RunError: the run had to stop; what was saved is still there.
        Preempted: SIGTERM or Ctrl-C came, or the time is over, and the state is saved.
    """
    workdir = folder(workdir)
    with StopSignals(max_minutes) as signals:
        return _run(plain(config), workdir, signals, span)


def sweep(
    configs: Mapping[str, Any],
    workdir: str | os.PathLike,
    span: tuple[int, int] | None = None,
    *,
    max_minutes: float | None = None,
) -> dict[str, dict[str, float]]:
    """Runs several configs one after the other; returns the last scores of each.

    Args:
        configs: by name, which becomes the folder of the run; otherwise as `train`'s.
        workdir: the folder that the runs' folders are in.
        span: first and last step to profile, of each run.
        max_minutes: of all runs together.

    Raises:
        As `train`. A run that diverges raises RunError when the others have ended.
    """
    workdir = folder(workdir)
    with StopSignals(max_minutes) as signals:
        one = lambda tree, place: _run(tree, place, signals, span)
        return sweeps.run({name: plain(config) for name, config in configs.items()}, workdir, one, signals)


def _run(
    tree: dict[str, Any], workdir: pathlib.Path, signals: StopSignals, span: tuple[int, int] | None
) -> dict[str, float]:
    run = stages.run if 'stages' in tree else trainer.run
    return run(tree, workdir, signals, span)


def _define_config(values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None) -> None:
    """Defines --config and what `argv` overrides of it; by default the arguments of the program."""
    config_flags.DEFINE_config_file(
        'config', None, 'Config, FILE or FILE:PRESET.', lock_config=True, flag_values=values, sys_argv=argv
    )


def _define_flags() -> None:
    _define_config()
    flags.DEFINE_string('workdir', None, 'Folder of the run: made if missing, else resumed.')
    flags.DEFINE_string('profile', None, 'Trace the steps FIRST:LAST into WORKDIR/profile.')
    flags.DEFINE_string('sweep', None, 'Runs of all combinations, as in "config.seed=0,1 config.batch_size=64,128".')
    flags.DEFINE_float('max_minutes', None, 'Stop after so many minutes: save, exit with 0.', lower_bound=0.0)
    flags.DEFINE_string('coordinator', None, 'host:port of process 0, for several processes.')
    flags.DEFINE_integer('num_processes', None, 'How many processes, with --coordinator.')
    flags.DEFINE_integer('process_id', None, 'Which of them this is, with --coordinator.')
    flags.DEFINE_bool('dry_run', False, 'Print what the run will be, and end.')
    flags.DEFINE_string('topology', None, 'TPUs such as v5e:4x4, to compile the step for, with --dry_run.')
    flags.DEFINE_integer('devices', None, 'How many devices there will be, with --dry_run.')
    flags.DEFINE_integer('num_examples', None, 'Of a training split that is not here, with --dry_run.')
    flags.DEFINE_integer('num_classes', None, 'Of a data set that is not here, with --dry_run.')
    flags.DEFINE_bool('explain', False, 'Print every value of the run and where it is from, and end.')
    flags.DEFINE_bool('show_batch', False, 'Draw the first batch, into WORKDIR/pictures/ or here, and end.')
    flags.DEFINE_bool('traceback', False, 'Show where an error came from, not only what it is.')


def _configs(sweep: str) -> dict[str, Any]:
    """Returns the config of each run of a sweep by its name: the command line's with the run's own values."""
    configs = {}
    for trial in sweeps.trials(sweep):
        argv, values = [*sys.argv, *trial.flags], flags.FlagValues()
        _define_config(values, argv)
        # Which keys of a config are flags is settled when it is parsed: each run has a parser, with the other flags as
        # they are.
        for name in flags.FLAGS:
            if flags.FLAGS[name].name == name and name.partition('.')[0] != 'config':
                values[name] = flags.FLAGS[name]
        commandline.parse(argv, values)
        configs[trial.name] = values.config
    return configs


def _parse(argv: list[str]) -> list[str]:
    try:
        return commandline.parse(argv)
    except ValueError as error:
        sys.exit(f'error: {error}')


def _check_given(argv: list[str], config: Any) -> None:
    if len(argv) > 1:
        raise ValueError(f'{argv[1]!r} is not a flag; options are written --name=value.')
    if config is None:
        raise ValueError('no --config was given: name one, as in --config configs/vig_s.py:digits.')


def _plan(argv: list[str]) -> None:
    """Prints what the run will be."""
    said = flags.FLAGS
    try:
        _check_given(argv, said.config)
        if said.sweep is not None:
            raise ValueError('--dry_run plans one config: leave --sweep out, and give the values of one run.')
        # An accelerator of this machine stays free for others.
        jax.config.update('jax_platforms', 'cpu')
        config = plain(said.config)
        jax.config.update('jax_num_cpu_devices', max(said.devices or dry_run.devices_of(config), 1))
        print(dry_run.report(config, said.devices, said.topology, said.num_examples, said.num_classes))
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        if said.traceback:
            raise
        sys.exit(f'error: {commandline.sentence(error)} (--traceback shows where.)')


def _look(said: Any) -> None:
    """Prints and draws what the run is made of; nothing is trained (docs/inside.md)."""
    if said.explain:
        print(explain.table(*explain.explain(said.config, _preset())))
    if said.show_batch:
        place = pathlib.Path() if said.workdir is None else folder(said.workdir) / 'pictures'
        print(show.show_batch(said.config, place / 'batch.png'))


def _preset() -> Any:
    """Returns the config as its file has it, without what the command line changes."""
    argv = ['train.py', f'--config={config_flags.get_config_filename(flags.FLAGS["config"])}']
    values = flags.FlagValues()
    _define_config(values, argv)
    commandline.parse(argv, values)
    return values.config


def _main(argv: list[str]) -> None:
    said = flags.FLAGS
    try:
        _check_given(argv, said.config)
        if said.explain or said.show_batch:
            _look(said)
            return
        if said.workdir is None:
            raise ValueError('no --workdir was given: name the folder of the run, as in --workdir runs/vig_digits.')
        span = profiler.parse(said.profile)
        distributed.initialize(said.coordinator, said.num_processes, said.process_id)
        if said.sweep is None:
            train(said.config, said.workdir, span, max_minutes=said.max_minutes)
        else:
            sweep(_configs(said.sweep), said.workdir, span, max_minutes=said.max_minutes)
    except Preempted as stop:
        print(stop, flush=True)
    except KeyboardInterrupt:
        print('interrupted: what was saved before is still there.', file=sys.stderr)
        sys.exit(130)
    except (RunError, ValueError, TypeError, OSError, NotImplementedError) as error:
        if said.traceback:
            raise
        sys.exit(f'error: {commandline.sentence(error)} (--traceback shows where.)')


def _begin(argv: list[str]) -> None:
    said = flags.FLAGS
    alone = [name for name in ('topology', 'devices', 'num_examples', 'num_classes') if said[name].value is not None]
    if said.dry_run:
        _plan(argv)
    elif alone:
        sys.exit(f'error: --{alone[0]} plans a run and does not change one: give it with --dry_run, or leave it out.')
    else:
        _main(argv)


def _cache_compilations() -> None:
    """Keeps compiled programs between runs, unless the user has named another place or none."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser('~/.cache/longview/xla'))


if __name__ == '__main__':
    # Libraries report their progress as information; a run has its own.
    logging.set_verbosity(logging.WARNING)
    quiet_failed_writes()
    allocator.keep_memory()
    _cache_compilations()
    _define_flags()
    app.run(_begin, flags_parser=_parse)
