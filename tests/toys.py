"""Small stand-ins for a network, for tests of what surrounds one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array


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


class Head(nn.Module):
    """A linear classifier on the pooled features."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, features: dict[str, Array]) -> Array:
        return nn.Dense(self.num_classes, name='classifier')(features['pooled'])
