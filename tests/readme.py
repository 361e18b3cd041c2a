"""The README's table of what there is, counted; and its picture of accuracy against cost.

python -m tests.readme              # writes the table
python -m tests.readme --picture    # also draws docs/pictures/digits.png; it traces some thirty networks

tests/test_readme.py holds the table to what is counted.
"""

import importlib
import io
import math
import pathlib
import re
import sys

from matplotlib.figure import Figure

from longview import modelzoo
from longview.engine import dry_run
from longview.kernels import dispatch
from longview.modelzoo import published
from tests import durations, ledger
from tests.goldens import table

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
PICTURE = ROOT / 'docs' / 'pictures' / 'digits.png'
BEGIN, END = '<!-- table: python -m tests.readme -->\n', '<!-- end of the table -->'


def written() -> str:
    """Returns the README with its table counted anew."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + counted() + END + after


def counted() -> str:
    """Returns the table."""
    held = [ledger.claims(paper) for paper in ledger.papers()]
    claim = lambda name: sum(name in claims for claims in held)
    names = ledger.listed()
    families = {modelzoo.find(name)[0].__name__ for name in names}
    functions = len(table.FUNCTIONS) + len(table.DATA)
    rows = [
        (
            'papers',
            f'{len(held)} planned; {sum(map(bool, held))} begun, of which {claim("exact")} equal published numbers and '
            f'{claim("trains")} are trained on real data',
            'docs/papers.md',
        ),
        (
            'networks',
            f'{len(names)} published variants of {len(families)} families, {len(published.table())} of them with '
            'published weights',
            'modelzoo/README.md',
        ),
        (
            'goldens',
            f"{len(table.NETWORKS)} networks and {functions} functions, compared with what the authors' code computes",
            'tests/goldens',
        ),
        ('configs', f'{len(configs())}, of papers, of methods and of runs with stages', 'configs'),
        (
            'kernels',
            f'{len(dispatch.OPS)} ops, forward and backward, run on CPUs and compiled for GPUs and TPUs',
            'docs/kernels.md',
        ),
        ('tests', f'more than {hundreds(sum(row.tests for row in durations.rows())):,}', 'tests'),
    ]
    lines = ['| | | |', '|---|---|---|', *(f'| {what} | {much} | [{where}]({where}) |' for what, much, where in rows)]
    return '\n'.join(lines) + '\n'


def configs() -> list[str]:
    """Returns the names of the configs that train something."""
    return sorted(
        path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'base', 'recorded')
    )


def hundreds(count: int) -> int:
    """Returns a number rounded down to hundreds, so that a new test does not change the README.

    >>> hundreds(4643)
    4600
    """
    return count // 100 * 100


def draw() -> bytes:
    """Returns a PNG: accuracy on the digits, as docs/results.md has it, against multiply-adds, config by config."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    placed: list[tuple[float, float]] = []
    for name, accuracy in sorted(trained().items(), key=lambda row: (row[1], row[0])):
        cost = _cost(name) / 1e6
        crowd = sum(abs(math.log(cost / other)) < 0.5 and abs(accuracy - at) < 0.1 for other, at in placed)
        placed.append((cost, accuracy))
        axes.plot(cost, accuracy, 'o', markersize=4, color='tab:blue')
        below = (4, 3 - 9 * crowd)  # names of networks that lie close to each other stand in a column
        axes.annotate(name, (cost, accuracy), xytext=below, textcoords='offset points', fontsize=7)
    axes.set(xscale='log', xlabel='million multiply-adds an image', ylabel='accuracy on 359 test images, %')
    axes.margins(x=0.12)
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return buffer.getvalue()


def trained() -> dict[str, float]:
    """Returns the test accuracy in percent of each config in the table of families on digits, and of ViG."""
    section = (ROOT / 'docs' / 'results.md').read_text().partition('## The other families on digits')[2]
    rows = re.findall(r'^\| (\w+)[^|]*\|[^|]*\|[^|]*\| ([\d.]+) % \|', section.partition('\n## ')[0], re.M)
    first = next(run for run in ledger.runs() if (run.config, run.seed) == ('vig_s:digits', '0'))
    return {'vig_s': float(first.accuracy)} | {name: float(accuracy) for name, accuracy in rows}


def _cost(config: str) -> int:
    made = importlib.import_module(f'longview.configs.{config}').get_config('digits')
    said = re.search(r'([\d,.e+]+) M multiply-adds', dry_run.report(made.to_dict()))
    return math.ceil(float(said[1].replace(',', '')) * 1e6)


if __name__ == '__main__':
    README.write_text(written())
    if '--picture' in sys.argv[1:]:
        PICTURE.write_bytes(draw())
