"""Views of an image, for objectives that compare several: batch transforms, on the device.

The transforms of Chen et al., 2020, "SimCLR", https://arxiv.org/abs/2002.05709, and, with views of several sizes, of
Caron et al., 2020, "SwAV", https://arxiv.org/abs/2006.09882 (multi-crop). References:
https://github.com/google-research/simclr (Apache-2.0), https://github.com/facebookresearch/swav (CC BY-NC 4.0, read for
facts only). Where we differ: no change of hue and no blur; crops are interpolated linearly, with antialiasing where
they shrink.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from longview.methods.augment import example_keys, refuse_places
from longview.methods.task import Batch, Transform, chain

# Folded into the keys, beside those of augment.py.
_CROP, _JITTER = 101, 102


@dataclasses.dataclass(frozen=True)
class Views:
    """Adds ``view0``, ``view1``, ... to a batch: its image through one chain of transforms each; the image stays.

    Attributes:
        chains: for each view, its transforms in order; they see the image as it is at this place of the config.
    """

    chains: Sequence[Sequence[Transform]]

    def __call__(self, batch: Batch, rng: Key[Array, '']) -> Batch:
        """Each chain draws by a key of its own."""
        views = {
            f'view{i}': chain(transforms)(batch, jax.random.fold_in(rng, i))['image']
            for i, transforms in enumerate(self.chains)
        }
        return batch | views


@dataclasses.dataclass(frozen=True)
class Crop:
    """Crops a random part of the image and resizes it to one size.

    Attributes:
        size: height and width of the result.
        area: share of the image, lowest and highest.
        ratio: width / height, lowest and highest, drawn evenly in its logarithm; a side that would be longer than the
            image is the image's.
    """

    size: tuple[int, int]
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, batch: Batch, rng: Key[Array, '']) -> Batch:
        """Changes `image`, which becomes float32 in its own units."""
        refuse_places(batch, 'Crop')
        image = jax.vmap(self.cut)(batch['image'].astype(jnp.float32), example_keys(batch, rng, _CROP))
        return batch | {'image': image}

    def cut(self, image: Float[Array, 'h w c'], key: Key[Array, '']) -> Float[Array, 'h2 w2 c']:
        """One image."""
        full = jnp.asarray(image.shape[:2], jnp.float32)
        area, ratio, *corner = jax.random.uniform(key, (4,))
        area = self.area[0] + (self.area[1] - self.area[0]) * area
        low, high = map(math.log, self.ratio)
        root = jnp.exp((low + (high - low) * ratio) / 2)
        side = jnp.minimum(jnp.sqrt(area * full.prod()) * jnp.stack([1 / root, root]), full)
        scale = jnp.asarray(self.size, jnp.float32) / side
        shift = -jnp.stack(corner) * (full - side) * scale
        return jax.image.scale_and_translate(image, (*self.size, image.shape[-1]), (0, 1), scale, shift, 'linear')


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Changes brightness, contrast and (of three channels) saturation by random factors; sometimes removes colour.

    Attributes:
        strength: factors are between 1 - strength and 1 + strength.
        probability: that an image is changed.
        gray: probability that three channels become their luma.
    """

    strength: float = 0.8
    probability: float = 0.8
    gray: float = 0.2

    def __call__(self, batch: Batch, rng: Key[Array, '']) -> Batch:
        """Changes `image`, values 0..255, which becomes float32."""
        image = jax.vmap(self.change)(batch['image'].astype(jnp.float32), example_keys(batch, rng, _JITTER))
        return batch | {'image': image}

    def change(self, image: Float[Array, 'h w c'], key: Key[Array, '']) -> Float[Array, 'h w c']:
        """One image."""
        draws = jax.random.uniform(key, (5,))
        bright, contrast, saturation = 1 + self.strength * (2 * draws[:3] - 1)
        new = jnp.clip(image * bright, 0, 255)
        new = _between(jnp.full_like(new, _luma(new).mean()), new, contrast)
        if image.shape[-1] == 3:
            new = _between(jnp.broadcast_to(_luma(new), new.shape), new, saturation)
        new = jnp.where(draws[3] < self.probability, new, image)
        if image.shape[-1] == 3:
            new = jnp.where(draws[4] < self.gray, jnp.broadcast_to(_luma(new), new.shape), new)
        return new


def _between(far: Array, near: Array, factor: Num[Array, '']) -> Array:
    return jnp.clip(far + factor * (near - far), 0, 255)


def _luma(image: Float[Array, 'h w c']) -> Float[Array, 'h w 1']:
    if image.shape[-1] != 3:
        return image.mean(axis=-1, keepdims=True)
    weights = jnp.asarray((0.299, 0.587, 0.114)).reshape(1, 1, 3)
    return jnp.sum(image * weights, axis=-1, keepdims=True)


def views_of(batch: Batch, count: int, who: str) -> list[Array]:
    """Returns the first `count` views of a batch.

    Raises:
        ValueError: they are not there.
    """
    missing = [f'view{i}' for i in range(count) if f'view{i}' not in batch]
    if missing:
        raise ValueError(
            f'{who} needs {missing[0]} in the batch: list methods.ssl.views:Views with {count} chains '
            'among the transforms, for training and for evaluation.'
        )
    return [batch[f'view{i}'] for i in range(count)]
