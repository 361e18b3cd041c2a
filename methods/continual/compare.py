"""Runs over the same sessions side by side: accuracy after each session on the classes of each session."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from longview.methods.computation import Made, Work
from longview.methods.figures import continual

_PIXELS = 24  # of a square's side in the picture, a line included
_LINE = 128  # gray, which neither 0 nor 1 is


@dataclasses.dataclass(frozen=True)
class Compare:
    """A computation: the accuracy matrices of runs of `methods.continual.incremental:Incremental`, and their figures.

    It writes ``sessions.json`` (of each name ``matrix`` and the figures of methods/figures/continual.py), the same in
    percent as tables in ``sessions.md``, and ``sessions.png``, the matrices from left to right, from black for 0 to
    white for 1, a row for each session and a column for the classes of each.

    Attributes:
        runs: by the names in the tables, the workdir of a run over all sessions, or those of the runs of each session.
        figure: ``accuracy`` among all classes seen, or ``task_accuracy`` among the classes of an example's own session.
    """

    runs: Mapping[str, str | Sequence[str]]
    figure: str = 'accuracy'

    def __call__(self, work: Work) -> Made:
        """Returns the three files.

        Raises:
            ValueError: a run has not been evaluated after each of its sessions.
        """
        matrices = {}
        for name, workdirs in self.runs.items():
            workdirs = [workdirs] if isinstance(workdirs, str) else workdirs
            lines = [line for workdir in workdirs for line in work.metrics(workdir)]
            matrices[name] = matrix_of(lines, self.figure, name)
        figures = {name: continual.figures(matrix) for name, matrix in matrices.items()}
        plain = {name: {'matrix': matrix.tolist(), **figures[name]} for name, matrix in matrices.items()}
        return Made(
            files={'sessions.json': plain, 'sessions.md': table(matrices), 'sessions.png': picture(matrices.values())}
        )


def matrix_of(lines: Sequence[Mapping[str, Any]], figure: str, name: str) -> Float[np.ndarray, 't t']:
    """Returns the accuracies on each session's classes (columns) after each session (rows).

    Args:
        lines: of metrics.jsonl; the last evaluation in a session counts.
        figure: ``accuracy`` or ``task_accuracy``.
        name: of the run, for messages.

    Raises:
        ValueError: a session has no evaluation, or evaluations have no such figure.
    """
    last = {int(line['eval/session']): line for line in lines if 'eval/session' in line}
    column = re.compile(rf'eval/session(\d+)/{figure}')
    count = max((sum(bool(column.fullmatch(key)) for key in line) for line in last.values()), default=0)
    if not count or sorted(last) != list(range(count)):
        raise ValueError(
            f'{name} was evaluated in the sessions {sorted(last)} and has eval/session.../{figure} of {count}: let it '
            'be a run of methods.continual.incremental:Incremental, evaluated at the end of each session.'
        )
    return np.array([[last[t][f'eval/session{k}/{figure}'] for k in range(count)] for t in range(count)])


def table(matrices: Mapping[str, Float[np.ndarray, 't t']]) -> str:
    """Returns the figures of all runs and then the matrix of each, in percent, as tables of Markdown."""
    figures = {name: continual.figures(matrix) for name, matrix in matrices.items()}
    titles = [title.replace('_', ' ') for title in next(iter(figures.values()))]
    parts = [_table(['', *titles], [[name, *map(_percent, each.values())] for name, each in figures.items()])]
    for name, matrix in matrices.items():
        header = [f'{name}, after session', *(f'session {k}' for k in range(len(matrix)))]
        parts.append(_table(header, [[str(t), *map(_percent, row)] for t, row in enumerate(matrix)]))
    return '\n'.join(parts)


def picture(matrices: Iterable[Float[np.ndarray, 't t']]) -> UInt8[np.ndarray, 'h w 1']:
    """Returns matrices of accuracies from left to right, a gray square for each number, with lines between them."""
    squares = [_squares(np.round(255 * np.clip(matrix, 0, 1)).astype(np.uint8)) for matrix in matrices]
    height = max(map(len, squares))
    framed = [np.pad(s, ((0, height - len(s)), (0, _PIXELS)), constant_values=255) for s in squares]
    return np.concatenate(framed, axis=1)[:, :-_PIXELS, None]


def _squares(gray: UInt8[np.ndarray, 't t']) -> UInt8[np.ndarray, 'h w']:
    large = np.pad(gray.repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1), ((0, 1), (0, 1)))
    large[::_PIXELS], large[:, ::_PIXELS] = _LINE, _LINE
    return large


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _percent(value: float) -> str:
    return f'{100 * value:.2f}'
