"""Functions of ours called as goldens' functions are, where arguments and outputs of the two have another form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.conv2d import conv2d
from longview.methods.average import add_vectors, greedy_soup, uniform_soup
from longview.methods.evaluate.knn import vote
from longview.methods.ssl.simclr import nt_xent
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.norms.norm import l2_normalize

Outputs = dict[str, Any]


def mean_nt_xent(z1: jax.Array, z2: jax.Array, temperature: float) -> jax.Array:
    """SimCLR's loss: ours is one for each pair."""
    return nt_xent(z1, z2, temperature)[0].mean()


def soups(base: np.ndarray, noise: np.ndarray, x: np.ndarray, scale: float) -> Outputs:
    """Soups of linear classifiers, grown as by the published code; a score is how often one answers as `base` does."""
    models = [base + scale * one for one in noise]
    labels = np.argmax(x @ base, axis=1)
    tried = []

    def accuracy(model: np.ndarray) -> float:
        tried.append(float(np.mean(np.argmax(x @ model, axis=1) == labels)))
        return tried[-1]

    soup, chosen = greedy_soup(models, accuracy, strictly=True)
    return {
        'uniform': uniform_soup(models),
        'greedy': soup,
        'ingredients': np.asarray(chosen),
        'accuracies': np.asarray(tried[: len(models)]),
        'tried': np.asarray(tried[len(models) :]),
    }


def composition(base: jax.Array, vectors: jax.Array, coef: jax.Array, mask_index: np.ndarray) -> Outputs:
    """Task vectors with a coefficient an array, and with one for each group of entries."""
    add = lambda scales: add_vectors({'w': base}, [{'w': vector} for vector in vectors], scales)['w']
    return {
        'blockwise': add([{'w': row[0]} for row in coef]),
        'partitioned': add([{'w': row[mask_index]} for row in coef]),
    }


def neighbours(
    train: jax.Array, labels: jax.Array, queries: jax.Array, k: int, classes: int, temperature: float
) -> Outputs:
    """Votes by squared distances of unit vectors less the bank's mean: ours are by cosines, (2 - distance) / 2."""
    train, labels, queries = map(jnp.asarray, (train, labels, queries))
    mean = train.mean(0, keepdims=True)
    bank, query = (l2_normalize(x - mean, axis=1) for x in (train, queries))
    votes = vote(query, bank, labels, neighbours=k, temperature=temperature / 2, num_classes=classes)
    return {'knn': votes}


def dropped(x: jax.Array, branch: jax.Array, gates: np.ndarray, death_rate: float) -> Outputs:
    """A network of residual branches whose dropped ones are not made up for in training, but scaled down after it."""

    def run(factors: np.ndarray) -> jax.Array:
        h = jnp.asarray(x)
        for weight, factor in zip(branch, factors):
            mask = jnp.full(len(h), factor, jnp.float32)
            h = jax.nn.relu(h + drop_path(weight[None] * jnp.tanh(h), mask))
        return h

    rates = np.arange(1, len(branch) + 1) / len(branch) * death_rate
    return {'train': run(gates), 'eval': run(1 - rates)}


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> Outputs:
    """A convolution without padding, channels first."""
    y = conv2d(
        jnp.moveaxis(jnp.asarray(x), 1, -1), jnp.transpose(jnp.asarray(kernel), (2, 3, 1, 0)), stride=stride, padding=0
    )
    return {'output': jnp.moveaxis(y, -1, 1)}
