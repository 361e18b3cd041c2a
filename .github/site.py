"""Prepares the pages of docs/ for the site; mkdocs calls it (mkdocs.yml), GitHub shows the pages as they are.

- A link to a file outside of docs/, such as ../kernels/README.md, leads to that file in the repository.
- What is inside of <details> is read as Markdown, as GitHub does it.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r'\]\((?P<path>\.\./[^)#\s]*)(?P<anchor>#[^)\s]*)?\)')
_BRANCH = 'main'


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Returns the text of a page of docs/ as mkdocs is to read it."""
    del files
    folder = posixpath.join('docs', posixpath.dirname(page.file.src_uri))
    markdown = markdown.replace('<details>', '<details markdown>').replace('<summary>', '<summary markdown="span">')
    return _LINK.sub(lambda link: f']({_in_repository(link, folder, config.repo_url)})', markdown)


def _in_repository(link: re.Match, folder: str, repository: str) -> str:
    """Returns the address of what a link names, relative to a folder of the repository."""
    path = posixpath.normpath(posixpath.join(folder, link['path']))
    if path.startswith('docs/'):
        return link['path'] + (link['anchor'] or '')
    return posixpath.join(repository, 'blob', _BRANCH, path) + (link['anchor'] or '')
