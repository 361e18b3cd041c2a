"""Small stand-ins for a network, for tests of what surrounds one."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from longview.configs import base
from longview.methods.computation import Made, Work
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


class Net(nn.Module):
    """One hidden layer with rows that are dropped at random, keyed by their number in the batch."""

    width: int = 32
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        x = x.astype(jnp.float32).reshape(len(x), -1) / 255
        x = jnp.tanh(nn.Dense(self.width, name='hidden')(x))
        if train and self.drop:
            rng = self.make_rng('drop_path')
            row = self.get_variable('example', 'row', jnp.arange(len(x)))
            keep = jax.vmap(lambda r: jax.random.bernoulli(jax.random.fold_in(rng, r), 1 - self.drop))(row)
            x = jnp.where(keep[:, None], x / (1 - self.drop), 0)
        return {'pooled': x}


class Normed(nn.Module):
    """Pixels normalized over the batch by one mean and deviation, and again as they are after a hidden layer.

    Attributes:
        norm: the layer, such as `BatchNorm`.
    """

    norm: type[nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        x = self.norm(name='first')(x.astype(jnp.float32) / 255, train=train).reshape(len(x), -1)
        x = nn.tanh(nn.Dense(8, name='hidden')(x))[:, None, None]
        return {'pooled': self.norm(name='last')(x, train=train)[:, 0, 0]}


class Head(nn.Module):
    """A linear classifier on the pooled features."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, features: dict[str, Array]) -> Array:
        return nn.Dense(self.num_classes, name='classifier')(features['pooled'])


@dataclasses.dataclass(frozen=True)
class Spoil:
    """A batch transform that puts a NaN into the batch that holds example `index` of epoch `epoch`."""

    index: int
    epoch: int = 0

    def __call__(self, batch: dict[str, Array], rng: Array) -> dict[str, Array]:
        hit = (batch['index'] == self.index) & (batch['epoch'] == self.epoch)
        image = batch['image'].astype(jnp.float32)
        return {**batch, 'image': jnp.where(hit[:, None, None, None], jnp.nan, image)}


NET = {'fn': 'tests.toys:Net', 'width': 32, 'drop': 0.1}


def config(**changes: Any) -> ConfigDict:
    """A run of a few steps on digits; `changes` are top-level keys."""
    task = {
        'fn': 'methods.supervised:Supervised',
        'backbone': NET,
        'head': {'fn': 'tests.toys:Head', 'num_classes': None},
    }
    data = {'fn': 'input_pipeline:Images', 'dataset': 'digits'}
    optimizer = base.adamw(peak=3e-3, warmup_epochs=0.0)
    node = base.run(task, data, optimizer, steps=8, batch_size=64)
    return ConfigDict(node | {'log_every': 2, 'eval_every': 4, 'save_every': 2} | changes)


def recipe(*, randaugment: bool = False) -> ConfigDict:
    """A dozen steps on JPEGs with all that draws or remembers: crops, erasing, mixup, cutmix, drop path, averages.

    RandAugment, as pure a function of the batch as the others, takes half of the compilation and has to be asked for.
    """
    node = base.smoke(base.imagenet(NET, base.adamw(peak=1e-3, warmup_epochs=0.1, clip_norm=5.0), ema=0.9))
    return ConfigDict(node | {'train_transforms': node['train_transforms'][0 if randaugment else 1 :]})


@dataclasses.dataclass(frozen=True)
class Slow:
    """A computation of some steps, each of which is saved: the sums of the features of all examples, over and over."""

    run: str
    steps: int = 3

    def __call__(self, work: Work) -> Made:
        opened = work.open(self.run)
        pooled = opened.gather(lambda task, v, batch: {'pooled': task.predict(v, batch)['pooled']})['pooled']
        done, total = work.restore({'sum': np.zeros(pooled.shape[1], np.float32)})
        for step in range(done, self.steps):
            total = {'sum': np.asarray(total['sum']) + pooled.sum(axis=0)}
            work.save(step + 1, total)
        return Made(files={'sums.npy': np.asarray(total['sum'])})


def staged(**student: Any) -> ConfigDict:
    """A teacher; its losses and features; a student that starts from it and sees the hardest half; a table of both."""
    node = config().to_dict()
    data = node['data']
    start = {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'teacher'}}
    hardest = {
        'fn': 'data.subset:Subset',
        'data': data,
        'scores': {'stage': 'losses', 'file': 'scores.npy'},
        'keep': 0.5,
    }
    still = base.adamw(peak=1e-30, warmup_epochs=0.0)
    begun = {'fn': 'methods.start:Start', 'inner': node['task'], 'read': start}
    stages = {
        'teacher': node,
        'losses': {
            'fn': 'methods.scores:Scores',
            'run': {'stage': 'teacher'},
            'data': data | {'eval_split': 'train'},
        },
        'features': {'fn': 'tests.toys:Slow', 'run': {'stage': 'teacher'}},
        'student': node | {'task': begun, 'data': hardest, 'optimizer': still} | student,
        'table': {
            'fn': 'methods.table:Table',
            'runs': {name: {'stage': name} for name in ('teacher', 'student')},
            'figures': ['eval/accuracy', 'eval/loss'],
        },
    }
    return ConfigDict({'stages': stages, 'order': ('teacher', 'losses', 'features', 'student', 'table')})


def get_config(preset: str | None = None) -> ConfigDict:
    """Returns the config that ``--config=tests/toys.py`` names, with one of these presets or none."""
    made = {None: config, 'recipe': recipe, 'randaugment': lambda: recipe(randaugment=True), 'staged': staged}
    return made[preset]()
