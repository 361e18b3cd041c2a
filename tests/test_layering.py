"""Who may import whom: the table of docs/design.md, held by walking the imports."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OURS = {'longview', 'benchmarks', 'tests'}
EVERYBODY = {'names', 'trees', 'words'}

# Folder or file -> prefixes of our own modules it may import, without `longview.`; the longest entry that fits a file
# counts. All may import what is in longview/ itself.
MAY_IMPORT = {
    'kernels': {'kernels.dispatch', 'kernels.gates'},
    'modelzoo': {'modelzoo'},
    'modelzoo/layers': {'modelzoo.layers', 'kernels'},
    'modelzoo/vision': {'modelzoo.layers', 'modelzoo.features', 'modelzoo.heads', 'modelzoo.weights', 'kernels'},
    'modelzoo/sequence': {
        'modelzoo.layers',
        'modelzoo.features',
        'modelzoo.heads',
        'modelzoo.weights',
        'modelzoo.sequence.trunk',
        'kernels',
    },
    'modelzoo/sequence/zoology': {
        'modelzoo.sequence.zoology',
        'modelzoo.sequence.trunk',
        'modelzoo.layers',
        'modelzoo.features',
        'modelzoo.weights',
        'kernels',
    },
    'methods': {'methods', 'modelzoo.features', 'modelzoo.heads', 'modelzoo.layers', 'kernels'},
    'runtime': {'runtime'},
    'data': {'data'},
    'input_pipeline.py': {'data', 'runtime.errors'},
    'configs': {'configs.base'},
    'train.py': {'kernels.dispatch', 'methods.task', 'methods.diagnose', 'runtime', 'input_pipeline'},
}
# What computes knows nothing of how runs are stored and read: folder -> libraries beside ours and Python's own.
LIBRARIES = {
    'kernels': {'jax', 'jaxtyping', 'numpy'},
    'modelzoo/layers': {'jax', 'jaxtyping', 'numpy', 'flax'},
    'modelzoo/vision': {'jax', 'jaxtyping', 'numpy', 'flax'},
    'modelzoo/sequence': {'jax', 'jaxtyping', 'numpy', 'flax'},
    'methods': {'jax', 'jaxtyping', 'numpy', 'flax', 'optax'},
    'configs': {'ml_collections'},
}


def python_files() -> list[pathlib.Path]:
    tops = {key.split('/')[0] for key in MAY_IMPORT}
    files = [f for top in tops for f in ([ROOT / top] if top.endswith('.py') else (ROOT / top).rglob('*.py'))]
    assert len(files) > 20
    return sorted(f.relative_to(ROOT) for f in files)


def imports_of(source: str) -> set[str]:
    """Dotted names that a file imports; ``from a import b`` counts as ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports are absolute'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def longest(table: dict[str, set[str]], file: pathlib.Path) -> str | None:
    return max((k for k in table if file.as_posix() == k or file.as_posix().startswith(k + '/')), key=len, default=None)


def violations(file: pathlib.Path, source: str) -> set[str]:
    allowed = set(MAY_IMPORT[longest(MAY_IMPORT, file)])
    if file.parts[0] == 'kernels' and len(file.parts) > 2:
        allowed |= {'.'.join(file.parts[:2]), 'kernels.pallas'}
    ours = {name.removeprefix('longview.') for name in imports_of(source) if name.split('.')[0] in OURS}
    ours = {name for name in ours if name.split('.')[0] not in EVERYBODY}
    fits = lambda name: any(f'{name}.'.startswith(f'{prefix}.') for prefix in allowed)
    private = {n for n in ours if n.startswith('kernels.') and file.parts[0] != 'kernels' and n.count('.') > 2}
    return {name for name in ours if not fits(name)} | private | _foreign(file, source)


def _foreign(file: pathlib.Path, source: str) -> set[str]:
    folder = longest(LIBRARIES, file)
    if folder is None:
        return set()
    known = OURS | LIBRARIES[folder] | sys.stdlib_module_names
    return {name for name in imports_of(source) if name.split('.')[0] not in known}


@pytest.mark.parametrize('file', python_files(), ids=str)
def test_imports_follow_the_table(file: pathlib.Path) -> None:
    assert not violations(file, (ROOT / file).read_text())


@pytest.mark.parametrize(
    'file, source',
    [
        ('methods/supervised.py', 'from longview.modelzoo.vision import vig'),
        ('methods/start.py', 'import orbax.checkpoint as ocp'),
        ('methods/start.py', 'from longview.runtime.checkpoint import Best'),
        ('modelzoo/vision/vig.py', 'from longview.modelzoo.vision.resnet import resnet'),
        ('modelzoo/sequence/gla.py', 'from longview.modelzoo.sequence import mamba'),
        ('modelzoo/layers/norms/norm.py', 'import longview.methods.task'),
        ('modelzoo/layers/norms/norm.py', 'from longview.kernels.gla.xla import chunked'),
        ('kernels/gla/api.py', 'from longview.kernels.selective_scan import api'),
        ('runtime/mesh.py', 'import longview.modelzoo'),
        ('train.py', 'from longview.methods.supervised import Supervised'),
        ('configs/vig_s.py', 'from longview.runtime import resolve'),
    ],
)
def test_the_table_refuses(file: str, source: str) -> None:
    assert violations(pathlib.Path(file), source)


def test_defaults_live_in_signatures_not_in_lookups() -> None:
    offenders = [f for f in python_files() if 'config.get(' in (ROOT / f).read_text()]
    assert not offenders
