"""What all tasks that learn to make examples have in common, and `sample`, the one way to have some made.

A sample is a function of the weights, of a key and of its number: the same one whatever the size of the batch and the
mesh in which it is made.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from longview.methods.dense import drawing
from longview.methods.task import Batch, Sums, Task, Variables, Wrapper, means
from longview.modelzoo import features as ft

# Columns of the grid of samples, whose rows are classes, and the least height of a sample there in pixels.
_COLUMNS, _LEAST = 10, 24


class Generator(Task):
    """A task whose network makes examples."""

    @property
    @abc.abstractmethod
    def asked(self) -> int | None:
        """The number of classes that a sample may be asked to be of, or None where nothing can be asked."""

    @abc.abstractmethod
    def condition(self, batch: Batch) -> Shaped[Array, 'b ...'] | None:
        """Returns what samples like those of a batch are asked to be, or None where nothing can be asked."""

    @abc.abstractmethod
    def generate(
        self, v: Variables, keys: Key[Array, ' b'], condition: Shaped[Array, 'b ...'] | None
    ) -> Float[Array, 'b ...']:
        """Returns samples, each from its own key alone, in the units of the batches that the task learns from.

        Args:
            v: the variables.
            keys: one for each sample.
            condition: what each sample is asked to be; None for whatever there is.
        """

    @abc.abstractmethod
    def losses(self, v: Variables, batch: Batch, rng: Key[Array, '']) -> dict[str, Float[Array, ' b']]:
        """Returns ``loss`` and its parts for each example of an evaluation; each draws by the key and its ``index``."""

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        del ready
        mask = batch['mask']
        weight = mask.astype(jnp.float32)
        return {**means(self.losses(v, batch, rng), mask, weight), 'weight': jnp.sum(weight)}

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``pixels``, a sample for each example, asked to be what the example is."""
        keys = sample_keys(jax.random.key(0), batch['index'])
        return {ft.PIXELS: self.generate(v, keys, self.condition(batch))}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``samples``, always those of the same keys: in a strip of ten, the classes one below the other."""
        rows = self.asked or 1
        number = jnp.arange(_COLUMNS * rows, dtype=jnp.int32)
        condition = None if self.asked is None else number % rows
        made = self.generate(v, sample_keys(jax.random.key(0), number), condition)
        made = jnp.pad(
            drawing.enlarged(drawing.gray(made), _LEAST), ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=1.0
        )
        columns = made.reshape(_COLUMNS, rows * made.shape[1], *made.shape[2:])
        return {'samples': columns[:, :-1]}


def sample(
    task: Task,
    v: Variables,
    rng: Key[Array, ''],
    number: Int[Array, ' b'],
    condition: Shaped[Array, 'b ...'] | None = None,
) -> Float[Array, 'b ...']:
    """Returns the samples of these numbers, by the weights that the task is evaluated with.

    Args:
        task: a `Generator`, or wrappers around one, such as `Ema`.
        v: its variables.
        rng: the key of all samples.
        number: of each sample.
        condition: what each is asked to be; None for whatever there is.

    Raises:
        TypeError: the task makes nothing.
    """
    generator, v = deployed_generator(task, v)
    return generator.generate(v, sample_keys(rng, number), condition)


def deployed_generator(task: Task, v: Any) -> tuple[Generator, Any]:
    """Returns the generator inside of wrappers, and its variables as it is evaluated.

    Raises:
        TypeError: there is none.
    """
    while isinstance(task, Wrapper):
        task, v = task.inner, task.deploy(v)
    if not isinstance(task, Generator):
        raise TypeError(
            f'{type(task).__name__} makes no samples: give a task of methods/generate that does, such as Diffusion.'
        )
    return task, v


def sample_keys(rng: Key[Array, ''], number: Int[Array, ' b']) -> Key[Array, ' b']:
    """Returns the key of each sample, or of each example in training, by its number."""
    return jax.vmap(lambda n: jax.random.fold_in(rng, n))(number)
