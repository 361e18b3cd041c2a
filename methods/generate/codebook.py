"""Vector quantisation: each vector is replaced by the nearest of a set of codes, and gradients pass straight through.

Van den Oord et al., 2017, "Neural Discrete Representation Learning" (VQ-VAE), https://arxiv.org/abs/1711.00937; the
codes are moving averages of the vectors that chose them (appendix A.1) and have no gradient. Reference for averages:
deepmind/sonnet (Apache-2.0). `nearest`, `straight_through` and `commitment` are all there is in a quantizer whose codes
are learned by gradients, too: thuanz123/enhancing-transformers (MIT), the published form of ViT-VQGAN's.

Where we differ: averages begin as if each code had been chosen once by itself, so a code that nobody chooses stays
where it is; the reference smooths the counts in their place. A step's averages move once, by all its microbatches
together.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.dense import drawing
from longview.methods.task import Batch, Given, Metrics, Network, Sums, Task, Variables, means
from longview.modelzoo import features as ft

# The collection of a codebook's arrays.
CODEBOOK = 'codebook'
# A count below this is no average of anything.
_LEAST = 1e-6


class Codebook(nn.Module):
    """Vectors -> the nearest codes.

    Its arrays are no parameters: ``codes`` (K, D), the averages ``count`` (K,) and ``sum`` (K, D) whose quotient they
    are, and ``new_count`` and ``new_sum``, in which a step's microbatches are added up until `moved` takes them.

    Attributes:
        codes: K, their number.
    """

    codes: int

    @nn.compact
    def __call__(
        self, z: Float[Array, '*n d'], *, train: bool = False
    ) -> tuple[Float[Array, '*n d'], Int[Array, '*n']]:
        """Returns the nearest codes and their numbers; in training also adds up which vectors chose which code."""
        shape = (self.codes, z.shape[-1])
        variable = lambda name, init: self.variable(CODEBOOK, name, init)
        codes = variable('codes', lambda: jax.random.normal(self.make_rng('params'), shape))
        variable('count', lambda: jnp.ones(shape[0]))
        variable('sum', lambda: codes.value)
        new_count = variable('new_count', lambda: jnp.zeros(shape[0]))
        new_sum = variable('new_sum', lambda: jnp.zeros(shape))
        index = nearest(z, codes.value)
        if train:
            chosen = jax.nn.one_hot(index.reshape(-1), self.codes)
            vectors = jax.lax.stop_gradient(z).reshape(-1, shape[1])
            new_count.value = new_count.value + chosen.sum(axis=0)
            new_sum.value = new_sum.value + jnp.matmul(chosen.T, vectors, precision=jax.lax.Precision.HIGHEST)
        return codes.value[index], index


def moved(averages: dict[str, Array], decay: float) -> dict[str, Array]:
    """Returns a codebook's arrays after a step: ``code = sum / count``, both moving averages.

    Args:
        averages: the collection of a `Codebook`.
        decay: weight of the old averages.
    """
    count = decay * averages['count'] + (1 - decay) * averages['new_count']
    total = decay * averages['sum'] + (1 - decay) * averages['new_sum']
    known = (count > _LEAST)[:, None]
    codes = jnp.where(known, total / jnp.where(known, count[:, None], 1.0), averages['codes'])
    zeros = {name: jnp.zeros_like(averages[name]) for name in ('new_count', 'new_sum')}
    return {'codes': codes, 'count': count, 'sum': total, **zeros}


def nearest(z: Float[Array, '*n d'], codes: Float[Array, 'k d']) -> Int[Array, '*n']:
    """Returns the number of the code at the smallest distance; of equal ones the first."""
    products = jnp.einsum('...d,kd->...k', z, codes, precision=jax.lax.Precision.HIGHEST)
    # The vector's own square is the same for all codes.
    squares = jnp.sum(codes**2, axis=1).reshape((1,) * (z.ndim - 1) + (-1,))
    return jnp.argmin(squares - 2 * products, axis=-1)


def straight_through(z: Float[Array, '*n d'], chosen: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """Returns `chosen`; its gradient goes to `z` unchanged."""
    return z + jax.lax.stop_gradient(chosen - z)


def commitment(z: Float[Array, '*n d'], chosen: Float[Array, '*n d']) -> Float[Array, '*n']:
    """Returns the mean squared difference of each vector to its code; the code has no gradient."""
    return jnp.mean(jnp.square(z - jax.lax.stop_gradient(chosen)), axis=-1)


class Coded(NamedTuple):
    """What an `Autoencoder` answers.

    Attributes:
        pixels: the image that is given back.
        vectors: of the encoder (B, ..., D).
        codes: nearest to them.
        index: numbers of these codes (B, ...).
    """

    pixels: Float[Array, 'b h w c']
    vectors: Float[Array, 'b ... d']
    codes: Float[Array, 'b ... d']
    index: Int[Array, 'b ...']


class Autoencoder(nn.Module):
    """Image -> vectors -> codes -> image."""

    encoder: nn.Module
    codebook: Codebook
    decoder: nn.Module

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Coded:
        """Returns the image as it is made of codes, and these."""
        vectors = self.encoder(x, train=train)
        codes, index = self.codebook(vectors, train=train)
        return Coded(self.decoder(straight_through(vectors, codes), train=train), vectors, codes, index)


@dataclasses.dataclass(frozen=True)
class VectorQuantized(Task):
    """Trains ``decoder(codes nearest to encoder(image))`` to give the image back.

    The loss is the mean squared error of the pixels and the commitment of the encoder to its codes. Figures are these,
    and of the codes over the split ``used``, how many are chosen, and ``perplexity``, the exponential of the entropy of
    how often each is.

    Attributes:
        encoder: image -> vectors (B, ..., D).
        decoder: such vectors -> image.
        codes: number of codes.
        weight_of_commitment: beta of the paper.
        decay: of the averages that the codes are; they reach back over about ``1 / (1 - decay)`` steps.
    """

    encoder: nn.Module
    decoder: nn.Module
    codes: int = 512
    weight_of_commitment: float = 0.25
    decay: float = 0.99

    @property
    def model(self) -> Autoencoder:
        """All three networks in one."""
        return Autoencoder(self.encoder, Codebook(self.codes), self.decoder)

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        read = {} if given is None else given.networks
        kinds = {kind for tree in read.values() for kind in tree}
        weights = {kind: {name: tree[kind] for name, tree in read.items() if kind in tree} for kind in kinds}
        return Variables(*forward.init(self.model, rng, _image(batch), weights=weights), {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        coded, state = forward.learn(self.model, v.params, v.state, _image(batch), rng=rng, row=batch['row'])
        losses = {name: each.mean() for name, each in self._losses(coded, batch).items()}
        return losses['loss'], (state, losses)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        del grads, step
        averages = moved(v.state[CODEBOOK]['codebook'], self.decay)
        return v._replace(state={**v.state, CODEBOOK: {'codebook': averages}})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``pixels`` and the numbers of the codes, ``index``."""
        coded = forward.answer(self.model, v.params, v.state, _image(batch))
        return {ft.PIXELS: coded.pixels, 'index': coded.index}

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        coded = forward.answer(self.model, v.params, v.state, _image(batch))
        mask = batch['mask']
        weight = mask.astype(jnp.float32)
        chosen = jax.nn.one_hot(coded.index.reshape(len(mask), -1), self.codes, dtype=jnp.int32).sum(axis=1)
        return {
            'losses': {**means(self._losses(coded, batch), mask, weight), 'weight': jnp.sum(weight)},
            'chosen': jnp.sum(jnp.where(mask[:, None], chosen, 0), axis=0),
        }

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        share = sums['chosen'] / max(1, sums['chosen'].sum())
        entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)))
        own = {'used': float((share > 0).sum()), 'perplexity': float(np.exp(entropy))}
        return {**super().figures(sums['losses'], rows), **own}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``image``, and ``pixels`` as they are given back."""
        shown = {'image': _image(batch), 'pixels': self.predict(v, batch)[ft.PIXELS]}
        return {name: drawing.enlarged(drawing.gray(image)) for name, image in shown.items()}

    def deployed(self, v: Variables) -> dict[str, Network]:
        """Returns ``encoder``, ``codebook`` and ``decoder``."""
        kinds = {'params': v.params, **v.state}
        of = lambda name: {kind: tree[name] for kind, tree in kinds.items() if name in tree}
        return {name: Network(getattr(self.model, name), of(name)) for name in ('encoder', 'codebook', 'decoder')}

    def _losses(self, coded: Coded, batch: Batch) -> dict[str, Float[Array, ' b']]:
        by_example = lambda x: x.reshape(len(x), -1).mean(axis=1)
        error = by_example(jnp.square(coded.pixels - _image(batch)))
        committed = by_example(commitment(coded.vectors, coded.codes))
        return {'loss': error + self.weight_of_commitment * committed, 'error': error, 'commitment': committed}


def _image(batch: Batch) -> Float[Array, 'b h w c']:
    return batch[ft.IMAGE].astype(jnp.float32)
