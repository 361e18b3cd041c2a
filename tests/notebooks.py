"""Notebooks: written from their Python files, and run whole.

notebooks/NAME.py, in percent format, is what is edited; notebooks/NAME.ipynb is made of it, without outputs.

    python -m tests.notebooks                  # writes every notebooks/NAME.ipynb
    python -m tests.notebooks train_digits     # runs one in this folder; its pictures become picture00.png, ...
"""

import json
import pathlib
import runpy
import sys
import tomllib
from typing import Any

import jupytext

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / 'notebooks'
COMMAND = 'python -m tests.notebooks'
REPOSITORY = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['urls']['Repository']
_METADATA = {
    'colab': {'provenance': []},
    'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
    'language_info': {'name': 'python'},
}


def names() -> list[str]:
    """Returns the names of all notebooks."""
    return sorted(path.stem for path in FOLDER.glob('*.py'))


def cells(name: str) -> list[tuple[str, str]]:
    """Returns kind (``code`` or ``markdown``) and text of each cell of a notebook."""
    notebook = jupytext.reads((FOLDER / f'{name}.py').read_text(), 'py:percent')
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def badge(name: str) -> str:
    """Returns the line, in a notebook's first cell, that opens it in Colab."""
    place = REPOSITORY.removeprefix('https://github.com/')
    picture = 'https://colab.research.google.com/assets/colab-badge.svg'
    return f'[![Open in Colab]({picture})](https://colab.research.google.com/github/{place}/blob/main/notebooks/{name}.ipynb)'


def ipynb(name: str) -> str:
    """Returns the text of the .ipynb of a notebook, of format 4.4, whose cells have no random names."""
    notebook = {'cells': [_cell(*cell) for cell in cells(name)], 'metadata': _METADATA, 'nbformat': 4}
    return json.dumps(notebook | {'nbformat_minor': 4}, indent=1, ensure_ascii=False) + '\n'


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell = {'cell_type': kind, 'metadata': {}, 'source': text.splitlines(keepends=True)}
    return cell | {'execution_count': None, 'outputs': []} if kind == 'code' else cell


def write() -> None:
    """Writes the .ipynb of every notebook."""
    for name in names():
        (FOLDER / f'{name}.ipynb').write_text(ipynb(name))


def run(name: str) -> None:
    """Runs a notebook in the working folder; a picture is saved where a notebook would show it.

    A warning that the notebook or our own code causes is an error.
    """
    import warnings

    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    saved = []

    def show() -> None:
        for number in pyplot.get_fignums():
            saved.append(f'picture{len(saved):02}.png')
            pyplot.figure(number).savefig(saved[-1])
        pyplot.close('all')

    pyplot.show = show
    warnings.filterwarnings('error', module=r'__main__|longview(\..*)?$')
    runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
    if pyplot.get_fignums():
        raise AssertionError(f'{name} draws {len(pyplot.get_fignums())} figures that it does not show.')


if __name__ == '__main__':
    run(sys.argv[1]) if sys.argv[1:] else write()
