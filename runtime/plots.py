"""Pictures of figures, drawn by matplotlib (extra ``plots``) without a display.

What looks inside of a network (pictures.py) comes as a figure of matplotlib, which a notebook shows by itself.
"""

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
    return png(figure)


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
    return png(figure)


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
    return png(figure)


def by_depth(places: Sequence[str], panels: Mapping[str, Mapping[str, Mapping[int, float]]], title: str = '') -> Any:
    """Returns a figure of curves over the depth of a network, on logarithmic scales.

    Args:
        places: of the network, in order.
        panels: by what their numbers are, from above to below: by name, the value at each place that has one. What is
            0, or rounding beside the largest value of its panel, is left out.
        title: of the figure.
    """
    figure = _figure(max(6.0, min(16.0, 0.25 * len(places) + 3)), 2.0 * len(panels) + 1.4)
    figure.suptitle(title, fontsize='medium')
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, drawn) in zip(rows, panels.items()):
        least = 1e-10 * max(value for values in drawn.values() for value in values.values())
        for name, values in drawn.items():
            above = {place: value for place, value in values.items() if value > least}
            axes.plot(list(above), list(above.values()), marker='.', linewidth=1.2, label=name)
        axes.set(ylabel=label, yscale='log')
        low, high = axes.get_ylim()
        if high < 10 * low:  # less than a power of ten is no matter of scale
            middle = np.sqrt(low * high)
            axes.set_ylim(middle / np.sqrt(10), middle * np.sqrt(10))
        axes.grid(axis='y', color='0.9')
    figure.legend(*rows[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, fontsize='small')
    shown = range(0, len(places), -(-len(places) // _NAMED))
    rows[-1].set_xticks(shown, [places[n] for n in shown], rotation=90, fontsize='small')
    return figure


def field(scores: np.ndarray, areas: Mapping[float, float], title: str = '') -> Any:
    """Returns a figure of an effective receptive field.

    Args:
        scores: of the pixels (H, W), 0 or more; their logarithm is drawn, over four powers of ten.
        areas: by share of the scores, the share of the image that holds it.
        title: of the figure.
    """
    figure = _figure(5.0, 5.4)
    axes = figure.subplots()
    relative = np.log10(np.maximum(scores / max(scores.max(), np.finfo(scores.dtype).tiny), 1e-4))
    image = axes.imshow(relative, cmap='viridis', vmin=-4, vmax=0)
    figure.colorbar(image, ax=axes, label='contribution, log10 of its share of the largest', fraction=0.046)
    shares, parts = (', '.join(f'{100 * number:.3g}' for number in each) for each in (areas, areas.values()))
    axes.set(xticks=[], yticks=[], xlabel=f'{shares} % of the scores lie in\n{parts} % of the area')
    figure.suptitle(title, fontsize='medium')
    return figure


def tiles(images: np.ndarray, title: str = '') -> Any:
    """Returns a figure of small images beside and below each other.

    Args:
        images: (N, h, w, 1) or (N, h, w, 3), from 0 to 1.
        title: of the figure.
    """
    across = int(np.ceil(np.sqrt(len(images))))
    down = -(-len(images) // across)
    whole = np.ones((down * across, images.shape[1] + 1, images.shape[2] + 1, 3))
    whole[: len(images), 1:, 1:] = images
    whole = whole.reshape(down, across, *whole.shape[1:]).swapaxes(1, 2)
    figure = _figure(6.0, 6.0 * down / across + 0.5)
    axes = figure.subplots()
    axes.imshow(whole.reshape(down * whole.shape[1], -1, 3), interpolation='nearest')
    axes.set_axis_off()
    figure.suptitle(title, fontsize='medium')
    return figure


def maps(rows: Mapping[str, np.ndarray], picture: np.ndarray | None = None, title: str = '') -> Any:
    """Returns a figure of maps over a picture: a row for each layer, a column for each head.

    Args:
        rows: by name, maps (heads, rows, columns), 0 or more; each is drawn from 0 to its own largest.
        picture: (H, W, 1) or (H, W, 3), in the first column; it is stretched from black to white.
        title: of the figure.
    """
    first = 0 if picture is None else 1
    across = max(map(len, rows.values())) + first
    figure = _figure(1.3 * across + 1, 1.35 * len(rows) + 0.6)
    cells = figure.subplots(len(rows), across, squeeze=False)
    for row, (name, each) in zip(cells, rows.items()):
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
        if picture is not None:
            low, high = picture.min(), picture.max()
            row[0].imshow(np.broadcast_to((picture - low) / (high - low or 1), (*picture.shape[:2], 3)))
        for axes, one in zip(row[first:], each):
            axes.imshow(one, cmap='viridis', vmin=0)
        row[0].set_ylabel(name, fontsize='x-small')
    figure.suptitle(title, fontsize='medium')
    return figure


def _figure(width: float, height: float | None = None) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'pictures of figures are drawn by matplotlib, which is not installed: pip install matplotlib.'
        ) from error
    figure = Figure(figsize=(width, width if height is None else height), layout='constrained')
    # A notebook shows figures of pyplot; one made without it says here how.
    figure._repr_png_ = lambda: png(figure)
    return figure


def png(figure: Any) -> bytes:
    """Returns a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=100)
    return buffer.getvalue()
