"""What the pages name exists: commands, overrides, imports, configs, files, links. Nothing heavy is imported for it."""

import ast
import functools
import importlib
import importlib.util
import pathlib
import re
import shlex
import tomllib
import types
from typing import Any

import pytest
import yaml

import longview
from longview.names import FILES, FOLDERS

pytestmark = pytest.mark.quick
ROOT = pathlib.Path(__file__).parents[1]
# Not papers.md, which tests/ledger.py writes, nor the changelog, which names what is gone.
PAGES = [
    *map(
        pathlib.Path, ('README.md', 'CONTRIBUTING.md', 'kernels/README.md', 'modelzoo/README.md', 'notebooks/README.md')
    ),
    *sorted(page.relative_to(ROOT) for page in ROOT.glob('docs/*.md') if page.name != 'papers.md'),
]
COMMAND = re.compile(r'\bpython3? ((?:-m |[\w/]+\.py)[^`\n]*)')
CONFIG = re.compile(r'configs/(\w+)\.py(?::(\w+))?')
OVERRIDE = re.compile(r'--config\.([\w.]+)=')
FILE = re.compile(r'(?<![\w/.:-])[\w.-]+(?:/[\w.-]+)+\.(?:py|md|tsv|toml|yml|cff|txt)\b')
FILE_NAME = re.compile(r'(?<![\w/.-])\w+\.py\b')
LINK = re.compile(r'\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)')
# A file that the page itself shows: the first line of a block has its path.
SHOWN = re.compile(r'^```python\n# ([\w/]+\.py)$', re.M)
# What the reader has to fill in: configs/NAME.py, small_MIXER.
PLACEHOLDER = re.compile(r'(?<![A-Za-z])[A-Z]{2,}(?!\w*\.md)')


def text_of(page: pathlib.Path) -> str:
    return (ROOT / page).read_text()


def commands(page: pathlib.Path) -> list[list[str]]:
    """Returns the words behind ``python`` of each command; one may go on in the next line behind a backslash."""
    lines = COMMAND.findall(re.sub(r'\\\n\s*', ' ', text_of(page)))
    return [shlex.split(line, comments=True) for line in lines]


def place_of(module: str) -> pathlib.Path:
    """Returns where a module of ours is: its folder, or its file without ``.py``."""
    return ROOT.joinpath(*module.removeprefix('longview.').split('.'))


def exists(module: str) -> bool:
    """Whether a module of ours has a file or folder, or another one is installed."""
    first = module.split('.')[0]
    if first not in (*FOLDERS, *FILES, 'longview', 'tests', 'benchmarks'):
        return importlib.util.find_spec(first) is not None
    return place_of(module).is_dir() or place_of(module).with_suffix('.py').exists()


def names_in(module: str) -> set[str]:
    """Returns what can be imported from a module of ours: what its file defines or imports, and the modules in it."""
    place = place_of(module)
    inside = {path.stem for path in place.glob('*')} if place.is_dir() else set()
    file = place / '__init__.py' if place.is_dir() else place.with_suffix('.py')
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                inside.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                inside |= {alias.asname or alias.name for alias in names}
            case ast.Assign(targets=targets):
                inside |= {target.id for target in targets if isinstance(target, ast.Name)}
    return inside | ({*FOLDERS, *FILES} if module == 'longview' else set())


@functools.cache
def file_names() -> set[str]:
    """Returns the names of all Python files of ours."""
    folders = [ROOT / folder for folder in (*FOLDERS, 'longview', 'tests', 'benchmarks')]
    return {path.name for path in (*ROOT.glob('*.py'), *(path for folder in folders for path in folder.rglob('*.py')))}


@functools.cache
def config(name: str, preset: str | None) -> Any:
    return importlib.import_module(f'longview.configs.{name}').get_config(preset)


def unknown(words: list[str]) -> list[str]:
    """Returns what a command names that does not exist: its module or file, overrides of its config."""
    runs_module = words[0] == '-m'
    module = words[1] if runs_module else words[0].removesuffix('.py').replace('/', '.')
    if not exists(module):
        return [module]
    if runs_module and place_of(module).is_dir() and not exists(f'{module}.__main__'):
        return [f'{module}.__main__']
    command = ' '.join(words)
    named = CONFIG.search(command)
    if named is None or PLACEHOLDER.search(named[0]):
        return []
    return [path for path in OVERRIDE.findall(command) if not has(config(*named.groups()), path)]


def has(node: Any, path: str) -> bool:
    """Whether a config has what an override sets, such as ``optimizer.schedule.peak``."""
    key, _, rest = path.partition('.')
    return key in node and (not rest or has(node[key], rest))


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```', '', text_of(page), flags=re.M | re.S), re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_commands_name_what_exists(page: pathlib.Path) -> None:
    assert not [(words, wrong) for words in commands(page) if (wrong := unknown(words))]


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_configs_have_the_presets_named(page: pathlib.Path) -> None:
    for name, preset in set(CONFIG.findall(text_of(page))) - {('base', ''), ('recorded', '')}:
        if not PLACEHOLDER.search(f'{name} {preset}'):
            config(name, preset or None)


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_imports_name_what_exists(page: pathlib.Path) -> None:
    shown = {path.removesuffix('.py').removesuffix('/__init__') for path in SHOWN.findall(text_of(page))}
    for block in re.findall(r'^```python\n(.*?)^```', text_of(page), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] == 'longview':
                if node.module.removeprefix('longview.').replace('.', '/') in shown:
                    continue
                assert exists(node.module), node.module
                assert {alias.name for alias in node.names} <= names_in(node.module), ast.unparse(node)


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_files_exist(page: pathlib.Path) -> None:
    """A path counts from the root, the page's own folder or modelzoo/; a name alone may be anywhere."""
    text = text_of(page)
    shown = {name for path in SHOWN.findall(text) for name in (path, pathlib.PurePath(path).name)}
    filled = lambda pattern: [
        name for name in pattern.findall(text) if not PLACEHOLDER.search(name) and name not in shown
    ]
    bases = (ROOT, ROOT / page.parent, ROOT / 'modelzoo')
    assert not [path for path in filled(FILE) if not any((base / path).exists() for base in bases)]
    assert set(filled(FILE_NAME)) <= file_names()


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for file, anchor in LINK.findall(text_of(page)):
        target = page.parent / file if file else page
        assert (ROOT / target).exists(), file
        assert not anchor or anchor in anchors(target), f'{file}#{anchor}'


def test_what_does_not_exist_is_found() -> None:
    digits = 'train.py --config configs/vig_s.py:digits --config.task.inner.backbone.'
    assert unknown(['-m', 'longview.modelzo']) == ['longview.modelzo']
    assert unknown(['-m', 'longview.kernels']) == ['longview.kernels.__main__']
    assert unknown(f'{digits}width=8'.split()) == []
    assert unknown(f'{digits}with=8'.split()) == ['task.inner.backbone.with']
    assert FILE.findall('`methods/no.py`, https://a.b/c/d.py, (kernels/no/api.py:gla)') == [
        'methods/no.py',
        'kernels/no/api.py',
    ]
    assert LINK.findall('[a](b.md#c), [d](#e), [f](https://g)') == [('b.md', 'c'), ('', 'e')]
    assert [bool(PLACEHOLDER.search(path)) for path in ('configs/NAME.py', 'small_MIXER', 'docs/README.md')] == [
        1,
        1,
        0,
    ]
    assert 'backbone' in names_in('longview.modelzoo') and 'backbon' not in names_in('longview.modelzoo')
    assert 'who-may-import-whom' in anchors(pathlib.Path('docs/design.md'))


def test_the_index_has_every_page() -> None:
    linked = {file for file, _ in LINK.findall(text_of(pathlib.Path('docs/README.md')))}
    assert {page.name for page in PAGES if page.parent.name == 'docs'} - {'README.md'} <= linked


def test_the_site_has_every_page() -> None:
    """mkdocs itself builds it in .github/workflows/docs.yml, and fails there for a link that leads nowhere."""
    site = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
    pages = [page for entry in site['nav'] for inner in entry.values() for page in _pages_of(inner)]
    assert sorted(pages) == sorted(path.name for path in ROOT.glob('docs/*.md')), 'name the page in nav of mkdocs.yml'
    assert all((ROOT / hook).exists() for hook in site['hooks'])


def _pages_of(entry: str | list) -> list[str]:
    """Returns the pages of an entry of the site's nav: itself, or those of a section."""
    return [entry] if isinstance(entry, str) else [page for inner in entry for page in inner.values()]


def test_links_out_of_docs_lead_to_the_repository_on_the_site() -> None:
    spec = importlib.util.spec_from_file_location('site_hook', ROOT / '.github/site.py')
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri='kernels.md'))
    config = types.SimpleNamespace(repo_url='https://github.com/a/b')
    read = lambda text: hook.on_page_markdown(text, page=page, config=config, files=None)
    assert read('[k](../kernels/README.md#x), [d](data.md)') == (
        '[k](https://github.com/a/b/blob/main/kernels/README.md#x), [d](data.md)'
    )
    assert read('<details><summary>') == '<details markdown><summary markdown="span">'


def test_the_version_is_one() -> None:
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    newest = re.search(r'^## (\S+)', text_of(pathlib.Path('CHANGELOG.md')), re.M)
    assert citation['version'] == newest[1] == longview.__version__


def test_what_the_tests_need_is_one_list() -> None:
    """requirements-tests.txt, the extra of the package, and the ruff of the hooks before a commit."""
    lines = (ROOT / 'requirements-tests.txt').read_text().splitlines()
    needed = {line.partition('#')[0].strip() for line in lines if not line.startswith(('#', '-r'))}
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert set(project['optional-dependencies']['test']) == needed
    (repo,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    ruffs = {package for hook in repo['hooks'] for package in hook['additional_dependencies']}
    assert ruffs == {package for package in needed if package.startswith('ruff')}


def test_ci_runs_the_one_command() -> None:
    (job,) = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())['jobs'].values()
    assert [step['run'] for step in job['steps'] if 'run' in step] == ['.ci/run']
