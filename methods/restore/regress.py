"""Restoration by regression: a network sees a degraded image and is compared with the one it was made of.

The loss adds up terms that are named with their weights, each a mean over an image:

| term | of the difference d to the truth |
|---|---|
| ``absolute`` | ``|d|`` |
| ``squared`` | ``d^2`` |
| ``charbonnier`` | ``sqrt(d^2 + 1e-3^2)``; Charbonnier et al., 1994 |
| ``spectral`` | ``|Re F(d)| + |Im F(d)|`` of its two-dimensional Fourier transform; Cho et al., 2021 |

A network that gives several images back, at several stages and sizes, is compared with the truth at each of them, the
truth shrunk by the bilinear rule. MAXIM (Tu et al., 2022, https://arxiv.org/abs/2201.02973) is trained so, with
``charbonnier`` 1 and ``spectral`` 0.1; its published code has no training. The spectral term is a mean, as in MIMO-UNet
(https://arxiv.org/abs/2108.05054; https://github.com/chosj95/MIMO-UNet, no licence: facts only).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.dense import drawing
from longview.methods.figures import image as figures
from longview.methods.task import Batch, Given, Metrics, Network, Sums, Task, Transform, Variables, means
from longview.modelzoo import features as ft

# The column of a batch that has the image as it was; the name of the network that a run leaves.
TARGET = 'target'
RESTORER = 'restorer'

_EPSILON = 1e-3  # Charbonnier's


def _spectral(d: Float[Array, 'b h w c']) -> Float[Array, 'b h w2 c']:
    spectrum = jnp.fft.fft2(d, axes=(1, 2))
    return jnp.abs(spectrum.real) + jnp.abs(spectrum.imag)


TERMS: dict[str, Callable[[Array], Array]] = {
    'absolute': jnp.abs,
    'squared': jnp.square,
    'charbonnier': lambda d: jnp.sqrt(jnp.square(d) + _EPSILON**2),
    'spectral': _spectral,
}


@dataclasses.dataclass(frozen=True)
class Regress(Task):
    """Trains ``network(degraded image)`` to be the image. Images are floats from 0 to 1.

    Figures are ``loss``, ``psnr`` and ``psnr_degraded`` in dB, the latter of the images that the network sees.

    Attributes:
        network: a `Restorer`.
        terms: weight by name, see above.
        degrade: a batch transform that degrades ``image``, such as `generate.disturbed.AddNoise`; the image as it was
            is the target then. In training it draws anew in each step. None where batches have a column ``target``.
    """

    network: nn.Module
    terms: Mapping[str, float]
    degrade: Transform | None = None

    def __post_init__(self) -> None:
        ft.require(self.network, ft.Restorer, 'Regress')
        unknown = sorted(set(self.terms) - set(TERMS))
        if unknown or not self.terms:
            raise ValueError(f'Regress.terms has {unknown or "nothing"}: give weights of {", ".join(TERMS)}.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        weights = {} if given is None else given.networks.get(RESTORER, {})
        image = batch[ft.IMAGE].astype(jnp.float32)
        return Variables(*forward.init(self.network, rng, image, weights=weights), {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        image, target = self._pair(batch, rng)
        images, state = forward.learn(self.network, v.params, v.state, image, rng=rng, row=batch['row'])
        loss = self._error(images, target).mean()
        return loss, (state, {'loss': loss})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``pixels``, what the network makes of ``image`` as it is in the batch."""
        image = batch[ft.IMAGE].astype(jnp.float32)
        return {ft.PIXELS: forward.answer(self.network, v.params, v.state, image)[-1]}

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        del ready
        image, target = self._pair(batch, rng)
        images = forward.answer(self.network, v.params, v.state, image)
        scores = {'loss': self._error(images, target), 'psnr': figures.psnr(images[-1], target)}
        if image.shape == target.shape:
            scores['psnr_degraded'] = figures.psnr(image, target)
        weight = batch['mask'].astype(jnp.float32)
        return {**means(scores, batch['mask'], weight), 'weight': jnp.sum(weight)}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns ``degraded``, ``restored`` and ``target``."""
        image, target = self._pair(batch, jax.random.key(0))
        restored = forward.answer(self.network, v.params, v.state, image)[-1]
        shown = {'degraded': image, 'restored': restored, 'target': target}
        return {name: drawing.enlarged(jnp.clip(x, 0, 1)) for name, x in shown.items()}

    def deployed(self, v: Variables) -> dict[str, Network]:
        return {RESTORER: Network(self.network, {'params': v.params, **v.state})}

    def _pair(self, batch: Batch, rng: Key[Array, '']) -> tuple[Array, Array]:
        """Returns the degraded images and those that they were made of."""
        if self.degrade is not None:
            degraded = self.degrade(batch, rng)
            return degraded[ft.IMAGE].astype(jnp.float32), batch[ft.IMAGE].astype(jnp.float32)
        if TARGET not in batch:
            raise ValueError(
                f'Regress.degrade is None and the batch has no {TARGET!r}, only {", ".join(sorted(batch))}: give a '
                'transform that degrades images, or a data set with pairs.'
            )
        return batch[ft.IMAGE].astype(jnp.float32), batch[TARGET].astype(jnp.float32)

    def _error(self, images: tuple[Array, ...], target: Float[Array, 'b h w c']) -> Float[Array, ' b']:
        """Returns the loss of each example: the sum over terms and images."""
        total = jnp.zeros(len(target))
        for image in images:
            d = image.astype(jnp.float32) - shrunk(target, image.shape[1:3])
            for name, weight in self.terms.items():
                total += weight * TERMS[name](d).reshape(len(d), -1).mean(axis=1)
        return total


def shrunk(x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b h2 w2 c']:
    """Returns images in a smaller size, by the bilinear rule, which averages; unchanged in their own."""
    return x if x.shape[1:3] == size else jax.image.resize(x, (len(x), *size, x.shape[3]), 'bilinear')
