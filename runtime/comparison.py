"""Runs side by side: how their configs differ, and what they reached.

Only ``config.json`` and ``metrics.jsonl`` are read, and neither jax nor what a config names is imported for it.
"""

import json
import math
import os
import pathlib
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from longview.runtime.renames import renamed
from longview.runtime.rows import best_step, read
from longview.words import nearest

# More columns of differing keys than so many are named in a line below the table.
_MOST_KEYS = 6
# What `runtime.plan.Run` takes where a config leaves it out.
_DEFAULTS = {'best': 'eval/accuracy', 'best_mode': 'max'}


class Outcome(NamedTuple):
    """The results of a run.

    Attributes:
        name: its folder, below the one that all runs compared have in common.
        workdir: its folder.
        config: its values by their places, such as ``optimizer.schedule.peak``; of a stage those of the stages that it
            reads too, such as ``teacher/seed``.
        rows: of its metrics.
    """

    name: str
    workdir: pathlib.Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def decides(self) -> tuple[str, str]:
        """The figure that says which checkpoint is the best, and whether by its ``max`` or ``min``."""
        said = {**_DEFAULTS, **self.config}
        return said['best'], said['best_mode']

    @property
    def step(self) -> int:
        """The last step with metrics, 0 if there are none yet."""
        return self.rows[-1]['step'] if self.rows else 0

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint, None if there is none yet."""
        return best_step(self.rows, *self.decides)

    def value(self, place: str) -> Any:
        """Returns a value of the config, None if it has none there."""
        return self.config[place] if place in self.config else None

    def curve(self, figure: str) -> list[tuple[int, float]]:
        """Returns the steps at which a figure was measured, and its values."""
        return [(row['step'], row[figure]) for row in self.rows if figure in row]

    def final(self, figure: str) -> float | None:
        """Returns the last value of a figure, None if it was never measured."""
        return next((value for _, value in reversed(self.curve(figure))), None)

    def at_best(self, figure: str) -> float | None:
        """Returns the value of a figure at the step of the best checkpoint, None if it was not measured there."""
        return dict(self.curve(figure)).get(self.best_step)


class Spread(NamedTuple):
    """Values of several runs: how many there are, their mean and their sample standard deviation (None of one)."""

    count: int
    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> 'Spread':
        """Returns the spread of those values that are there and finite."""
        there = [value for value in values if value is not None and math.isfinite(value)]
        deviation = statistics.stdev(there) if len(there) > 1 else None
        return cls(len(there), statistics.fmean(there) if there else None, deviation)

    def __str__(self) -> str:
        spread = '' if self.deviation is None else f' ± {self.deviation:.2g} (n={self.count})'
        return _number(self.mean) + spread


def find(places: Sequence[str | os.PathLike]) -> list[Outcome]:
    """Returns the runs in some folders, in the order of their names where a folder holds several.

    Args:
        places: workdirs, or folders that hold some, as those of a sweep and of a config with stages do.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no run.
        ValueError: a run's config.json is missing or broken.
    """
    workdirs = [workdir for place in places for workdir in _workdirs_at(pathlib.Path(place))]
    workdirs = list(dict.fromkeys(workdirs))
    root = os.path.commonpath([workdir.absolute().parent for workdir in workdirs])
    name = lambda workdir: workdir.absolute().relative_to(root).as_posix()
    return [Outcome(name(workdir), workdir, _config(workdir), read(workdir / 'metrics.jsonl')) for workdir in workdirs]


def differing(outcomes: Sequence[Outcome]) -> list[str]:
    """Returns the places of the config values that are not the same in all runs."""
    places = dict.fromkeys(place for outcome in outcomes for place in outcome.config)
    values = lambda place: [outcome.value(place) for outcome in outcomes]
    return [place for place in places if any(value != values(place)[0] for value in values(place))]


def groups(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Returns the runs whose configs differ in nothing but the seed, together."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        kept = {place: value for place, value in outcome.config.items() if not _is_seed(place)}
        found.setdefault(json.dumps(kept, sort_keys=True), []).append(outcome)
    return list(found.values())


def chosen(outcomes: Sequence[Outcome], figures: Sequence[str] = ()) -> list[str]:
    """Returns the figures to show: those asked for, or else those that decide which checkpoint is the best.

    Raises:
        ValueError: no run has measured a figure that is wanted; the nearest one is named.
    """
    known = dict.fromkeys(key for outcome in outcomes for row in outcome.rows for key in row if key != 'step')
    for figure in figures:
        if figure not in known:
            raise ValueError(f'no run has measured {figure!r}{nearest(figure, known)}')
    return list(figures) or list(dict.fromkeys(outcome.decides[0] for outcome in outcomes))


def table(outcomes: Sequence[Outcome], figures: Sequence[str]) -> str:
    """Returns a table of runs and, if some differ only in the seed, a table of means below it."""
    places = differing(outcomes)
    parts = [_aligned(_rows(outcomes, places[:_MOST_KEYS], figures))]
    if len(places) > _MOST_KEYS:
        parts.append(f'They differ in {len(places) - _MOST_KEYS} more keys, which --json lists.')
    together = groups(outcomes)
    if any(len(group) > 1 for group in together):
        shown = [place for place in places[:_MOST_KEYS] if not _is_seed(place)]
        parts.append('Mean ± standard deviation over runs that differ in the seed at most:')
        parts.append(_aligned(_mean_rows(together, shown, figures)))
    return '\n\n'.join(parts)


def as_data(outcomes: Sequence[Outcome], figures: Sequence[str]) -> dict[str, Any]:
    """Returns what `table` shows, and all keys in which the configs differ, as plain data."""
    places = differing(outcomes)

    def of_run(outcome: Outcome) -> dict[str, Any]:
        return {
            'name': outcome.name,
            'workdir': str(outcome.workdir),
            'config': {place: outcome.value(place) for place in places},
            'step': outcome.step,
            'best_step': outcome.best_step,
            'final': {figure: _finite(outcome.final(figure)) for figure in figures},
            'at_best': {figure: _finite(outcome.at_best(figure)) for figure in figures},
        }

    def of_group(group: Sequence[Outcome]) -> dict[str, Any]:
        spread = lambda value: {figure: Spread.of([value(o, figure) for o in group])._asdict() for figure in figures}
        return {
            'runs': [outcome.name for outcome in group],
            'final': spread(Outcome.final),
            'at_best': spread(Outcome.at_best),
        }

    return {'runs': list(map(of_run, outcomes)), 'means': list(map(of_group, groups(outcomes)))}


def short_names(places: Sequence[str]) -> list[str]:
    """Returns places or figures by as few of their last words as tell them apart.

    >>> short_names(['seed', 'optimizer.schedule.peak', 'train_transforms[1].mean'])
    ['seed', 'peak', 'mean']
    >>> short_names(['teacher/seed', 'student/seed'])
    ['teacher/seed', 'student/seed']
    """
    words = [re.findall(r'[^./]+[./]?', place) for place in places]

    def short(own: Sequence[str]) -> str:
        ends = (tuple(own[-count:]) for count in range(1, len(own) + 1))
        alone = lambda end: sum(tuple(other[-len(end) :]) == end for other in words) == 1
        return ''.join(next(filter(alone, ends), own))

    return [short(own) for own in words]


def _workdirs_at(place: pathlib.Path) -> list[pathlib.Path]:
    if not place.is_dir():
        raise FileNotFoundError(f'{place} is no folder: name the workdir of a run, or the folder of a sweep.')
    found = list(_workdirs(place))
    if not found:
        raise FileNotFoundError(
            f'{place} holds no run (no metrics.jsonl in it or below it): name the workdir of a run, or the folder of a '
            'sweep.'
        )
    return found


def _workdirs(place: pathlib.Path) -> Iterator[pathlib.Path]:
    if (place / 'metrics.jsonl').exists():
        yield place
        return
    for folder in sorted((path for path in place.iterdir() if path.is_dir()), key=_natural):
        yield from _workdirs(folder)


def _natural(path: pathlib.Path) -> list[Any]:
    """Sorts numbers in names by their values: seed=10 comes after seed=9."""
    return [(0, float(part), '') if part.isdecimal() else (1, 0.0, part) for part in re.split(r'(\d+)', path.name)]


def _config(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the config of a run by places, with those of the stages that it reads."""
    try:
        config = dict(_flat(renamed(json.loads((workdir / 'config.json').read_text()))))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f'the config of {workdir} cannot be read ({error}): leave that folder out.') from error
    record = workdir / 'stage.json'
    for name in json.loads(record.read_text()).get('reads', {}) if record.exists() else ():
        if (workdir.parent / name / 'config.json').exists():
            config |= {f'{name}/{place}': value for place, value in _config(workdir.parent / name).items()}
    return config


def _flat(node: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flat(value, f'{place}.{key}' if place else key)
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        for index, item in enumerate(node):
            yield from _flat(item, f'{place}[{index}]')
    else:
        yield place, node


def _is_seed(place: str) -> bool:
    """Whether a place is the seed of a run, or of a stage that it reads."""
    return place.split('/')[-1] == 'seed'


def _rows(outcomes: Sequence[Outcome], places: Sequence[str], figures: Sequence[str]) -> list[list[str]]:
    names = short_names(figures)
    rows = [['run', *short_names(places), 'step', *names, 'best step', *(f'{name} at best' for name in names)]]
    for outcome in outcomes:
        values = [outcome.step, *map(outcome.final, figures), outcome.best_step, *map(outcome.at_best, figures)]
        config = [_value(outcome.value(place)) for place in places]
        rows.append([outcome.name, *config, *map(_number, values)])
    return rows


def _mean_rows(together: Sequence[Sequence[Outcome]], places: Sequence[str], figures: Sequence[str]) -> list[list[str]]:
    names = short_names(figures)
    rows = [['runs', *short_names(places), 'steps', *names, *(f'{name} at best' for name in names)]]
    for group in together:
        name = group[0].name if len(group) == 1 else f'{group[0].name} and {len(group) - 1} more'
        config = [_value(group[0].value(place)) for place in places]
        spreads = [
            Spread.of([value(o, f) for o in group]) for value in (Outcome.final, Outcome.at_best) for f in figures
        ]
        steps = sorted({outcome.step for outcome in group})
        rows.append([name, *config, '-'.join(map(str, steps[:1] + steps[1:][-1:])), *map(str, spreads)])
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    line = lambda row: '  '.join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))])
    return '\n'.join(line(row).rstrip() for row in rows)


def _value(value: Any) -> str:
    """Returns a config value as a cell, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else f'{text[:21]}...'


def _number(value: float | None) -> str:
    return '-' if value is None else str(value) if isinstance(value, int) else f'{value:.4g}'


def _finite(value: float | None) -> float | None:
    """Returns a value that JSON can say, None for one that is not finite."""
    return value if value is not None and math.isfinite(value) else None
