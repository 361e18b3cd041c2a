"""Where a run begins: the weights that another run of train.py ended with.

For fine-tuning (`Start`, a task that wraps one) and for teachers and students (`Trained`, a classifier like
`modelzoo.weights.Pretrained`, which starts from a published file). Both read the best checkpoint of a workdir when the
variables are made, and compare names and shapes. Published weights of a zoo's network come by
`modelzoo.weights.pretrained` instead.
"""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from methods.reparam import by_path, path_of
from methods.task import Batch, Metrics, Task, Variables
from modelzoo.heads import Classifier

_PLACES = {False: ('variables/params/', 'variables/state/'),
           True: ('variables/state/average/', 'variables/state/inner/')}


@dataclasses.dataclass(frozen=True)
class Start(Task):
    """Task -> Task: `inner`, whose first weights and statistics are those of another run's best checkpoint.

    Attributes:
        inner: the task to train.
        run: workdir of the other run, whose task was the same but for what is `fresh`.
        averaged: whether that run's task was an `Ema`, whose averaged weights are taken.
        fresh: regular expression of the paths that start anew, such as ``head/.*``; '' for none.
    """

    inner: Task
    run: str
    averaged: bool = False
    fresh: str = ''

    def init(self, rng: Key[Array, ''], batch: Batch) -> Variables:
        v, saved = self.inner.init(rng, batch), read(self.run)
        params, state = _PLACES[self.averaged]
        return v._replace(params=_filled(v.params, saved, params, self.run, self.fresh),
                          state=_filled(v.state, saved, state, self.run, ''))

    def loss(self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
             ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        return self.inner.loss(v, batch, rng, step)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        return self.inner.after(v, grads, step)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return self.inner.predict(v, batch)

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return self.inner.score(v, batch)

    def depth_of(self, path: str) -> tuple[int, int]:
        return self.inner.depth_of(path)


class Trained(Classifier):
    """A classifier whose initial variables are those of a run's best checkpoint; all else is as in `Classifier`.

    Attributes:
        run: workdir of a run whose task was `Supervised` with this backbone and head, or an `Ema` of one.
        averaged: whether it was an `Ema`, whose averaged weights are taken.
    """

    run: str = ''
    averaged: bool = False

    @nn.nowrap
    def init(self, rngs: Any, x: Float[Array, 'b h w c'], *, train: bool = False) -> Any:
        """Returns the variables of the run; `rngs` are for their shapes only."""
        made, saved = dict(super().init(rngs, x, train=train)), read(self.run)
        params, state = _PLACES[self.averaged]
        filled = {'params': _filled(made.pop('params'), saved, params, self.run, '')}
        for kind, tree in made.items():
            filled[kind] = {'backbone': _filled(tree['backbone'], saved, f'{state}{kind}/', self.run, '')}
        return filled


def read(run: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a run's best checkpoint by their paths, such as ``variables/params/head/kernel``.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = pathlib.Path(run).absolute() / 'best'
    steps = sorted(int(path.name) for path in folder.glob('*') if path.name.isdigit())
    if not steps:
        raise FileNotFoundError(f'{folder} holds no checkpoint: train that run first, or name the workdir of another.')
    with ocp.PyTreeCheckpointer() as checkpointer:
        path = folder / str(steps[-1]) / 'default'
        tree = checkpointer.metadata(path).item_metadata.tree
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return by_path(checkpointer.restore(path, restore_args=whole))


def _filled(tree: Any, saved: dict[str, np.ndarray], place: str, run: str, fresh: str) -> Any:
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
            raise ValueError(f'{path} is {tuple(leaf.shape)} in this config and {there} in the checkpoint of {run}: '
                             'use the same backbone and head, or let it start anew.')
        return jnp.asarray(found, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, tree)
