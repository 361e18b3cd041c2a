"""The rows of a run's ``metrics.jsonl``, read without jax, so that finished runs can be looked at in no time."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a ``metrics.jsonl``; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def newest(rows: Sequence[Row], prefix: str) -> dict[str, float]:
    """Returns the keys that begin with `prefix` of the last step that has any."""
    having = [row for row in rows if any(key.startswith(prefix) for key in row)]
    of_step = [row for row in having if row['step'] == having[-1]['step']]
    return {key: value for row in of_step for key, value in row.items() if key.startswith(prefix)}


def best_step(rows: Sequence[Row], key: str, mode: str) -> int | None:
    """Returns the first step with the best finite value of a figure, None where there is none.

    Args:
        rows: in the order of their steps.
        key: such as ``eval/accuracy``.
        mode: which value is the best, ``max`` or ``min``.
    """
    sign = 1 if mode == 'max' else -1
    values = [(sign * row[key], row['step']) for row in rows if key in row and math.isfinite(row[key])]
    return max(values, key=lambda item: item[0])[1] if values else None


def evaluations_since_best(rows: Sequence[Row], key: str, mode: str) -> int:
    """Returns how often a figure was measured after its best value, or at all where none was finite.

    Args:
        rows, key, mode: as those of `best_step`.
    """
    best = best_step(rows, key, mode)
    return sum(key in row and (best is None or row['step'] > best) for row in rows)
