"""The model card of an exported network: plain text with the facts of its run."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from longview import __version__
from longview.engine.stablehlo import Column
from longview.runtime.resolve import places


class Facts(NamedTuple):
    """What a card says.

    Attributes:
        folder: of the exported network.
        workdir: of the run.
        name: of the network, as the run calls it.
        module, arrays: the network, and its arrays by path.
        names: of the weights, 'published' or 'ours'.
        run: the config of the run, or of a computation between runs.
        step: after which the best checkpoint was saved.
        metrics: of the evaluation at that step.
        reads: the columns of a batch that the network takes.
        columns: the same with shapes, where there are programs.
        programs: bytes of the programs, by file.
    """

    folder: pathlib.Path
    workdir: pathlib.Path
    name: str
    module: nn.Module
    arrays: Mapping[str, np.ndarray]
    names: str
    run: Mapping[str, Any]
    step: int
    metrics: Mapping[str, float]
    reads: Sequence[str]
    columns: Sequence[Column]
    programs: Mapping[str, int]


def card(facts: Facts) -> str:
    """Returns the text of a card, in Markdown."""
    sections = [
        f'# {facts.folder.absolute().name}',
        f'{_kind(facts.module)}, a Flax module of Longview {__version__}.',
        _table(_origin(facts)),
        _metrics(facts),
        _preprocessing(facts),
        _weights(facts),
        _loading(facts),
    ]
    return '\n\n'.join(filter(None, [*sections, _programs(facts)])) + '\n'


def _kind(module: nn.Module) -> str:
    """Returns what a network is, such as ``ViT (longview.modelzoo.vision.vit) with the head Linear``."""
    said = lambda part: f'{type(part).__name__} ({type(part).__module__})'
    backbone, head = getattr(module, 'backbone', None), getattr(module, 'head', None)
    if backbone is None:
        return said(module)
    return said(backbone) if head is None else f'{said(backbone)} with the head {said(head)}'


def _origin(facts: Facts) -> dict[str, str]:
    count = lambda kind: sum(array.size for path, array in facts.arrays.items() if path.startswith('params/') == kind)
    rows = {'parameters': f'{count(True):,}'}
    if count(False):
        rows['other numbers, such as batch statistics'] = f'{count(False):,}'
    rows |= {'config of the run': '`run.json`', 'its workdir': f'`{facts.workdir}`', 'network of the run': facts.name}
    if 'task' in facts.run:
        rows['method'] = ' of '.join(f'`{fn}`' for fn in _nested(facts.run['task']))
    data = [str(value) for _, value in places(facts.run['data'], 'dataset')] if 'data' in facts.run else []
    if data:
        rows['data'] = ', '.join(data)
    return rows | {'step of the weights': f'{facts.step:,}'}


def _nested(task: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of a task and of those inside it."""
    yield task['fn']
    if 'inner' in task:
        yield from _nested(task['inner'])


def _metrics(facts: Facts) -> str:
    if not facts.metrics:
        return ''
    return f'## Figures at step {facts.step:,}\n\n' + _table({k: f'{v:.6g}' for k, v in facts.metrics.items()})


def _preprocessing(facts: Facts) -> str:
    reads = f'## Preprocessing\n\nThe network reads {" and ".join(facts.reads)}'
    if 'data' not in facts.run:
        return f'{reads}.'
    transforms = facts.run['eval_transforms'] if 'eval_transforms' in facts.run else []
    lines = [f'{number}. `{json.dumps(node)}`' for number, node in enumerate(transforms, 1)]
    after = '\n'.join([', after these transforms of a batch, in this order:\n', *lines]) if lines else '.'
    return f'{reads} as the data set of `run.json` gives it{after}'


def _weights(facts: Facts) -> str:
    published = "under the names and in the layout of the family's published files (PyTorch)"
    how = published if facts.names == 'published' else 'by their paths in this network, arrays as JAX has them'
    return f'## Files\n\n`model.safetensors` has the weights {how}; `config.json` says what the network is.'


def _loading(facts: Facts) -> str:
    return (
        '## Loading\n\n```python\nfrom longview import export\n\n'
        f"network, variables = export.load('{facts.folder}')\n"
        f'answers = network.apply(variables, {", ".join(facts.reads)})\n```'
    )


def _programs(facts: Facts) -> str:
    """Returns what there is to know of the programs, or nothing where there are none."""
    if not facts.programs:
        return ''
    sizes = _table({f'`{file}`': f'{size:,} bytes' for file, size in facts.programs.items()})
    first = next(iter(facts.programs))
    inputs = ', '.join(f'{each.name} {each.dtype}[{", ".join(map(str, ("B", *each.shape)))}]' for each in facts.columns)
    return (
        f'## Programs\n\n{sizes}\n\nEach is the network for one platform, and needs nothing of Longview. It reads '
        f'{inputs}. One without a batch in its name takes batches of any size, and runs no Pallas kernel: these are '
        'made for one size.\n\n```python\n'
        'import pathlib\n\nimport jax.export\nimport safetensors.numpy\n\n'
        f"program = jax.export.deserialize(pathlib.Path('{facts.folder / first}').read_bytes())\n"
        f"weights = safetensors.numpy.load_file('{facts.folder / 'arguments.safetensors'}')\n"
        f'answers = program.call(weights, {", ".join(facts.reads)})\n```'
    )


def _table(rows: Mapping[str, str]) -> str:
    return '\n'.join(['| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows.items())])
