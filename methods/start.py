"""Where a run begins: the weights that another run of train.py ended with.

For fine-tuning (`Start`, a task that wraps one) and for teachers and students (`Trained`, a network like
`modelzoo.weights.Pretrained`, which is loaded from a published file). What is taken is the other run's network as that
run evaluates it, whatever its method was: averaged, pruned and merged weights. It is read from the run's best
checkpoint by what both are given for it (`runtime.checkpoint.Best`), when names and shapes are found to be right.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Key

from longview.methods.objective import first_shapes
from longview.methods.task import Batch, Given, Shapes, Variables, Wrapper
from longview.modelzoo.heads import Loaded
from longview.trees import by_path

_HEAD = 'params/head/.*'


@runtime_checkable
class Checkpoint(Protocol):
    """The best checkpoint of a run; its text says of which run. See `runtime.checkpoint.Best` for the paths."""

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
    """

    read: Checkpoint
    averaged: bool = True
    fresh: str = ''

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        return self.inner.init(rng, batch, self.given(batch) if given is None else given)

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        given = self.inner.given(batch, fixed_only=True)
        if fixed_only:
            return given
        like = first_shapes(self.inner, batch)
        fresh = f'params/({self.fresh})' if self.fresh else ''
        return given._replace(network=_taken(like, self.read, averaged=self.averaged, fresh=fresh))


class Trained(Loaded):
    """A classifier whose first variables are those of a run's best checkpoint; all else is as in `Classifier`.

    Attributes:
        read: the run, of any method, whose network was this one.
        averaged: as `Start`'s.
        new_head: whether the head starts anew.
    """

    read: Checkpoint
    averaged: bool = True
    new_head: bool = False

    @nn.nowrap
    def load(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return _taken(like, self.read, averaged=self.averaged, fresh=_HEAD if self.new_head else '')


def _taken(like: Mapping[str, Any], read: Checkpoint, *, averaged: bool, fresh: str) -> dict[str, Any]:
    """Returns the network of a run, as far as it is in the tree `like`, but for the paths that `fresh` matches.

    Raises:
        ValueError: an array is missing or of another shape.
    """
    saved, places = read.shapes(), {}
    for path, leaf in by_path(dict(like)).items():
        if fresh and re.fullmatch(fresh, path):
            continue
        place = next((name for name in _names(path, saved, averaged) if name in saved), None)
        if place is None or saved[place] != tuple(leaf.shape):
            there = 'absent' if place is None else saved[place]
            raise ValueError(
                f'{path} is {tuple(leaf.shape)} in this config and {there} in the checkpoint of {read}: '
                'use the same backbone and head, or let it start anew.'
            )
        places[path] = place
    arrays, wanted = read(set(places.values())), by_path(dict(like))
    taken = {path: arrays[place].astype(wanted[path].dtype, copy=False) for path, place in places.items()}
    return traverse_util.unflatten_dict(taken, sep='/')


def _names(path: str, saved: Collection[str], averaged: bool) -> list[str]:
    """Returns where in a checkpoint an array of the network may be, the likeliest place first.

    Beside its state a run saves the network that it evaluates; versions before 0.1 did not. In the state these are the
    places for an objective, or an `Ema` of one; `Supervised` has its statistics without the backbone's name.
    """
    kind, _, rest = path.partition('/')
    evaluated = [f'deployed/{path}'] if averaged else []
    has_average = any(name.startswith('variables/state/average/') for name in saved)
    if kind == 'params':
        return [
            *evaluated,
            f'variables/state/average/{rest}' if averaged and has_average else f'variables/params/{rest}',
        ]
    state = 'variables/state/inner' if has_average else 'variables/state'
    return [*evaluated, f'{state}/{path}', f'{state}/{kind}/{rest.removeprefix("backbone/")}']
