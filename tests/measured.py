"""A task whose figures are no means, and a run that evaluates it in several ways."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from longview.methods.supervised import Supervised
from tests import toys

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Nearest(Supervised):
    """Names the class whose mean feature, over the support set, is the nearest."""

    def gather(self, v: Any, batch: dict[str, Array]) -> dict[str, Array]:
        return {'feature': self.predict(v, batch)['pooled'], 'label': batch['label']}

    def prepare(self, v: Any, gathered: Any) -> Any:
        del v
        hot = jax.nn.one_hot(gathered['label'], CLASSES)
        return hot.T @ gathered['feature'] / hot.sum(axis=0)[:, None]

    def measure(self, v: Any, batch: dict[str, Array], ready: Any, rng: Array) -> Any:
        feature = self.predict(v, batch)['pooled']
        said = jnp.argmin(jnp.sum(jnp.square(feature[:, None] - ready[None]), axis=-1), axis=1)
        hit = (batch['label'][:, None] == jnp.arange(CLASSES)[None]) & batch['mask'][:, None]
        confusion = hit.astype(jnp.int32).T @ jax.nn.one_hot(said, CLASSES, dtype=jnp.int32)
        drawn = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(rng, index)))(batch['index'])
        return {'confusion': confusion, 'drawn': jnp.sum(jnp.where(batch['mask'], drawn, 0.0))}

    def rows(self, v: Any, batch: dict[str, Array], ready: Any) -> dict[str, Array]:
        return {'logit': self.predict(v, batch)['logits'][:, 0], 'index': batch['index']}

    def figures(self, sums: Any, rows: dict[str, Any]) -> dict[str, float]:
        confusion = sums['confusion']
        assert confusion.dtype == np.int64 and sums['drawn'].dtype == np.float64
        return {
            'accuracy': np.trace(confusion) / confusion.sum(),
            'count': int(confusion.sum()),
            'drawn': sums['drawn'],
            'in_order': float(rows['logit'].astype(np.float64) @ rows['index']),
            'last': rows['index'][-1] if len(rows['index']) else np.nan,
        }

    def pictures(self, v: Any, batch: dict[str, Array]) -> dict[str, Array]:
        return {'image': batch['image'] / 16.0, 'turned': jnp.rot90(batch['image'], axes=(1, 2))}


def get_config(preset: str | None = None) -> ConfigDict:
    """Returns what ``--config=tests/measured.py`` names."""
    del preset
    digits = {'fn': 'input_pipeline:Images', 'dataset': 'digits'}
    support = digits | {'eval_split': 'train'}
    dark = {'fn': 'tests.measured:dark'}
    evals = {
        'few': {'fn': 'runtime.plan:Eval', 'data': digits | {'eval_split': 'train[:50]'}, 'support': support},
        'dark': {'fn': 'runtime.plan:Eval', 'every': 1, 'transforms': [dark], 'support': support},
    }
    config = toys.config(evals=evals, support=support, steps=2, eval_every=2, pictures=3, eval_batch_size=64)
    config.task.fn = 'tests.measured:Nearest'
    config.optimizer.schedule.peak = 1e-6  # rounding then leaves every example in its class
    return config


def dark() -> Any:
    """Returns a batch transform that halves the pixels."""
    return lambda batch, rng: {**batch, 'image': batch['image'] // 2}
