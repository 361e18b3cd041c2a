"""What a Frechet distance is to be compared with: that of real images which are disturbed, and of other real images.

A distance by the features of a network of one's own has no scale that anybody knows. `Distances` gives it one, by the
same network and the same split: of the training split, which is as near as samples can come, and of the evaluation
split under transforms that a viewer can picture.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from longview.methods.computation import Made, Work
from longview.methods.figures import frechet
from longview.methods.generate.generator import sample_keys
from longview.methods.task import Batch, Rows, Task, Transform, Variables
from longview.modelzoo import features as ft


@dataclasses.dataclass(frozen=True)
class AddNoise:
    """A batch transform: adds normal noise to every value of an image, drawn by the example's index.

    Attributes:
        deviation: of the noise, in the units of the batch.
    """

    deviation: float

    def __call__(self, batch: Batch, rng: Key[Array, '']) -> Batch:
        image = batch[ft.IMAGE]
        noise = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))(sample_keys(rng, batch['index']))
        return {**batch, ft.IMAGE: image + self.deviation * noise}


@dataclasses.dataclass(frozen=True)
class ReplacePixels:
    """A batch transform: puts values that are equally likely between two bounds in the place of some pixels.

    Attributes:
        share: probability that a value is replaced.
        low, high: the bounds, in the units of the batch.
    """

    share: float
    low: float
    high: float

    def __call__(self, batch: Batch, rng: Key[Array, '']) -> Batch:
        image = batch[ft.IMAGE]

        def replaced(key: Key[Array, ''], x: Array) -> Array:
            which, value = jax.random.split(key)
            drawn = jax.random.uniform(value, x.shape, minval=self.low, maxval=self.high)
            return jnp.where(jax.random.bernoulli(which, self.share, x.shape), drawn, x)

        return {**batch, ft.IMAGE: jax.vmap(replaced)(sample_keys(rng, batch['index']), image)}


@dataclasses.dataclass(frozen=True)
class Distances:
    """A computation: ``distances.json``, Frechet distances of images from a run's evaluation split.

    Attributes:
        judge: workdir of the run whose task's ``pooled`` are the features.
        others: data sets by name, whose evaluation splits are taken as they are.
        disturbed: batch transforms by name, of the run's own split.
        seed: of what they draw.
    """

    judge: str
    others: Mapping[str, Any]
    disturbed: Mapping[str, Transform]
    seed: int = 0

    def __call__(self, work: Work) -> Made:
        opened = work.open(self.judge)

        def program(task: Task, v: Variables, batch: Batch) -> Rows:
            rng = jax.random.key(self.seed)
            seen = {name: transform(batch, rng) for name, transform in self.disturbed.items()}
            return {name: task.predict(v, each)[ft.POOLED] for name, each in {'': batch, **seen}.items()}

        rows = opened.gather(program)
        own = frechet.of_rows(rows.pop(''))
        for name, data in self.others.items():
            rows[name] = opened.gather(lambda task, v, batch: {'': task.predict(v, batch)[ft.POOLED]}, data)['']
        found = {name: frechet.distance(own, frechet.of_rows(np.asarray(each))) for name, each in rows.items()}
        return Made(files={'distances.json': found})
