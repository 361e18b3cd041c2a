"""The tables of all networks and of all methods in docs.

    python -m tests.tables        # writes docs/models.tsv, docs/models.md and docs/method_table.md
    python -m tests.tables --all  # counts multiply-adds anew also where docs/models.tsv has them: four minutes

docs/models.tsv holds what takes minutes to count, the multiply-adds of every variant: tracing the whole zoo. The pages
are made of it, of docs/parameters.tsv, modelzoo/published.tsv, docs/papers.tsv and the code. tests/test_tables.py holds
the pages to these, and the multiply-adds of a few variants to the code; those of all are `heavy`.
"""

import csv
import functools
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from longview import methods, modelzoo
from longview.methods.generate.process import Prediction, Process
from longview.methods.losses import Loss
from longview.methods.order import Order
from longview.methods.reparam import Reparam
from longview.methods.task import Task, Wrapper
from longview.modelzoo import published
from longview.modelzoo.features import IMAGE, SequenceBackbone, read_by
from tests import ledger
from tests.goldens import table
from tests.modelzoo.tiny import sized

DOCS = ledger.ROOT / 'docs'
COUNTED, MODELS, METHODS = DOCS / 'models.tsv', DOCS / 'models.md', DOCS / 'method_table.md'
HUB = 'https://huggingface.co'
COMMAND = 'python -m tests.tables'
LINK = re.compile(r'https://arxiv\.org/abs/(\d{4}\.\d{4,5})')

ABOUT_MODELS = f"""# Models

All networks of the zoo by their names, as `longview.create_model` takes them. Written by `{COMMAND}`.

- *Input* is the size that the counts are for: height and width in pixels, or the number of words or elements.
- *Parameters* include the classifier's. *Multiply-adds* are those of one input, counted on the traced program; a scan
  in chunks has more of them than the recurrence that papers count. *Paper says* gives the paper's own numbers:
  parameters, multiply-adds, ImageNet-1k top-1 accuracy.
- *Exact*: `yes` where this variant computes what the authors' code computes, within the bars of tests/goldens/table.py;
  `family` where another variant of the same code does.
- *Weights* is the published file that `weights='published'` means, with its licence and its ImageNet-1k accuracy on
  images of the size given ([weights.md](weights.md)). Where it is not on the Hugging Face hub, the link is the page to
  download it from.

Outside of this list are networks that configs name by their import path: the text transformer
(`modelzoo.text.transformer:Transformer`), PointNet (`modelzoo.points.pointnet:PointNet`), the denoiser of diffusion
models (`modelzoo.denoisers.edm:UNet`) and MAXIM, which restores images (`modelzoo.restorers.maxim:MAXIM`).
"""

ABOUT_METHODS = f"""# Table of methods

Every training method by the name that a config gives it. Written by `{COMMAND}`; [methods.md](methods.md) explains
the kinds, and how to add one. *Status* is what [papers.md](papers.md) claims: `exact` where functions are compared with
the authors' code, `trains` where a config was trained on real data ([results.md](results.md)). A method without a
paper of its own has neither. Configs are in the folder configs; `base` is what they share.
"""


class Kind(NamedTuple):
    """A section of the table of methods.

    Attributes:
        title: of the section.
        about: a sentence below it.
        holds: whether a public object of a module of methods belongs to it; the first kind that does has it.
    """

    title: str
    about: str
    holds: Callable[[Any], bool]


def _made_from(base: type) -> Callable[[Any], bool]:
    return lambda found: inspect.isclass(found) and issubclass(found, base) and not inspect.isabstract(found)


def _takes(*names: str) -> Callable[[Any], bool]:
    """Returns whether something is a function whose first arguments have these names."""
    return lambda found: inspect.isfunction(found) and _arguments(found)[: len(names)] == [*names]


def _called_with(*names: str) -> Callable[[Any], bool]:
    """Returns whether something is a class whose objects are called with arguments of these names."""
    return lambda found: (
        inspect.isclass(found) and '__call__' in vars(found) and _arguments(found.__call__) == ['self', *names]
    )


def _arguments(function: Callable[..., Any]) -> list[str]:
    return [*inspect.signature(function).parameters]


KINDS = (
    Kind('Reparametrisations', 'They train weights in another form than the network uses.', _made_from(Reparam)),
    Kind('Wrappers', 'They go around a task: averages, other gradients, evaluators.', _made_from(Wrapper)),
    Kind('Objectives', 'They make a task of networks: what is learned from what.', _made_from(Task)),
    Kind('Losses', 'The `criterion` of `methods.supervised:Supervised`.', _made_from(Loss)),
    Kind('Optimizers', 'The `optimizer` of a config.', _takes('steps', 'steps_per_epoch', 'depth_of')),
    Kind('Schedules', 'The `schedule` of an optimizer.', _takes('steps', 'steps_per_epoch')),
    Kind('Batch transforms', 'The `transforms` and `eval_transforms` of a config.', _called_with('batch', 'rng')),
    Kind('Diffusion: processes', 'The `process` of `methods.generate.diffusion:Diffusion`.', _made_from(Process)),
    Kind('Diffusion: predictions', 'Its `prediction`.', _made_from(Prediction)),
    Kind('Diffusion: samplers', 'Its `sampler`.', _takes('denoise')),
    Kind('Orders of the examples', 'The `order` of a config.', _made_from(Order)),
    Kind('Computations', 'Stages of a config between its runs ([runs.md](runs.md#stages)).', _called_with('work')),
)


@functools.cache
def counted() -> dict[str, int]:
    """Returns the multiply-adds of each variant, as docs/models.tsv has them."""
    with open(COUNTED, newline='') as file:
        return {row['variant']: int(row['multiply_adds']) for row in csv.DictReader(file, delimiter='\t')}


def counts(known: Mapping[str, int]) -> str:
    """Returns docs/models.tsv, for which the variants are counted that are not known."""
    found = {name: known[name] if name in known else ledger.multiply_adds(name) for name in ledger.listed()}
    return 'variant\tmultiply_adds\n' + ''.join(f'{name}\t{count}\n' for name, count in found.items())


def models() -> str:
    """Returns docs/models.md."""
    listed = set(ledger.listed())
    sections = [_family(family, [name for name in family.VARIANTS if name in listed]) for family in modelzoo.families()]
    index = ' · '.join(f'[{_title(family)}](#{_title(family)})' for family in modelzoo.families())
    return '\n'.join([ABOUT_MODELS, index, '', *sections])


def _family(family: ModuleType, names: Sequence[str]) -> str:
    path = pathlib.PurePath(inspect.getfile(family)).relative_to(ledger.ROOT)
    lines = [
        f'## {_title(family)}',
        '',
        f'{_first_line(family)} [{path}](../{path})',
        '',
        '| variant | input | parameters | multiply-adds | paper | paper says | exact | weights |',
        '|---|---|---|---|---|---|---|---|',
        *(_model(family, name) for name in names),
        '',
    ]
    return '\n'.join(lines)


def _title(family: ModuleType) -> str:
    return family.__name__.rpartition('.')[2]


def _model(family: ModuleType, name: str) -> str:
    cells = (
        f'`{name}`',
        _input(name),
        _millions(ledger.parameters(name)),
        f'{counted()[name] / 1e9:.2f} G' if counted()[name] >= 1e7 else f'{counted()[name] / 1e6:.2f} M',
        _paper_link(_paper(family, name)),
        _said(family.PUBLISHED.get(name)),
        _exact(name),
        _weights(name),
    )
    return f'| {" | ".join(cells)} |'


def _millions(count: int) -> str:
    return f'{count / 1e6:.2f} M'


def _input(name: str) -> str:
    _, shape = sized(name)
    backbone = modelzoo.find(name)[1]
    if not isinstance(backbone, SequenceBackbone):
        assert read_by(backbone) == (IMAGE,)
        return f'{shape.shape[1]} x {shape.shape[2]}'
    return f'{shape.shape[1]} {"elements" if backbone.vocabulary is None else "words"}'


def _paper(family: ModuleType, name: str) -> str | None:
    """Returns the link of a variant's paper: its own, that of the variant with the likest name, that of the file."""
    if name in family.PUBLISHED:
        return family.PUBLISHED[name].paper
    if family.PUBLISHED:
        near = max(family.PUBLISHED, key=lambda other: len(os.path.commonprefix([name, other])))
        return family.PUBLISHED[near].paper
    return _linked(inspect.getdoc(family))


def _linked(text: str | None) -> str | None:
    """Returns the first link to arXiv in a text."""
    found = LINK.search(text or '')
    return found and found[0]


def _paper_link(link: str | None) -> str:
    return f'[{link.removeprefix("https://arxiv.org/abs/")}]({link})' if link else ''


def _said(figures: Any) -> str:
    if figures is None:
        return ''
    values = ((figures.params, 'M'), (figures.macs, 'G'), (figures.top1, '%'))
    return ', '.join(f'{value:g} {unit}' for value, unit in values if value is not None)


def _exact(name: str) -> str:
    if name in table.NETWORKS:
        return 'yes'
    return 'family' if name in _held() else ''


@functools.cache
def _held() -> frozenset[str]:
    """Returns the variants of papers that claim to be exact."""
    held = [paper for paper in ledger.papers() if paper.models and 'exact' in ledger.claims(paper)]
    return frozenset(name for paper in held for name in ledger.variants(paper))


def _weights(name: str) -> str:
    row = published.table().get(name)
    if row is None:
        return ''
    link = row.source if '://' in row.source else f'{HUB}/{row.source}'
    title = row.source if '://' not in row.source else 'download'
    facts = [row.licence, f'{row.top1:g} %' if row.top1 else '', f'{row.preprocessing.size} px' if row.top1 else '']
    return f'[{title}]({link}): {", ".join(filter(None, facts))}'


def method_table() -> str:
    """Returns docs/method_table.md."""
    found: dict[str, list[str]] = {kind.title: [] for kind in KINDS}
    for module in _modules():
        held = [(name, value, kind) for name, value in _public(module) if (kind := _kind(value))]
        for name, value, kind in held:
            # The module's own first line says more of its only method: "RotNet: by how many quarter turns ...?"
            found[kind.title].append(_method(module, name, value, module if len(held) == 1 else value))
    sections = [
        _section(kind, found[kind.title]) for kind in sorted(KINDS, key=lambda kind: kind.title != 'Objectives')
    ]
    return '\n'.join([ABOUT_METHODS, *sections])


def _kind(value: Any) -> Kind | None:
    return next((kind for kind in KINDS if kind.holds(value)), None)


def _section(kind: Kind, rows: Sequence[str]) -> str:
    head = ['| import path | what | paper | configs | status |', '|---|---|---|---|---|']
    return '\n'.join([f'## {kind.title}', '', kind.about, '', *head, *rows, ''])


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(methods.__path__, 'longview.methods.'):
        yield importlib.import_module(info.name)


def _public(module: ModuleType) -> list[tuple[str, Any]]:
    """Returns what a module defines itself for others, but for the base classes of task.py."""
    own = lambda name, value: not name.startswith('_') and getattr(value, '__module__', None) == module.__name__
    return [(name, value) for name, value in vars(module).items() if own(name, value) and value is not Wrapper]


def _method(module: ModuleType, name: str, value: Any, described: Any) -> str:
    path = f'{module.__name__.removeprefix("longview.")}:{name}'
    paper = _linked(_before_arguments(value)) or _linked(inspect.getdoc(module))
    cells = (f'`{path}`', _cell(_first_line(described)), _paper_link(paper), _configs(path), _status(module))
    return f'| {" | ".join(cells)} |'


def _before_arguments(thing: Any) -> str:
    """Returns a docstring without its arguments, each of which may name a paper of its own."""
    return re.split(r'^(?:Attributes|Args):', inspect.getdoc(thing) or '', flags=re.M)[0]


def _first_line(thing: Any) -> str:
    """Returns the first sentence of a docstring, in Markdown."""
    text = ' '.join((inspect.getdoc(thing) or '').partition('\n\n')[0].split())
    return re.split(r'(?<=[^.][.?]) (?=[A-Z`])', text)[0].replace('``', '`')


def _cell(text: str) -> str:
    """Returns a text for a table's cell, in which a bar would begin the next one."""
    code = lambda match: f'<code>{match[1].replace("|", "&#124;").replace("<", "&lt;")}</code>'
    return re.sub(r'`([^`]*\|[^`]*)`', code, text)


@functools.cache
def _texts() -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted((ledger.ROOT / 'configs').glob('*.py'))}


def _configs(path: str) -> str:
    names = [name for name, text in _texts().items() if re.search(re.escape(path) + r'\b', text)]
    more = f' and {len(names) - 3} more' if len(names) > 4 else ''
    return ' '.join(f'`{name}`' for name in (names[:3] if more else names)) + more


def _status(module: ModuleType) -> str:
    path = str(pathlib.PurePath(inspect.getfile(module)).relative_to(ledger.ROOT))
    held = [claim for paper in ledger.papers() if paper.file == path for claim in ledger.claims(paper)]
    return ', '.join(dict.fromkeys(held))


if __name__ == '__main__':
    if [*ledger.counted()] != ledger.listed():
        sys.exit('docs/parameters.tsv does not have the variants of the zoo: run `python -m tests.ledger` before.')
    COUNTED.write_text(counts({} if '--all' in sys.argv[1:] else counted()))
    counted.cache_clear()
    MODELS.write_text(models())
    METHODS.write_text(method_table())
