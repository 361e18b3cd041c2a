"""Sweeps: one run for each combination of some config values, one after the other, each in a folder of its own.

A sweep is gone on with by the same command, as one run is: those that have ended are not run again, and the one that
was stopped goes on from where it was.
"""

import ast
import hashlib
import itertools
import pathlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from longview.engine.trainer import say, stop_early
from longview.runtime import comparison
from longview.runtime.errors import Diverged, RunError
from longview.runtime.preemption import StopSignals
from longview.runtime.resolve import check

# Characters of a value in the name of its folder, at most.
_MOST = 40


class Trial(NamedTuple):
    """A run of a sweep.

    Attributes:
        name: of its folder, such as ``seed=0,peak=0.001``.
        flags: its values as the command line says them.
    """

    name: str
    flags: tuple[str, ...]


def trials(text: str) -> list[Trial]:
    """Returns the runs that a sweep stands for, the last key changing fastest.

    >>> [trial.name for trial in trials('config.seed=0,1 config.optimizer.schedule.peak=1e-3')]
    ['seed=0,peak=0.001', 'seed=1,peak=0.001']

    Args:
        text: a key of the config and its values, ``config.KEY=VALUE,VALUE``, and others behind spaces. A value with
            commas or spaces is in brackets or quotes, as in Python.

    Raises:
        ValueError: it is not written so, or says something twice.
    """
    axes = [_axis(word) for word in _split(text, string.whitespace) if word]
    if not axes:
        raise ValueError('--sweep names no key: write it as in --sweep "config.seed=0,1,2".')
    keys = [key for key, _ in axes]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f'--sweep has config.{twice[0]} twice: give all its values at once.')
    names = comparison.short_names(keys)
    return [
        Trial(
            ','.join(f'{name}={_readable(value)}' for name, value in zip(names, values)),
            tuple(f'--config.{key}={value}' for key, value in zip(keys, values)),
        )
        for values in itertools.product(*(values for _, values in axes))
    ]


def run(
    configs: Mapping[str, dict[str, Any]],
    workdir: pathlib.Path,
    one: Callable[[dict[str, Any], pathlib.Path], dict[str, float]],
    signals: StopSignals,
) -> dict[str, dict[str, float]]:
    """Runs some configs, each in the folder of its name; returns the last scores of each, and prints them side by side.

    A run whose numbers stop being finite does not keep the others from running.

    Args:
        configs: as plain mappings, lists and leaves.
        workdir: the runs' folders are made in it.
        one: runs a config in a folder, from where it was.
        signals: asked before each run.

    Raises:
        ConfigError: a config names something that does not exist; found before the first run starts.
        RunError: some runs have diverged, and the others have ended; or what `one` raises otherwise.
    """
    for name, config in configs.items():
        check(config, f'{name}: config')
    scores, diverged = {}, []
    for number, (name, config) in enumerate(configs.items(), start=1):
        stop_early(signals, workdir / name)
        say(f'run {number} of {len(configs)}: {name}')
        try:
            scores[name] = one(config, workdir / name)
        except Diverged as error:
            say(f'error: {error}')
            diverged.append(name)
    if jax.process_index() == 0:
        # A config whose stages are all computations has no run to show.
        _show([workdir / name for name in configs if scores.get(name) or name in diverged])
    if diverged:
        raise RunError(
            f'{len(diverged)} of {len(configs)} runs diverged ({"; ".join(diverged)}) and the others have ended: leave '
            'those values out.'
        )
    return scores


def _show(workdirs: Sequence[pathlib.Path]) -> None:
    if workdirs:
        outcomes = comparison.find(workdirs)
        print('\n' + comparison.table(outcomes, comparison.chosen(outcomes)), flush=True)


def _axis(word: str) -> tuple[str, list[str]]:
    """Returns a key and its values, as flags take them."""
    said = re.fullmatch(r'(?:--)?config\.([^=]+)=(.+)', word, re.DOTALL)
    if said is None:
        raise ValueError(f'--sweep has {word!r}: write a key and its values, as in config.seed=0,1,2.')
    values = [_unquoted(value) for value in _split(said[2], ',')]
    if '' in values:
        raise ValueError(f'--sweep has no value beside a comma of config.{said[1]}: leave out the comma.')
    names = [_readable(value) for value in values]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f'--sweep gives config.{said[1]} the value {twice[0]} twice: once is enough.')
    return said[1], values


def _split(text: str, at: str) -> list[str]:
    """Splits a text at some characters, but not inside quotes and brackets."""
    parts, depth, quote = [''], 0, ''
    for character in text:
        if quote:
            quote = '' if character == quote else quote
        elif character in '"\'':
            quote = character
        else:
            depth += (character in '([{') - (character in ')]}')
        if character in at and not depth and not quote:
            parts.append('')
        else:
            parts[-1] += character
    if depth or quote:
        raise ValueError(f'--sweep has {text!r}, where a {"quote" if quote else "bracket"} is not closed: close it.')
    return parts


def _unquoted(value: str) -> str:
    literal = _literal(value)
    return literal if isinstance(literal, str) else value


def _readable(value: str) -> str:
    """Returns a value as part of a folder's name; one that had to be changed for it ends in a digest, to be unique."""
    number = _literal(value)
    text = repr(number) if isinstance(number, (int, float)) else value
    kept = re.sub(r'[^\w.+-]+', '_', text, flags=re.ASCII).strip('_')[:_MOST]
    return kept if kept == text else f'{kept}_{hashlib.sha256(text.encode()).hexdigest()[:6]}'


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return None
