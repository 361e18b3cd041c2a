"""Figures of several finished runs side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from longview.methods.computation import Made, Work

_MODES = {'max': max, 'min': min}


@dataclasses.dataclass(frozen=True)
class Table:
    """A computation: ``table.json`` and ``table.md``, the last and the best value of some figures of some runs.

    Attributes:
        runs: workdirs by the names they have in the table, such as ``{'teacher': {'stage': 'teacher'}}`` in a config.
        figures: names of figures as in metrics.jsonl.
        mode: which value is the best, ``max`` or ``min``.
    """

    runs: Mapping[str, str]
    figures: Sequence[str] = ('eval/accuracy',)
    mode: str = 'max'

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f'Table.mode is {self.mode!r}: use one of {", ".join(_MODES)}.')

    def __call__(self, work: Work) -> Made:
        """Returns the files.

        Raises:
            ValueError: a run has not measured a figure.
        """
        found = {name: self._of_run(name, work.metrics(path)) for name, path in self.runs.items()}
        return Made(files={'table.json': found, 'table.md': self._text(found)})

    def _of_run(self, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        figures = {}
        for figure in self.figures:
            values = [row[figure] for row in rows if figure in row]
            if not values:
                known = sorted({key for row in rows for key in row if key.startswith('eval/')})
                raise ValueError(f'{name} has measured no {figure}: take one of {", ".join(known)}.')
            figures[figure] = {'last': values[-1], 'best': _MODES[self.mode](values)}
        return figures

    def _text(self, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
        heads = ['run', *(f'{figure}, {kind}' for figure in self.figures for kind in ('last', 'best'))]
        lines = [
            [name, *(f'{figures[figure][kind]:.4f}' for figure in self.figures for kind in ('last', 'best'))]
            for name, figures in found.items()
        ]
        rows = [heads, ['---'] * len(heads), *lines]
        return ''.join(f'| {" | ".join(row)} |\n' for row in rows)
