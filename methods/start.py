"""Where a run begins: the weights that another run of train.py ended with.

For fine-tuning (`Start`, a task that wraps one) and for teachers and students (`Trained`, a classifier like
`modelzoo.weights.Pretrained`, which starts from a published file). Both call what they are given to read that run's
arrays (`runtime.checkpoint.Best`) when the variables are made, and compare names and shapes. Published weights of a
zoo's network come by `modelzoo.weights.pretrained` instead.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from longview.methods.task import Batch, Variables, Wrapper
from longview.modelzoo.heads import Classifier
from longview.trees import path_of

# Returns a run's arrays by their paths, such as ``variables/params/head/kernel``; its text says which run that is.
Read = Callable[[], dict[str, np.ndarray]]

_PLACES = {
    False: ('variables/params/', 'variables/state/'),
    True: ('variables/state/average/', 'variables/state/inner/'),
}


@dataclasses.dataclass(frozen=True)
class Start(Wrapper):
    """Task -> Task: `inner`, whose first weights and statistics are those of another run's best checkpoint.

    Attributes:
        read: gives the arrays of the other run, whose task was the same but for what is `fresh`.
        averaged: whether that run's task was an `Ema`, whose averaged weights are taken.
        fresh: regular expression of the paths that start anew, such as ``head/.*``; '' for none.
    """

    read: Read
    averaged: bool = False
    fresh: str = ''

    def init(self, rng: Key[Array, ''], batch: Batch) -> Variables:
        v, saved = self.inner.init(rng, batch), self.read()
        params, state = _PLACES[self.averaged]
        return v._replace(
            params=_filled(v.params, saved, params, self.read, self.fresh),
            state=_filled(v.state, saved, state, self.read, ''),
        )


class Trained(Classifier):
    """A classifier whose initial variables are those of a run's best checkpoint; all else is as in `Classifier`.

    Attributes:
        read: gives the arrays of a run whose task was `Supervised` with this backbone and head, or an `Ema` of one.
        averaged: whether it was an `Ema`, whose averaged weights are taken.
    """

    read: Read
    averaged: bool = False

    @nn.nowrap
    def init(self, rngs: Any, x: Float[Array, 'b h w c'], *, train: bool = False) -> Any:
        """Returns the variables of the run; `rngs` are for their shapes only."""
        made, saved = dict(super().init(rngs, x, train=train)), self.read()
        params, state = _PLACES[self.averaged]
        filled = {'params': _filled(made.pop('params'), saved, params, self.read, '')}
        for kind, tree in made.items():
            filled[kind] = {'backbone': _filled(tree['backbone'], saved, f'{state}{kind}/', self.read, '')}
        return filled


def _filled(tree: Any, saved: dict[str, np.ndarray], place: str, read: Read, fresh: str) -> Any:
    """Returns `tree` with the arrays that were saved at `place`, but for what `fresh` matches.

    Raises:
        ValueError: an array is missing or of another shape.
    """

    def fill(key_path: Any, leaf: Array) -> Array:
        path = path_of(key_path)
        if fresh and re.fullmatch(fresh, path):
            return leaf
        found = saved.get(place + path)
        if found is None or found.shape != leaf.shape:
            there = 'absent' if found is None else tuple(found.shape)
            raise ValueError(
                f'{path} is {tuple(leaf.shape)} in this config and {there} in the checkpoint of {read}: '
                'use the same backbone and head, or let it start anew.'
            )
        return jnp.asarray(found, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, tree)
