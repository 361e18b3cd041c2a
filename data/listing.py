"""The files in a folder and in the folders below it, listed once: later starts read the list from a cache.

Listing asks the file system for the names in every folder, and for nothing of a file. What is found in a large folder
is kept in `$XDG_CACHE_HOME/longview/folders` (by default below ~/.cache), under the hash of its path, with the times
at which each folder in it last changed: where one of these is another now, or the cache is damaged, all is listed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
import time
from typing import NamedTuple

# Fewer files than these are listed in a fraction of a second.
WORTH = 10_000
# What changes twice within so many ns may bear the same time.
_TICK = 2_000_000_000


class Names(NamedTuple):
    """What is in a folder, links followed, but for what is hidden by a dot.

    Attributes:
        changed: when names in it last changed, and when anything of it did, which no copying sets back; in ns.
        folders, files: sorted names.
    """

    changed: tuple[int, int]
    folders: list[str]
    files: list[str]


# Path of a folder, relative to the root -> what is in it; '' is the root.
Tree = dict[str, Names]


def tree(root: str) -> Tree:
    """Everything in a folder, from the cache if nothing has changed since.

    Raises:
        ValueError: a link leads to a folder that it lies in.
        OSError: a folder cannot be read.
    """
    cache = _place(root)
    found = _read(cache, root)
    if found is None:
        begun, found = time.time_ns(), {}
        _list(root, '', (), found)
        settled = max(max(names.changed) for names in found.values()) < begun - _TICK
        if settled and sum(len(names.files) for names in found.values()) >= WORTH:
            _write(cache, found)
    return found


def _list(root: str, folder: str, above: tuple[tuple[int, int], ...], found: Tree) -> None:
    """Adds a folder and all in it to what was found; `above` identifies the folders that it lies in."""
    place = os.path.join(root, folder)
    status = os.stat(place)  # before its names are read: a change meanwhile then shows the next time
    itself = (status.st_dev, status.st_ino)
    if itself in above:
        raise ValueError(f'{place} is a link to a folder that it lies in: take it away, or hide it with a dot.')
    folders, files = [], []
    with os.scandir(place) as entries:
        for entry in entries:
            if not entry.name.startswith('.'):
                (folders if entry.is_dir() else files).append(entry.name)
    found[folder] = Names(_changed(status), sorted(folders), sorted(files))
    for name in found[folder].folders:
        _list(root, os.path.join(folder, name), (*above, itself), found)


def _changed(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def _place(root: str) -> pathlib.Path:
    caches = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return caches / 'longview' / 'folders' / f'{key}.json'


def _read(cache: pathlib.Path, root: str) -> Tree | None:
    """What the cache holds; None where there is none, it is damaged, or a folder is not as it was."""
    try:
        digest, _, text = cache.read_bytes().partition(b'\n')
        if hashlib.sha256(text).hexdigest().encode() != digest:
            return None
        found = {
            folder: Names(tuple(changed), folders, files)
            for folder, (changed, folders, files) in json.loads(text).items()
        }
        same = all(_changed(os.stat(os.path.join(root, folder))) == names.changed for folder, names in found.items())
    except OSError:
        return None
    return found if same else None


def _write(cache: pathlib.Path, found: Tree) -> None:
    """Writes the cache whole or not at all; where it cannot be written there is none."""
    text = json.dumps(found).encode()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=cache.parent)
    except OSError:
        return
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(hashlib.sha256(text).hexdigest().encode() + b'\n' + text)
        os.replace(scratch, cache)
    except OSError:
        os.unlink(scratch)
