"""The ledger of the papers: what is claimed of each, and what shows it.

    python -m tests.ledger        # writes docs/parameters.tsv and docs/papers.md; it traces the whole zoo

docs/papers.tsv says, by hand, where a paper is to be found in the project; docs/trained.tsv holds what runs on real
data reached. Everything else is computed from the code and the tests, and tests/test_papers.py fails where the page
claims more. docs/parameters.tsv is counted from the code, variant by variant: its number of parameters, the
classifier's included, and a fingerprint of the path, shape and type of each of its variables. A paper may claim:

- built: it is a network, and each of its variants has the number of parameters that its paper gives, or a reason
  stands in `UNLIKE`. Multiply-adds are counted by `pytest -m heavy tests/test_papers.py`: the paper's, or a reason
  stands in `REASONS`. Layers and kernels have no such figures and do not claim it.
- exact: the goldens named agree; tests/goldens/table.py, which the tests run, has a row for each, with bars (of a
  network: output, input gradient, number of parameters; of a function: outputs and gradients).
- weights: every parameter of every variant has one published name, with none left over on either side, and a tiny
  variant's file is written and read back bit for bit. The published files themselves were not at hand.
- trains: a config of it was trained by train.py on real data. The percentage is accuracy on the test split; of features
  learned without labels, that of their probe, neighbours or few examples (docs/results.md).
- reproduced: a figure of the paper was reached. None is yet.
"""

import csv
import fnmatch
import functools
import hashlib
import importlib
import pathlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import jax
from flax import traverse_util

from longview import counting, modelzoo
from tests.goldens import table
from tests.modelzoo.tiny import shapes, sized

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'papers.md'
COUNTED = ROOT / 'docs' / 'parameters.tsv'
KINDS = {
    'kernel': 'Kernels',
    'backbone': 'Backbones',
    'block': 'Blocks',
    'dynamic': 'Dynamic inference',
    'recipe': 'Recipes',
    'ssl': 'Self-supervised learning',
    'peft': 'Adaptation',
    'compress': 'Compression',
    'dense': 'Dense recognition and restoration',
    'modality': 'Other modalities',
    'generative': 'Generative models',
    'theory': 'Theory',
    'other': 'Other',
}
CLAIMS = ('built', 'exact', 'weights', 'trains', 'reproduced')
REPRODUCED = ()

# Why multiply-adds are not the paper's, by pattern of the variant.
REASONS = {
    'convit_small': 'the products of a ViT of width 432 alone come to 5.7 G; how the paper counted 5.4 is not known',
    'resnet50': 'the stride is in the 3x3 convolutions, as in the published weights; the paper has it in the 1x1',
    'svt_[sbl]': 'products of attention and the transform count here; how the paper counted is not known',
    'vig_small': 'its 22 M weights on 196 tokens alone come to 4.3 G; how the paper counted 3.5 is not known',
}
# Why parameters are not the paper's.
UNLIKE = {
    'gla_340m': 'the figure leaves out the last matrix, of 32.8 M',
    'pyramidnet110_a84_cifar': "the authors' table cuts 3.89 M, which leaves out the norms, to 3.8",
    'pyramidnet110_a270_cifar': "28.44 M without the norms; why the authors' table has 28.3 is not known",
    'pyramidnet200_a240_cifar': 'the figure leaves out the norms: 26.57 M are convolutions and classifier',
    'pyramidnet236_a220_cifar': 'the figure leaves out the norms: 26.77 M are convolutions and classifier',
    'svt_l': 'the figure leaves out the matrix for pixels, of 0.51 M: 54.08 M without',
    'crossvit_tiny_240': "7.01 M here as in timm; why the paper's table has 6.9 is not known",
    'crossvit_small_240': "26.86 M here as in timm; why the paper's table has 26.7 is not known",
    'coatnet_3_224': "167.0 M in timm's reading; why the paper's table has 168 is not known",
    'preact_resnet1001_cifar': 'the figure leaves out the norms, of 0.15 M: 10.18 M are convolutions and classifier',
}


class Paper(NamedTuple):
    """A row of docs/papers.tsv; `models` are patterns of variants of the file."""

    id: str
    title: str
    kind: str
    configs: tuple[str, ...]
    file: str | None
    models: tuple[str, ...]
    goldens: tuple[str, ...]


class Run(NamedTuple):
    """A row of docs/trained.tsv: a run to its end, and the accuracy on the test split in percent."""

    config: str
    seed: str
    steps: str
    accuracy: str


class Counts(NamedTuple):
    """A row of docs/parameters.tsv, without the variant's name."""

    parameters: int
    fingerprint: str


def papers() -> list[Paper]:
    """Returns all rows."""
    many = lambda cell: () if cell == '-' else tuple(cell.split())
    return [
        Paper(
            row['id'],
            row['title'],
            row['kind'],
            many(row['configs']),
            None if row['file'] == '-' else row['file'],
            many(row['models']),
            many(row['goldens']),
        )
        for row in _read('papers.tsv')
    ]


def runs() -> list[Run]:
    """Returns what was trained."""
    return [Run(**row) for row in _read('trained.tsv')]


def _read(name: str) -> list[dict[str, str]]:
    with open(ROOT / 'docs' / name, newline='') as file:
        return list(csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE))


def variants(paper: Paper) -> list[str]:
    """Returns the variants that a paper's patterns match in its file, but for the tests' own."""
    if not paper.models:
        return []
    names = [name for name in _family(paper).VARIANTS if not name.endswith('_test')]
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in paper.models)]


def _family(paper: Paper) -> ModuleType:
    return importlib.import_module('longview.' + paper.file.removesuffix('.py').replace('/', '.'))


def parameters(name: str) -> int:
    """Returns the parameters of a variant with its classifier, at the paper's image size, as they were counted last."""
    return counted()[name].parameters


@functools.cache
def counted() -> dict[str, Counts]:
    """Returns the rows of docs/parameters.tsv by variant."""
    return {row['variant']: Counts(int(row['parameters']), row['fingerprint']) for row in _read(COUNTED.name)}


def count(name: str) -> Counts:
    """Returns what docs/parameters.tsv should say of a variant, from its code."""
    variables = shapes(name).variables
    leaves = traverse_util.flatten_dict(variables, sep='/')
    lines = sorted(f'{path} {leaf.shape} {leaf.dtype}' for path, leaf in leaves.items())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    return Counts(parameters, hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12])


def listed() -> list[str]:
    """Returns the variants that stand in docs/parameters.tsv: all but the tests' own."""
    return [name for name in modelzoo.list_models() if not name.endswith('_test')]


def counts() -> str:
    """Returns docs/parameters.tsv, counted anew."""
    rows = [('variant', *Counts._fields), *((name, *count(name)) for name in listed())]
    return ''.join('\t'.join(map(str, row)) + '\n' for row in rows)


def multiply_adds(name: str) -> int:
    """Returns the multiply-adds of a variant for one image of the paper's size."""
    model, pair = sized(name)
    one = jax.ShapeDtypeStruct((1, *pair.shape[1:]), pair.dtype)
    return counting.multiply_adds(model.apply, shapes(name).variables, one)


def agrees(count: float, said: float, within: float) -> bool:
    """Whether a count is what a paper says, which rounds or cuts off, or nearly so."""
    digits = f'{said:g}'.partition('.')[2]
    unit = 100 if said >= 1000 and said % 100 == 0 else 10.0 ** -len(digits)  # 1.4 B is written as 1400
    return abs(count - said) <= max(unit, within * said)


def reason(name: str) -> str | None:
    """Returns why a variant's multiply-adds are not the paper's, if that was found out."""
    return next((why for pattern, why in REASONS.items() if fnmatch.fnmatch(name, pattern)), None)


def as_published(name: str) -> bool:
    """Whether a variant has the paper's number of parameters, where it gives one, or a reason not to."""
    count = _published_count(name)
    return count is None or name in UNLIKE or agrees(parameters(name) / 1e6, count, 0.005)


def claims(paper: Paper) -> list[str]:
    """Returns what can be claimed of a paper now."""
    found = variants(paper)
    held = {
        'built': as_built(paper),
        'exact': bool(paper.goldens) and all(map(tested, paper.goldens)),
        'weights': bool(found) and bool(paper.goldens) and all(map(tested, paper.goldens)),
        'trains': bool(trained(paper)),
        'reproduced': paper.id in REPRODUCED,
    }
    return [claim for claim in CLAIMS if held[claim]]


def as_built(paper: Paper) -> bool:
    """Whether a paper gives figures for its networks, and every variant is as published."""
    names = variants(paper)
    return any(_published_count(name) for name in names) and all(map(as_published, names))


def _published_count(name: str) -> float | None:
    published = modelzoo.find(name)[0].PUBLISHED.get(name)
    return published.params if published else None


def tested(golden: str) -> bool:
    """Whether a row of the goldens' table, which the tests run, compares ours with this golden."""
    return golden in {**table.NETWORKS, **table.FUNCTIONS, **table.DATA}


def trained(paper: Paper) -> list[Run]:
    """Returns the runs of a paper's configs."""
    return [run for run in runs() if run.config.partition(':')[0] in paper.configs]


def evidence(paper: Paper) -> str:
    """Returns what shows the claims: counts, goldens, runs."""
    said = [name for name in variants(paper) if modelzoo.find(name)[0].PUBLISHED.get(name)]
    counts = [_counts(name) for name in said[:1]]
    exact = [f'golden `{name}`' for name in paper.goldens]
    best = [f'`{run.config}` {run.accuracy} % after {run.steps} steps (seed {run.seed})' for run in trained(paper)]
    return '; '.join([*counts, *exact, *best])


def _counts(name: str) -> str:
    published = modelzoo.find(name)[0].PUBLISHED[name]
    there = '' if published.params is None else f' (paper: {published.params:g} M)'
    return f'{name}: {parameters(name) / 1e6:.2f} M parameters{there}'


def page() -> str:
    """Returns docs/papers.md."""
    ledger = [(paper, claims(paper)) for paper in papers()]
    about = __doc__.partition('A paper may claim:')[2].strip()
    kinds = [kind for kind in KINDS if any(paper.kind == kind for paper, _ in ledger)]
    sections = [_section(kind, [(paper, held) for paper, held in ledger if paper.kind == kind]) for kind in kinds]
    return '\n'.join(
        [
            '# Papers',
            '',
            'Written by `python -m tests.ledger`; tests/test_papers.py holds it to the code. What a paper may claim:',
            '',
            about,
            '',
            *_summary(ledger, kinds),
            *(line for section in sections for line in section),
            '',
        ]
    )


Claims = Sequence[tuple[Paper, list[str]]]


def _summary(ledger: Claims, kinds: Sequence[str]) -> list[str]:
    """Returns the table of how many papers of each kind claim what."""

    def line(name: str, part: Claims) -> str:
        counts = [sum(claim in held for _, held in part) for claim in CLAIMS]
        return f'| {name} | {len(part)} | ' + ' | '.join(str(count) for count in counts) + ' |'

    link = lambda kind: f'[{KINDS[kind]}](#{KINDS[kind].lower().replace(" ", "-").replace(",", "")})'
    return [
        f'| | papers | {" | ".join(CLAIMS)} |',
        '|---|' + '---|' * (1 + len(CLAIMS)),
        *(line(link(kind), [row for row in ledger if row[0].kind == kind]) for kind in kinds),
        line('all', ledger),
    ]


def _section(kind: str, part: Claims) -> list[str]:
    """Returns what stands of one kind of papers: a table of what claims something, evidence and the rest folded."""
    there = [(paper, held) for paper, held in part if held]
    missing = [paper for paper, held in part if not held]
    lines = ['', f'## {KINDS[kind]}', '']
    if there:
        lines += ['| id | paper | status | config | file |', '|---|---|---|---|---|']
        lines += [_row(paper, held) for paper, held in there]
        lines += _folded('Evidence', [f'- {paper.id}: {evidence(paper)}' for paper, _ in there])
    if missing:
        lines += _folded(f'{len(missing)} not built yet', [f'- {paper.id}: {paper.title}' for paper in missing])
    return lines


def _row(paper: Paper, held: Sequence[str]) -> str:
    configs = ' '.join(f'`{config}`' for config in paper.configs)
    return f'| {paper.id} | {paper.title.replace("|", "/")} | {", ".join(held)} | {configs} | `{paper.file}` |'


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ['', f'<details><summary>{title}</summary>', '', *lines, '', '</details>']


if __name__ == '__main__':
    COUNTED.write_text(counts())
    PAGE.write_text(page())
