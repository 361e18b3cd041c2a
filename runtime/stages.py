"""The stages of a config: named runs and computations, what each reads of others, and in which order they come.

Anywhere in a stage ``{'stage': NAME}`` stands for the workdir of another, and ``{'stage': NAME, 'file': FILE}`` for a
file in it. In a workdir's config.json they stay as they are, so that all workdirs can be moved together.

What a stage has read is kept as digests beside it, so that an earlier stage that was done anew, and came out otherwise,
is found.
"""

import graphlib
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from longview.runtime.distributed import from_first
from longview.runtime.errors import RunError
from longview.runtime.resolve import ConfigError
from longview.words import nearest

_RECORD = 'stage.json'


def ordered(stages: Mapping[str, Any], order: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the names of stages, each after those that it reads.

    Args:
        stages: their nodes by name.
        order: all names in the order wanted; None for any order that does, of those that could come next the first by
            name.

    Raises:
        ConfigError: a name cannot be a folder's, a stage that is read does not exist, some read each other in a circle,
            or `order` is none of all stages or has one before another that it reads.
    """
    for name in stages:
        if not re.fullmatch(r'\w[\w.-]*', name):
            raise ConfigError(f'config.stages has the name {name!r}: use letters, digits, "_", "-" and ".".')
        if name == 'lock':
            raise ConfigError('config.stages has the name lock, which a file of every workdir has: choose another.')
        _check_references(stages[name], stages, f'config.stages.{name}')
    read = {name: {place[0] for place in _references(node)} for name, node in stages.items()}
    for name, others in read.items():
        for other in sorted(others - stages.keys()):
            raise ConfigError(f'config.stages.{name} reads the stage {other!r}{nearest(other, stages)}')
    if order is None:
        return tuple(_sorted(read))
    if sorted(order) != sorted(stages):
        raise ConfigError(f'config.order is {", ".join(order)}, and the stages are {", ".join(sorted(stages))}.')
    for place, name in enumerate(order):
        late = sorted(read[name] - set(order[:place]))
        if late:
            raise ConfigError(f'config.order has {name} before {late[0]}, which it reads: put it behind.')
    return tuple(order)


def reads(node: Any) -> tuple[str, ...]:
    """Returns the names of the stages that a stage reads, sorted."""
    return tuple(sorted({name for name, _ in _references(node)}))


def located(node: Any, folder: pathlib.Path | None, path: str = 'config') -> Any:
    """Returns a config with the paths of workdirs and files in place of the stages that it names.

    Args:
        node: a tree of mappings, lists, tuples and leaves.
        folder: where the workdirs of the stages lie; None where there are no stages.
        path: where the tree stands in the whole config; only for messages.

    Raises:
        ConfigError: there are no stages, and it names one.
    """
    if _is_reference(node):
        if folder is None:
            raise ConfigError(
                f'{path} names the stage {node["stage"]!r}, and this config has no stages: give the path of a workdir.'
            )
        return str(folder / node['stage'] / node.get('file', ''))
    if isinstance(node, Mapping):
        return {key: located(value, folder, f'{path}.{key}') for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(located(item, folder, f'{path}[{index}]') for index, item in enumerate(node))
    return node


class Record:
    """What is known of a stage: whether it has begun, with which digests of the stages it reads, and its own when done.

    Process 0 reads and writes it, and all processes know the same.

    Args:
        workdir: of the stage.
    """

    def __init__(self, workdir: pathlib.Path):
        self._file = workdir / _RECORD
        text = self._file.read_text() if jax.process_index() == 0 and self._file.exists() else '{}'
        self._known = json.loads(from_first(text))

    @property
    def begun(self) -> bool:
        """Whether the stage has been started."""
        return 'reads' in self._known

    @property
    def digest(self) -> str | None:
        """The digest of what the stage made; None until it is done."""
        return self._known.get('digest')

    def check(self, read: Mapping[str, str]) -> None:
        """Compares the digests of the stages that are read with those of the stage's beginning.

        Raises:
            RunError: one has changed.
        """
        before = self._known.get('reads', read)
        for name in sorted(before.keys() | read.keys()):
            if before.get(name) != read.get(name):
                raise RunError(
                    f'{self._file.parent} was made from another {name} than {self._file.parent.parent / name} now is: '
                    f'put that one back, or remove {self._file.parent} to make it anew.'
                )

    def begin(self, read: Mapping[str, str]) -> None:
        """Notes that the stage starts."""
        self._write({'reads': dict(read)})

    def finish(self, digest: str) -> str:
        """Notes that the stage is done, and returns its digest; no process goes on before that is written."""
        digest = from_first(digest)
        self._write({**self._known, 'digest': digest})
        multihost_utils.sync_global_devices(f'{self._file.parent.name} is done')
        return digest

    def _write(self, known: dict[str, Any]) -> None:
        self._known = known
        if jax.process_index() == 0:
            temporary = self._file.with_suffix('.tmp')
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
            temporary.replace(self._file)


def digest_of_run(workdir: pathlib.Path) -> str:
    """Returns the digest of what a run was and how it went: its config, and its metrics but for times."""
    kept = [(workdir / 'config.json').read_text()]
    for line in (workdir / 'metrics.jsonl').read_text().splitlines():
        values = {name: value for name, value in json.loads(line).items() if not name.startswith('time/')}
        kept.append(json.dumps(values, sort_keys=True))
    return hashlib.sha256('\n'.join(kept).encode()).hexdigest()


def _references(node: Any) -> Iterator[tuple[str, str]]:
    """Yields the stages that a node names, and the file of each, '' for its workdir."""
    if _is_reference(node):
        yield node['stage'], node.get('file', '')
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _references(item)


def _check_references(node: Any, stages: Mapping[str, Any], path: str) -> None:
    """Raises ConfigError for what names a stage and something else that stands for nothing."""
    if isinstance(node, Mapping):
        if isinstance(node.get('stage'), str) and node['stage'] in stages and not _is_reference(node):
            other = sorted(node.keys() - {'stage', 'file'})[0]
            raise ConfigError(
                f"{path} names the stage {node['stage']!r} and {other!r}: give a stage and, for a file in it, 'file'."
            )
        for key, value in node.items():
            _check_references(value, stages, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            _check_references(item, stages, f'{path}[{index}]')


def _is_reference(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get('stage'), str) and node.keys() <= {'stage', 'file'}


def _sorted(read: Mapping[str, set[str]]) -> Iterator[str]:
    sorter = graphlib.TopologicalSorter(read)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = ' reads '.join(reversed(error.args[1]))
        raise ConfigError(
            f'the stages read each other in a circle ({circle}): one of them has to come first.'
        ) from None
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()])
        name = ready.pop(0)
        yield name
        sorter.done(name)
