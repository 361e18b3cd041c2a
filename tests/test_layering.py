"""Who may import whom: one table, held by walking the imports, and printed in docs/design.md.

python -m tests.test_layering        # writes the table into the page
"""

import ast
import pathlib
import sys
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.quick
ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'design.md'
BEGIN, END = '<!-- table: python -m tests.test_layering -->\n', '<!-- end of the table -->'
OURS = ('longview', 'benchmarks', 'tests')
# What stands in longview/ itself, which everybody may import, as its version.
SHARED = {path.stem for path in (ROOT / 'longview').glob('*.py')} - {'__init__'} | {'__version__'}

# What the ops share.
KERNELS = tuple(
    f'kernels.{name}'
    for name in ('derivatives', 'dispatch', 'gates', 'native', 'pallas', 'rows_tpu', 'scan_tpu', 'scans', 'vmem')
)
ARRAYS = ('jax', 'jaxtyping', 'numpy')
NETWORKS = ('jax', 'flax', 'jaxtyping', 'numpy')


class Rule(NamedTuple):
    """What the files of a place may import, beside Python's own modules and what stands in longview/ itself.

    Attributes:
        place: a folder or a file; ``<op>`` and ``<family>`` stand for a folder of any name. Of the places that a file
            is in, the innermost counts.
        ours: modules of ours, without ``longview.``, and all inside of them.
        libraries: packages of others; None for any.
        why: the reason, for the page.
    """

    place: str
    ours: tuple[str, ...]
    libraries: tuple[str, ...] | None
    why: str


TABLE = (
    Rule('longview', (), ('jax',), 'everything else stands on it'),
    Rule('kernels', KERNELS, ARRAYS, 'the ops share only this'),
    Rule('kernels/<op>', ('kernels.<op>', *KERNELS), ARRAYS, 'an op is read, tuned and tested without any other'),
    Rule(
        'kernels/attention/libraries.py',
        ('kernels.attention', *KERNELS),
        (*ARRAYS, 'tokamax'),
        'kernels of others, imported where they are named',
    ),
    Rule('modelzoo/layers', ('modelzoo.layers', 'kernels'), NETWORKS, 'a layer does not know which family uses it'),
    Rule(
        'modelzoo/layers/ode.py',
        ('modelzoo.layers', 'kernels'),
        (*NETWORKS, 'diffrax'),
        'solvers of others, imported where an equation is solved',
    ),
    Rule(
        'modelzoo/vision',
        ('modelzoo.features', 'modelzoo.heads', 'modelzoo.layers', 'modelzoo.weights', 'kernels'),
        NETWORKS,
        'a family is one file, and no other family: what two share is a layer',
    ),
    Rule(
        'modelzoo/text',
        (
            'modelzoo.features',
            'modelzoo.heads',
            'modelzoo.layers',
            'modelzoo.sequence.trunk',
            'modelzoo.weights',
            'kernels',
        ),
        NETWORKS,
        'likewise; words are embedded as the sequence families embed them',
    ),
    Rule(
        'modelzoo/points',
        ('modelzoo.features', 'modelzoo.heads', 'modelzoo.layers', 'modelzoo.weights', 'kernels'),
        NETWORKS,
        'likewise',
    ),
    Rule(
        'modelzoo/denoisers',
        ('modelzoo.features', 'modelzoo.layers', 'modelzoo.weights', 'kernels'),
        NETWORKS,
        'likewise',
    ),
    Rule(
        'modelzoo/restorers',
        ('modelzoo.features', 'modelzoo.layers', 'modelzoo.weights', 'kernels'),
        NETWORKS,
        'likewise',
    ),
    Rule(
        'modelzoo/sequence',
        (
            'modelzoo.features',
            'modelzoo.heads',
            'modelzoo.layers',
            'modelzoo.sequence.trunk',
            'modelzoo.weights',
            'kernels',
        ),
        NETWORKS,
        'likewise; the trunk is what sequence families share',
    ),
    Rule(
        'modelzoo/sequence/<family>',
        (
            'modelzoo.features',
            'modelzoo.heads',
            'modelzoo.layers',
            'modelzoo.sequence.trunk',
            'modelzoo.sequence.<family>',
            'modelzoo.weights',
            'kernels',
        ),
        NETWORKS,
        'likewise; a family of several files is a folder',
    ),
    Rule('modelzoo', ('modelzoo',), None, 'it finds families and reads weights, and knows no training'),
    Rule(
        'methods',
        ('methods', 'modelzoo.features', 'modelzoo.heads', 'modelzoo.layers', 'kernels'),
        (*NETWORKS, 'optax'),
        'a method asks what a backbone can do, not which one it is, nor where runs are stored',
    ),
    Rule(
        'analysis',
        ('analysis', 'methods.forward', 'modelzoo.features', 'modelzoo.layers'),
        NETWORKS,
        'what is inside of a network, whichever it is and wherever it is from',
    ),
    Rule('runtime', ('runtime',), None, 'how a run runs does not depend on what is trained'),
    Rule('data', ('data',), None, 'likewise'),
    Rule('input_pipeline.py', ('data', 'runtime.errors'), None, 'likewise'),
    Rule('configs', ('configs.base',), ('ml_collections',), 'a config is plain data and names objects by import path'),
    Rule('configs/recorded.py', ('runtime',), ('ml_collections',), 'it reads what a run left behind'),
    Rule(
        'engine',
        (
            'engine',
            'data.permuted',
            'kernels.dispatch',
            'kernels.native',
            'methods.computation',
            'methods.diagnose',
            'methods.ema',
            'methods.evaluation',
            'methods.figures',
            'methods.objective',
            'methods.start',
            'methods.task',
            'runtime',
        ),
        None,
        'methods and runtime meet here: there is one loop, for every task',
    ),
    Rule(
        'engine/exported.py',
        (
            'engine',
            'methods.task',
            'modelzoo.features',
            'modelzoo.heads',
            'modelzoo.weight_files',
            'modelzoo.weights',
            'runtime',
        ),
        None,
        'a network is written under its published names, which the zoo has',
    ),
    Rule(
        'engine/predictor.py',
        ('data.decoding', 'data.geometry', 'data.images', 'modelzoo.features'),
        None,
        'a picture is prepared for a network by the code that prepares it for an evaluation',
    ),
    Rule(
        'engine/loading.py',
        (
            'engine.predictor',
            'data.geometry',
            'data.images',
            'methods.augment',
            'methods.task',
            'modelzoo',
            'runtime',
        ),
        None,
        'likewise; the network is of the zoo or of a run',
    ),
    Rule(
        'engine/pictures.py',
        ('analysis.unrolled', 'engine', 'methods.objective', 'methods.task', 'modelzoo', 'runtime'),
        None,
        'likewise, or of a config',
    ),
    Rule('train.py', ('engine', 'runtime'), None, 'it reads the command line'),
    Rule('evaluate.py', ('engine', 'runtime'), None, 'likewise'),
    Rule('compare.py', ('runtime',), (), 'it reads what runs left behind, without jax'),
    Rule('export.py', ('engine', 'runtime'), None, 'likewise'),
    Rule('predict.py', ('engine', 'runtime'), None, 'likewise'),
    Rule('pictures.py', ('analysis', 'engine', 'runtime'), None, 'likewise; arrays become pictures here'),
)


def python_files() -> list[pathlib.Path]:
    """Returns the files that the table speaks of, relative to the root."""
    tops = {rule.place.split('/')[0] for rule in TABLE}
    files = [f for top in tops for f in ([ROOT / top] if top.endswith('.py') else (ROOT / top).rglob('*.py'))]
    assert len(files) > 20
    return sorted(f.relative_to(ROOT) for f in files)


def imports_of(source: str) -> set[str]:
    """Returns the dotted names that a file imports; ``from a import b`` counts as ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports are absolute'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def rule_of(file: pathlib.Path) -> Rule:
    """Returns the rule of a file, with the names of its folders in place of ``<op>`` and ``<family>``."""
    rule = max((rule for rule in TABLE if _is_in(rule.place, file)), key=lambda rule: rule.place.count('/'))
    folders = dict(zip(rule.place.split('/'), file.parts))
    named = lambda module: '.'.join(folders.get(word, word) for word in module.split('.'))
    return rule._replace(ours=tuple(map(named, rule.ours)))


def _is_in(place: str, file: pathlib.Path) -> bool:
    parts = place.split('/')
    folders = file.parts if parts[-1].endswith('.py') else file.parts[:-1]
    return len(folders) >= len(parts) and all(
        part == folder or part.startswith('<') for part, folder in zip(parts, folders)
    )


def violations(file: pathlib.Path, source: str) -> set[str]:
    """Returns the names that a file of this place and source imports against the table."""
    rule, names = rule_of(file), imports_of(source)
    ours = {name.removeprefix('longview.') for name in names if name.split('.')[0] in OURS}
    ours = {name for name in ours if name.split('.')[0] not in SHARED}
    others = {name for name in names if name.split('.')[0] not in (*OURS, *sys.stdlib_module_names)}
    allowed = lambda name: any(f'{name}.'.startswith(f'{prefix}.') for prefix in rule.ours)
    found = {name for name in ours if not allowed(name)}
    if file.parts[0] != 'kernels':
        found |= {name for name in ours if _inside_an_op(name)}
    if rule.libraries is not None:
        found |= {name for name in others if name.split('.')[0] not in rule.libraries}
    return found


def _inside_an_op(name: str) -> bool:
    """Whether a name is a module of an op's folder, or in one: other folders import what its ``__init__`` offers."""
    parts = name.split('.')
    return parts[0] == 'kernels' and len(parts) > 2 and ROOT.joinpath(*parts[:3]).with_suffix('.py').exists()


def table() -> str:
    """Returns the table as Markdown."""
    code = lambda names: ', '.join(f'`{name}`' for name in names) or 'nothing'
    lines = ['| files in | may import of ours | and of other packages | because |', '|---|---|---|---|']
    for place, ours, libraries, why in TABLE:
        lines.append(f'| `{place}` | {code(ours)} | {"any" if libraries is None else code(libraries)} | {why} |')
    return '\n'.join(lines) + '\n'


def page() -> str:
    """Returns docs/design.md with the table as it is here."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    assert END in rest, f'{PAGE} lost the lines around its table'
    return before + BEGIN + table() + END + rest.partition(END)[2]


def test_imports_follow_the_table() -> None:
    found = {str(file): violations(file, (ROOT / file).read_text()) for file in python_files()}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize(
    'file, source',
    [
        ('methods/supervised.py', 'from longview.modelzoo.vision import vig'),
        ('methods/start.py', 'import orbax.checkpoint as ocp'),
        ('methods/start.py', 'from longview.runtime.checkpoint import Best'),
        ('modelzoo/vision/vig.py', 'from longview.modelzoo.vision.resnet import resnet'),
        ('modelzoo/sequence/gla.py', 'from longview.modelzoo.sequence import mamba'),
        ('modelzoo/sequence/gla.py', 'from longview.modelzoo.sequence.zoology import based'),
        ('modelzoo/sequence/zoology/h3.py', 'from longview.modelzoo.sequence import mamba'),
        ('modelzoo/layers/norms/norm.py', 'import longview.methods.task'),
        ('modelzoo/layers/norms/norm.py', 'from longview.kernels.gla.xla import chunked'),
        ('modelzoo/layers/norms/norm.py', 'from longview.kernels.gla import xla'),
        ('kernels/gla/api.py', 'from longview.kernels.selective_scan import api'),
        ('kernels/dispatch.py', 'from longview.kernels.gla import api'),
        ('runtime/mesh.py', 'import longview.modelzoo'),
        ('train.py', 'from longview.methods.supervised import Supervised'),
        ('configs/vig_s.py', 'from longview.runtime import resolve'),
        ('longview/words.py', 'from longview import modelzoo'),
    ],
)
def test_the_table_refuses(file: str, source: str) -> None:
    assert violations(pathlib.Path(file), source)


def test_the_table_allows_a_folder_its_own() -> None:
    assert not violations(pathlib.Path('kernels/gla/api.py'), 'from longview.kernels.gla import xla')
    family = pathlib.Path('modelzoo/sequence/zoology/h3.py')
    assert not violations(family, 'from longview.modelzoo.sequence.zoology import based')


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text() == page(), f'{PAGE} is out of date: run `python -m tests.test_layering`'


def test_defaults_live_in_signatures_not_in_lookups() -> None:
    offenders = [f for f in python_files() if 'config.get(' in (ROOT / f).read_text()]
    assert not offenders


if __name__ == '__main__':
    PAGE.write_text(page())
