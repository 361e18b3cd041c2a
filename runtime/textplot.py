"""Curves as plain text, for a terminal."""

import math
from collections.abc import Mapping, Sequence

Curve = Sequence[tuple[float, float]]

# The marks of curves, in their order; from the beginning again where there are more.
_MARKS = 'o+x*#@%&$=abcdefghijklmnpqrstuvwyz'
# Of the labels beside the vertical axis.
_LABEL = 10


def plot(curves: Mapping[str, Curve], title: str, width: int = 80, height: int = 16) -> str:
    """Returns curves in one frame, and below it which mark is whose; where two meet, the later one is seen.

    Args:
        curves: points (x, y) by name, in the order of x; values that are not finite are left out.
        title: what y is.
        width: columns of the whole picture.
        height: rows of the frame.
    """
    finite = {name: [(x, y) for x, y in curve if math.isfinite(y)] for name, curve in curves.items()}
    points = [point for curve in finite.values() for point in curve]
    if not points:
        return f'{title}: nothing to draw'
    columns = max(width - _LABEL - 2, 8)
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points))
    canvas = [[' '] * columns for _ in range(height)]
    for mark, curve in zip(_marks(len(finite)), finite.values()):
        for x, y in _dense(curve, (right - left) / (2 * columns)):
            row = height - 1 - _place(y, low, high, height)
            canvas[row][_place(x, left, right, columns)] = mark
    labels = {0: f'{high:.4g}', height - 1: f'{low:.4g}'}
    lines = [f'{labels.get(n, ""):>{_LABEL}} |{"".join(row)}'.rstrip() for n, row in enumerate(canvas)]
    ends = f'{left:g}'.ljust(columns - len(f'{right:g}')) + f'{right:g}'
    legend = [f'{mark:>{_LABEL}}  {name}' for mark, name in zip(_marks(len(finite)), finite)]
    return '\n'.join([title, *lines, f'{"":{_LABEL}} +{"-" * columns}', f'{"":{_LABEL}}  {ends}', *legend])


def _marks(count: int) -> str:
    return ''.join(_MARKS[n % len(_MARKS)] for n in range(count))


def _place(value: float, low: float, high: float, count: int) -> int:
    """Returns which of `count` cells between `low` and `high` a value is in."""
    share = (value - low) / (high - low) if high > low else 0.5
    return min(int(share * count), count - 1)


def _dense(curve: Curve, step: float) -> list[tuple[float, float]]:
    """Returns the points of a curve with others on the lines between them, one about every `step`."""
    dense = list(curve[:1])
    for (x0, y0), (x1, y1) in zip(curve, curve[1:]):
        parts = max(math.ceil((x1 - x0) / step), 1) if step else 1
        dense += [(x0 + (x1 - x0) * n / parts, y0 + (y1 - y0) * n / parts) for n in range(1, parts + 1)]
    return dense
