"""Pictures of figures, drawn by matplotlib (extra ``plots``) without a display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Class names are written beside a matrix of at most so many.
_NAMED = 40


def confusion(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """Returns a PNG of a confusion matrix, each row as shares of its class.

    Args:
        matrix: counts (K, K), true classes in rows.
        names: of the classes.
    """
    classes = len(matrix)
    figure = _figure(max(4.0, min(10.0, 0.4 * classes + 2)))
    axes = figure.subplots()
    with np.errstate(invalid='ignore', divide='ignore'):
        shares = np.nan_to_num(matrix / matrix.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap='viridis', vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label='share of the true class', fraction=0.046)
    axes.set(xlabel='taken for', ylabel='true class')
    if classes <= _NAMED:
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    return _png(figure)


def reliability(bins: Mapping[str, np.ndarray]) -> bytes:
    """Returns a PNG of accuracy over confidence, and of how many examples are that confident.

    Args:
        bins: ``count``, ``right`` and summed ``confidence`` of each bin of equal width.
    """
    figure = _figure(4.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    full = bins['count'] > 0
    count = bins['count'][full]
    above.plot([0, 1], [0, 1], color='0.7', linewidth=1)
    above.plot(bins['confidence'][full] / count, bins['right'][full] / count, marker='o')
    above.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    edges = np.linspace(0, 1, len(bins['count']) + 1)
    below.bar(edges[:-1], bins['count'], width=np.diff(edges), align='edge', edgecolor='white')
    below.set(xlabel='confidence', ylabel='examples')
    return _png(figure)


def curves(of: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> bytes:
    """Returns a PNG of curves over steps.

    Args:
        of: steps and values by name.
        label: what the values are.
    """
    figure = _figure(5.0)
    axes = figure.subplots()
    for name, (steps, values) in of.items():
        axes.plot(steps, values, label=name, linewidth=1.2)
    axes.set(xlabel='step', ylabel=label)
    axes.legend(fontsize='small')
    return _png(figure)


def _figure(side: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'pictures of figures are drawn by matplotlib, which is not installed: pip install matplotlib.'
        ) from error
    return Figure(figsize=(side, side), layout='constrained')


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=100)
    return buffer.getvalue()
