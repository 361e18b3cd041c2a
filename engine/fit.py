"""What makes a step fit the memory of its chips: split parameters, microbatches, recomputed activations.

Changes are tried in the order of what they cost a run. Parameters and optimizer state that are split over all chips
cost communication. Microbatches cost speed where they become small. Recomputing the activations (remat) costs a third
more products. An estimate, corrected by what the compiler said of the tries before, decides which are compiled.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from longview.engine.topology import Cost, DoesNotFit
from longview.runtime.memory import readable

COMPILATIONS = 4
SECONDS = 600
# Examples of a microbatch on a chip: with fewer, recomputing is preferred.
_SMALL = 8

Config = Mapping[str, Any]
Overrides = dict[str, Any]


class Try(NamedTuple):
    """One compilation.

    Attributes:
        overrides: of the config, value by dotted key; none for the config as it is.
        peak: bytes on each chip; None where the compiler gave up without saying it.
        cost: of the step where it fits, else None.
        partial: whether the peak is that of the temporaries alone, all that the compiler said.
    """

    overrides: Overrides
    peak: int | None
    cost: Cost | None
    partial: bool = False


def search(
    config: Config,
    chips: int,
    room: int,
    estimate: Callable[[Config], int],
    compiled: Callable[[Config], Cost],
    now: Callable[[], float] = time.monotonic,
) -> list[Try]:
    """Compiles the step of a config and, while it does not fit, of changed ones; the last one fits if any does.

    There are at most `COMPILATIONS`, and none begins that is expected to end after `SECONDS`.

    Args:
        config: of a run, as plain mappings, lists and leaves.
        chips: that it runs on.
        room: bytes of memory of a chip.
        estimate: of the bytes that a config needs on a chip. Raises ValueError or NotImplementedError for one that
            cannot work.
        compiled: the cost of a config's step. Raises DoesNotFit.
        now: the clock, in seconds.
    """
    begin = now()
    tried = [_try(config, {}, room, compiled)]
    if tried[0].cost is not None:
        return tried
    longest = now() - begin
    over = _over(tried[0], estimate(config), room)
    left_out: list[tuple[int, Overrides]] = []
    in_time = lambda: len(tried) < COMPILATIONS and now() - begin + longest <= SECONDS
    for overrides in candidates(config, chips):
        if tried[-1].cost is not None or not in_time():
            return tried
        try:
            size = estimate(changed(config, overrides))
        except (ValueError, NotImplementedError):
            continue
        if size * over > room:
            left_out.append((size, overrides))
            continue
        started = now()
        tried.append(_try(config, overrides, room, compiled))
        longest = max(longest, now() - started)
        over = max(over, _over(tried[-1], size, room))
    if tried[-1].cost is None and left_out and in_time():
        # None was expected to fit: the smallest says how far it is.
        tried.append(_try(config, min(left_out, key=lambda each: each[0])[1], room, compiled))
    return tried


def _try(config: Config, overrides: Overrides, room: int, compiled: Callable[[Config], Cost]) -> Try:
    try:
        cost = compiled(changed(config, overrides))
    except DoesNotFit as error:
        return Try(overrides, error.used, None, error.partial)
    return Try(overrides, cost.memory, cost if cost.memory <= room else None)


def _over(one: Try, size: int, room: int) -> float:
    """Returns the peak of a try over the estimate of it; no less than 1, for the next estimate may be too low."""
    return max(1.0, (one.peak or room) / size)


def candidates(config: Config, chips: int) -> Iterator[Overrides]:
    """Yields what may be changed of a config that runs on so many chips, the cheapest first.

    No change alters the numbers of a run beyond rounding, but microbatches where batches are normalized
    (methods/microbatches.py).
    """
    mesh = {'data': 1, 'fsdp': 1, 'sequence': 1, 'tensor': 1} | (dict(config['mesh']) if 'mesh' in config else {})
    # Those that the batch is split over; where the tokens are split over all that are left, those are named.
    others = mesh['sequence'] * mesh['tensor']
    chips = mesh['data'] * mesh['fsdp'] if others < 0 else chips // others
    whole = mesh['fsdp'] == chips or (mesh['fsdp'] == -1 and mesh['data'] == 1)
    split = {} if whole else {'mesh.data': 1, 'mesh.fsdp': -1}
    again = dict.fromkeys(_switches(config['task'], 'task'), True)
    parts = list(_microbatches(config, chips))
    large = [part for part in parts if config['batch_size'] // part['accumulate'] >= _SMALL * chips]
    choices = [
        *([split] if split else []),
        *(extra | part for part in large for extra in ({}, split)),
        *([again, again | split] if again else []),
        *(again | split | part for part in parts),
    ]
    for number, choice in enumerate(choices):
        if choice not in choices[:number]:
            yield choice


def _microbatches(config: Config, chips: int) -> Iterator[Overrides]:
    """Yields twice, four times, ... as many microbatches, while each chip has an example of each."""
    each = config['batch_size'] // chips
    parts = 2 * (config['accumulate'] if 'accumulate' in config else 1)
    while parts <= each:
        if each % parts == 0:
            yield {'accumulate': parts}
        parts *= 2


def _switches(node: Any, path: str) -> Iterator[str]:
    """Yields the keys of the networks of a task that can recompute their activations and do not."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == 'remat' and value is False:
                yield f'{path}.{key}'
            else:
                yield from _switches(value, f'{path}.{key}')


def changed(config: Config, overrides: Overrides) -> Config:
    """Returns a config with other values at dotted keys."""
    for key, value in overrides.items():
        config = _with(config, key.split('.'), value)
    return config


def _with(node: Config, path: list[str], value: Any) -> Config:
    name, *rest = path
    return {**node, name: _with(node.get(name, {}), rest, value) if rest else value}


def flags(overrides: Overrides) -> str:
    """Returns what one adds to a command line.

    >>> flags({'mesh.data': 1, 'accumulate': 2})
    '--config.mesh.data=1 --config.accumulate=2'
    """
    return ' '.join(f'--config.{key}={value}' for key, value in overrides.items())


def lines(tried: list[Try], room: int) -> list[str]:
    """Returns what is printed of the tries where the first one does not fit."""
    rows = [f'the step DOES NOT FIT the {readable(room)} of a chip; compiled:']
    for one in tried:
        peak = 'more than there is' if one.peak is None else readable(one.peak)
        verdict = 'does not fit' if one.cost is None else 'fits'
        alone = ', by its temporaries alone' if one.partial else ''
        rows.append(f'  {peak:>18}  {verdict:12}  {flags(one.overrides) or "as the config is"}{alone}')
    if tried[-1].cost is not None:
        return [*rows, f'it fits with {flags(tried[-1].overrides)}']
    return [*rows, 'none of them fits: lower config.batch_size, or use more chips.']
