"""Starting from another run: the weights of its best checkpoint are the first weights of this one.

For fine-tuning (`Start`, a task that wraps one) and for teachers and students (`again`, a network like those of
`modelzoo.weights`, which are loaded from a published file). What is taken is a network of the other run as that run
evaluates it, whatever its method was: averaged, pruned and merged weights, one tower of two. It is read from the run's
best checkpoint by what both are given for it (`runtime.checkpoint.Best`), when names and shapes are found to be right.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Key

from longview.methods.objective import NETWORK, first_shapes
from longview.methods.task import Batch, Given, Shapes, Variables, Wrapper
from longview.modelzoo.heads import Classifier, Loaded
from longview.trees import by_path

_HEAD = 'params/head/.*'
# A list of paths in a sentence has at most so many.
_MOST = 8


@runtime_checkable
class Checkpoint(Protocol):
    """The best checkpoint of a run; its text says of which run. See `runtime.checkpoint.Best` for the paths."""

    def networks(self) -> tuple[str, ...]:
        """Returns the names of the networks that the run has left."""

    def module(self, name: str) -> nn.Module:
        """Returns the module of one of them."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of all arrays, by path."""

    def __call__(self, paths: Collection[str]) -> dict[str, np.ndarray]:
        """Returns the arrays of these paths."""


@dataclasses.dataclass(frozen=True)
class Start(Wrapper):
    """Task -> Task: `inner`, whose network starts from that of another run's best checkpoint.

    Attributes:
        read: the other run, of any method, whose network was the same but for what is `fresh`.
        averaged: False for the weights that the other run trained, where it evaluated averages of them.
        fresh: regular expression of the paths of parameters that start anew, such as ``head/.*``; '' for none.
        network: which network of the other run; by default the one of the same name, or its only one.
        strict: whether every array has to be there but those that are `fresh`; False loads what has its name and shape
            in the other run and lets all else start anew. What starts anew and what is left over is printed.
        parts: places of this network that are taken, each with its place in the other network, whatever else that one
            has: ``{'backbone/stem/encoder': 'encoder'}``. All else starts anew. Empty to take the whole network.
    """

    read: Checkpoint
    averaged: bool = True
    fresh: str = ''
    network: str | None = None
    strict: bool = True
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.read, Checkpoint):
            raise TypeError(
                f'Start.read is {self.read!r}, and what reads a checkpoint is wanted: give runtime.checkpoint:Best '
                'with the workdir of a run.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        return self.inner.init(rng, batch, self.given(batch) if given is None else given)

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        given = self.inner.given(batch, fixed_only=True)
        if fixed_only and not self.inner.fixes_networks:
            return given
        like, fresh = first_shapes(self.inner, batch), f'params/({self.fresh})' if self.fresh else ''
        if self.network is not None and len(like) > 1:
            raise ValueError(
                f'Start.network is {self.network!r}, and {type(self.inner).__name__} has the networks '
                f'{" and ".join(like)}: leave it out, each then starts from the one of its name.'
            )
        taken = {name: self._take(name, tree, fresh) for name, tree in like.items()}
        return given._replace(networks=taken)

    def _take(self, name: str, like: Mapping[str, Any], fresh: str) -> dict[str, Any]:
        source = self.network or _like_named(self.read, name)
        taken = _Taken.of(self.read, source, like, averaged=self.averaged, parts=self.parts)
        return taken.arrays(fresh, strict=self.strict)


class Trained(Loaded):
    """A classifier whose first variables are those of a run's best checkpoint; all else is as in `Classifier`.

    Attributes:
        read: the run, of any method, whose network was this one.
        averaged: as `Start`'s.
        new_head: whether the head starts anew.
        network: as `Start`'s.
    """

    read: Checkpoint
    averaged: bool = True
    new_head: bool = False
    network: str | None = None

    @nn.nowrap
    def load(self, like: Mapping[str, Any]) -> dict[str, Any]:
        source = self.network or _like_named(self.read, NETWORK)
        fresh = _HEAD if self.new_head else ''
        return _Taken.of(self.read, source, like, averaged=self.averaged).arrays(fresh, strict=True, quiet=True)


def again(
    read: Checkpoint, head: nn.Module | None = None, *, network: str | None = None, averaged: bool = True
) -> Trained:
    """Returns a network of another run as it was, with its weights: nothing of it has to be described a second time.

    Args:
        read: the run.
        head: features -> logits, to start anew in the place of the network's own; None keeps that.
        network: as `Start`'s.
        averaged: as `Start`'s.

    Raises:
        ValueError: the network is no backbone with a head.
    """
    name = network or _like_named(read, NETWORK)
    module = read.module(name)
    backbone = getattr(module, 'backbone', None)
    if backbone is None:
        raise ValueError(
            f'the network {name} of {read} is a {type(module).__name__}, which has no backbone: name a network that '
            'has, or describe yours and use methods.start:Start.'
        )
    own = module.head if isinstance(module, Classifier) else None
    return Trained(backbone, own if head is None else head, read, averaged, head is not None, name)


@dataclasses.dataclass(frozen=True)
class _Taken:
    """What there is in a checkpoint for the arrays of a network.

    Attributes:
        read: the checkpoint.
        like: the network's arrays by path, or their shapes.
        wanted: the paths of `like` that are to be taken.
        saved: shapes of all arrays of the checkpoint.
        places: where each array that is wanted and there lies in the checkpoint.
        left: arrays of the other network that this one does not have.
    """

    read: Checkpoint
    like: dict[str, Any]
    wanted: list[str]
    saved: dict[str, tuple[int, ...]]
    places: dict[str, str]
    left: list[str]

    @classmethod
    def of(
        cls,
        read: Checkpoint,
        network: str,
        like: Mapping[str, Any],
        *,
        averaged: bool,
        parts: Mapping[str, str] | None = None,
    ) -> '_Taken':
        flat, saved = by_path(dict(like)), read.shapes()
        there = _moved(flat, parts) if parts else {path: path for path in flat}
        places = {}
        for path, other in there.items():
            found = next((name for name in _names(network, other, saved, averaged) if name in saved), None)
            if found is not None:
                places[path] = found
        prefix = f'deployed/{network}/'
        left = [path.removeprefix(prefix) for path in saved if path.startswith(prefix)]
        known = set(there.values())
        return cls(read, flat, list(there), saved, places, sorted(path for path in left if path not in known))

    def arrays(self, fresh: str, *, strict: bool, quiet: bool = False) -> dict[str, Any]:
        """Returns the tree of the arrays that are read: all but those that `fresh` matches or, not `strict`, that fit.

        Raises:
            ValueError: an array is missing or of another shape.
        """
        wanted = [path for path in self.wanted if not (fresh and re.fullmatch(fresh, path))]
        odd = [path for path in wanted if self.saved.get(self.places.get(path, '')) != tuple(self.like[path].shape)]
        if odd and strict:
            path = odd[0]
            there = self.saved.get(self.places.get(path, ''), 'absent')
            more = f' (and {len(odd) - 1} more do not fit)' if odd[1:] else ''
            raise ValueError(
                f'{path} is {tuple(self.like[path].shape)} in this config and {there} in the checkpoint of {self.read}'
                f'{more}: use the same backbone and head, or let it start anew.'
            )
        chosen = {path: self.places[path] for path in wanted if path not in odd}
        if not chosen:
            raise ValueError(f'the checkpoint of {self.read} has none of the arrays of this network: name another run.')
        if not quiet:
            self._say([path for path in self.like if path not in chosen])
        arrays = self.read(set(chosen.values()))
        taken = {path: arrays[place].astype(self.like[path].dtype, copy=False) for path, place in chosen.items()}
        return traverse_util.unflatten_dict(taken, sep='/')

    def _say(self, anew: list[str]) -> None:
        parts = [
            f'{_listed(anew)} start anew' if anew else '',
            f'{_listed(self.left)} are left over' if self.left else '',
        ]
        if any(parts) and jax.process_index() == 0:
            print(f'note: of the network from {self.read} {" and ".join(filter(None, parts))}.', flush=True)


def _moved(paths: Collection[str], parts: Mapping[str, str]) -> dict[str, str]:
    """Returns the paths that lie in one of the `parts`, each with its path in the other network.

    Raises:
        ValueError: nothing of this network lies in a part.
    """
    moved = {}
    for ours, theirs in parts.items():
        found = [path for path in paths if f'{path.partition("/")[2]}/'.startswith(f'{ours}/')]
        if not found:
            raise ValueError(
                f'Start.parts names {ours!r}, and the network has nothing there: its places are '
                f'{_listed(sorted({path.partition("/")[2].rpartition("/")[0] for path in paths}))}.'
            )
        for path in found:
            kind, _, rest = path.partition('/')
            moved[path] = '/'.join(filter(None, (kind, theirs, rest.removeprefix(f'{ours}/'))))
    return moved


def _listed(paths: Sequence[str]) -> str:
    return f'{", ".join(paths[:_MOST])}{f" and {len(paths) - _MOST} others" if len(paths) > _MOST else ""}'


def _like_named(read: Checkpoint, name: str) -> str:
    """Returns the network of a run that has a name, or its only one.

    Raises:
        ValueError: there are several, and none has it.
    """
    names = read.networks()
    if name in names or not names:
        return name
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f'{read} has the networks {" and ".join(names)}, and none is called {name}: say which, as `network`.'
    )


def _names(network: str, path: str, saved: Collection[str], averaged: bool) -> list[str]:
    """Returns where in a checkpoint an array of a network may be, the likeliest place first.

    Beside its state a run saves the networks that it evaluates; in version 0.1 this was one, without a name, and before
    it was not saved. In the state these are the places for an objective, or an `Ema` of one; `Supervised` has its
    statistics without the backbone's name.
    """
    kind, _, rest = path.partition('/')
    evaluated = [f'deployed/{network}/{path}', f'deployed/{path}'] if averaged else []
    has_average = any(name.startswith('variables/state/average/') for name in saved)
    if kind == 'params':
        weights = 'variables/state/average' if averaged and has_average else 'variables/params'
        return [*evaluated, f'{weights}/{rest}', f'{weights}/{network}/{rest}']
    state = 'variables/state/inner' if has_average else 'variables/state'
    return [*evaluated, f'{state}/{path}', f'{state}/{kind}/{rest.removeprefix("backbone/")}']
