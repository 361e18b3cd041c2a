"""The picture of a profile, drawn by matplotlib (extra ``plots``) without a display."""

from collections.abc import Sequence
from typing import Any

# Colours of what binds a module, and of what memory is for.
_BOUND = {'compute': 'tab:blue', 'memory': 'tab:orange', '': '0.7'}
_KIND = {
    'argument': 'tab:green',
    'result': 'tab:olive',
    'temporary': 'tab:purple',
    'constant': 'tab:brown',
    'between': '0.7',
}


def draw(modules: Sequence[Any], memory: Sequence[Any], step: str) -> Any:
    """Returns a figure of where the time and the memory of a step go, one bar each.

    Args:
        modules: rows of `longview.runtime.profile`, the costliest first.
        memory: and its parts, the largest first.
        step: the name of the program.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'the picture is drawn by matplotlib, which is not installed: pip install matplotlib.'
        ) from error
    height = 0.25 * max(len(modules), len(memory)) + 1.5
    figure = Figure(figsize=(14, max(3.0, height)), layout='constrained')
    left, right = figure.subplots(1, 2)
    for row, each in enumerate(modules):
        left.barh(row, each.ms, color=_BOUND[each.bound], label=each.bound or 'not known')
        said = 'launch only' if each.launches == each.count else _share(each)
        # As in the table: the bar is without these.
        some = ' +' if 0 < each.launches < each.count else ''
        left.annotate(f'{some} {said}', (each.ms, row), va='center', fontsize='small')
    for row, each in enumerate(memory):
        right.barh(row, each.bytes / 2**20, color=_KIND[each.kind], label=each.kind)
    left.set(
        xlabel='ms in all (+: without what is launch only), and the share of the roof',
        title='time by module, and what binds it',
    )
    right.set(xlabel='MiB', title=f'memory of {step} at its fullest')
    for axes, rows in ((left, modules), (right, memory)):
        axes.set_yticks(range(len(rows)), [each.name for each in rows], fontsize='small')
        axes.invert_yaxis()
        axes.margins(x=0.1)
        if rows:
            _legend(axes)
    return figure


def _share(row: Any) -> str:
    """Returns the share of the roof, as the table has it; nothing where it is not known."""
    return '' if row.roof is None else f'{">=" if row.least else ""}{100 * row.roof:.0f} %'


def _legend(axes: Any) -> None:
    """Names each colour once."""
    bars, labels = axes.get_legend_handles_labels()
    first = dict(zip(labels, bars))
    axes.legend(first.values(), first.keys(), fontsize='small')
