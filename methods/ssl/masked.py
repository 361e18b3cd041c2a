"""MAE: most patches are hidden; an encoder sees the others, and a small decoder reconstructs the image.

He et al., 2021, "Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377. Reference:
https://github.com/facebookresearch/mae (CC BY-NC 4.0, read for facts only): mean squared error of the hidden patches,
each normalized by its own mean and variance (the unbiased one); pixels of a patch in the order row, column, channel.

The decoder's first token is the encoder's ``pooled`` vector, the class token where the backbone pools by one. Where we
differ: fixed positions are posemb.sincos2d, whose frequencies are spaced a little otherwise.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import Objective
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier, network_of
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add

_EPSILON = 1e-6


class Autoencoder(nn.Module):
    """Patches in, all patches out.

    Attributes:
        backbone: a TokenBackbone; what `encode` sees is a subset of its tokens.
        width, depth, heads: of the decoder.
        ratio: share of the patches that are hidden, rounded up.
        fixed_positions: (grid, width) -> the decoder's positions; None for a learned table, first token included.
    """

    backbone: nn.Module
    width: int = 512
    depth: int = 8
    heads: int = 16
    ratio: float = 0.75
    fixed_positions: Callable[[ft.Grid, int], Array] | None = posemb.sincos2d

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], noise: Float[Array, 'b n'], *, train: bool = False
    ) -> tuple[Float[Array, 'b n p'], Float[Array, 'b n'], ft.Features]:
        """Returns the painted patches, 1 where a patch was hidden, and the backbone's features of what was seen.

        Args:
            x: images.
            noise: the patches with the smallest noise are seen, and in its order.
            train: handed on.
        """
        grid = self.backbone.grid(*x.shape[1:3])
        count = grid[0] * grid[1]
        tokens = self.backbone.embed(x) + self.backbone.positions(grid)
        order = jnp.argsort(noise, axis=1)
        place = jnp.argsort(order, axis=1)
        seen = int(count * (1 - self.ratio))
        kept = jnp.take_along_axis(tokens, order[:, :seen, None], axis=1)
        features = self.backbone.encode(kept, None, train=train)
        painted = self._decode(features, place, grid, pixels=x[0].size // count)
        return painted, (place >= seen).astype(jnp.float32), features

    def _decode(
        self, features: ft.Features, place: Int[Array, 'b n'], grid: ft.Grid, pixels: int
    ) -> Float[Array, 'b n p']:
        glorot = jax.nn.initializers.glorot_uniform()
        tokens = jnp.concatenate(
            [features[ft.POOLED][:, None].astype(features[ft.TOKENS].dtype), features[ft.TOKENS]], axis=1
        )
        s = Dense(self.width, kernel_init=glorot, name='embed')(tokens)
        hidden = self.param('mask_token', jax.nn.initializers.normal(0.02), (1, 1, self.width))
        missing = place.shape[1] - (s.shape[1] - 1)
        hidden = jnp.broadcast_to(hidden, (len(s), missing, self.width))
        patches = jnp.take_along_axis(jnp.concatenate([s[:, 1:], hidden], axis=1), place[:, :, None], axis=1)
        s = jnp.concatenate([s[:, :1], patches], axis=1) + self._positions(grid)
        norm = functools.partial(LayerNorm, epsilon=_EPSILON)
        parts = {
            'norm': norm,
            'mixer': functools.partial(Attention, self.heads, kernel_init=glorot),
            'mlp': functools.partial(Mlp, kernel_init=glorot),
            'residual': Add,
        }
        for name in trunk.names(self.depth):
            s = PreNorm(**parts, name=name)(s, None)
        return Dense(pixels, kernel_init=glorot, name='paint')(norm(name='norm')(s))[:, 1:]

    def _positions(self, grid: ft.Grid) -> Float[Array, '1 m d']:
        if self.fixed_positions is None:
            return self.param('pos_embed', init.trunc_normal(0.02), (1, 1 + grid[0] * grid[1], self.width))
        return jnp.pad(jnp.asarray(self.fixed_positions(grid, self.width)), ((0, 0), (1, 0), (0, 0)))


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder(Objective):
    """Trains an `Autoencoder`; `predict` answers for the whole image, by its backbone.

    Attributes:
        network: backbone and decoder. Of a whole network in the place of its backbone, the backbone is taken, with its
            weights.
        normalize_patches: whether the error is that of patches with mean 0 and variance 1.
    """

    network: Autoencoder
    normalize_patches: bool = True

    def __post_init__(self) -> None:
        ft.require(self.source.backbone, ft.TokenBackbone, 'MaskedAutoencoder')
        if not 0 < self.network.ratio < 1:
            raise ValueError(
                f'MaskedAutoencoder hides {self.network.ratio} of the patches: the ratio is a share, '
                'above 0 and below 1.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        noise = self._noise(rng, batch, batch['index'])
        weights = self._weights(batch, given)
        params, state = forward.init(self.model, rng, *self._images(batch), noise, weights=weights)
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        noise = self._noise(rng, batch, batch['row'])
        (image,) = self._images(batch)
        (painted, hidden, features), state = forward.learn(
            self.model, v.params, v.state, image, noise, rng=rng, row=batch['row']
        )
        loss, metrics = forward.penalized(self._errors(painted, hidden, image).mean(), features)
        return loss, (state, metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        state = {kind: tree.get('backbone', {}) for kind, tree in v.state.items()}
        return forward.answer(self.source.backbone, v.params['backbone'], state, *self._images(batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns the error; each example always hides the same patches."""
        noise = self._noise(jax.random.key(0), batch, batch['index'])
        (image,) = self._images(batch)
        painted, hidden, _ = forward.answer(self.model, v.params, v.state, image, noise)
        return {'loss': self._errors(painted, hidden, image)}

    @property
    def source(self) -> Classifier:
        return network_of(self.network.backbone, None)

    @property
    def model(self) -> Autoencoder:
        return self.network.clone(backbone=self.source.backbone)

    def _images(self, batch: Batch) -> tuple[Array, ...]:
        return forward.inputs(self.source, batch)

    def _noise(self, rng: Key[Array, ''], batch: Batch, number: Int[Array, ' b']) -> Float[Array, 'b n']:
        (image,) = self._images(batch)
        rows, columns = self.source.backbone.grid(*image.shape[1:3])
        rng = jax.random.fold_in(rng, 1)
        return jax.vmap(lambda n: jax.random.uniform(jax.random.fold_in(rng, n), (rows * columns,)))(number)

    def _errors(
        self, painted: Float[Array, 'b n p'], hidden: Float[Array, 'b n'], image: Float[Array, 'b h w c']
    ) -> Float[Array, ' b']:
        target = patches_of(image.astype(jnp.float32), self.source.backbone.grid(*image.shape[1:3]))
        if self.normalize_patches:
            target = normalized(target)
        errors = jnp.mean(jnp.square(painted.astype(jnp.float32) - target), axis=-1)
        return jnp.sum(errors * hidden, axis=1) / jnp.sum(hidden, axis=1)


def patches_of(image: Float[Array, 'b h w c'], grid: ft.Grid) -> Float[Array, 'b n p']:
    """Returns the patches in rows; the pixels of one in the order row, column, channel."""
    batch, height, width, channels = image.shape
    rows, columns = grid
    x = image.reshape(batch, rows, height // rows, columns, width // columns, channels).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, -1)


def normalized(patches: Float[Array, 'b n p']) -> Float[Array, 'b n p']:
    """Returns patches with mean 0 and variance 1."""
    mean = patches.mean(axis=-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + _EPSILON)
