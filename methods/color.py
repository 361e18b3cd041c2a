"""Random colours as Inception networks saw them in training: a batch transform, on the device.

The defaults of https://github.com/tensorflow/models (Apache-2.0), research/slim/preprocessing/
inception_preprocessing.py (`fast_mode`, which shifts no hue and scales no contrast): brightness, then saturation in a
quarter of the images, and saturation, then brightness in the others. Values are cut to their range at the end.

Where we differ: drawn from keys, see methods/augment.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from longview.methods.augment import Batch, example_keys

_DISTORT = 103  # folded into the keys, beside those of augment.py and ssl/views.py


@dataclasses.dataclass(frozen=True)
class ColorDistortion:
    """Shifts the brightness of an image and scales its saturation, by random amounts and in random order.

    Attributes:
        brightness: largest shift, up or down, as a share of the range.
        saturation: factor on the saturation of each pixel, lowest and highest.
        brightness_first: probability that brightness is changed before saturation.
    """

    brightness: float = 32 / 255
    saturation: tuple[float, float] = (0.5, 1.5)
    brightness_first: float = 0.25

    def __call__(self, batch: Batch, rng: Key[Array, '']) -> Batch:
        """Changes `image`, values 0..255 (B, H, W, C), which becomes float32.

        Raises:
            ValueError: the images have not three channels.
        """
        if batch['image'].shape[-1] != 3:
            raise ValueError(
                f'ColorDistortion got images of {batch["image"].shape[-1]} channels and wants red, green and blue: '
                'leave it out, or convert the images.'
            )
        keys = example_keys(batch, rng, _DISTORT)
        return batch | {'image': jax.vmap(self.distort)(batch['image'].astype(jnp.float32), keys)}

    def distort(self, image: Float[Array, 'h w 3'], key: Key[Array, '']) -> Float[Array, 'h w 3']:
        """One image."""
        shift, factor, order = jax.random.uniform(key, (3,))
        shift = 255 * self.brightness * (2 * shift - 1)
        low, high = self.saturation
        factor = low + (high - low) * factor
        first = order < self.brightness_first
        image = saturated(image + jnp.where(first, shift, 0), factor)
        return jnp.clip(image + jnp.where(first, 0, shift), 0, 255)


def saturated(image: Float[Array, '*n 3'], factor: Num[Array, '']) -> Float[Array, '*n 3']:
    """Returns an image whose saturation, of hue, saturation and value, is multiplied by `factor`, and at most 1.

    With hue and value fixed, the distances of a pixel's channels from the largest of them are proportional to its
    saturation, which is the largest of these distances over the largest channel.
    """
    value = image.max(axis=-1, keepdims=True)
    below = value - image
    largest = below.max(axis=-1, keepdims=True)
    until_full = value / jnp.where(largest > 0, largest, 1)
    return value - below * jnp.clip(until_full, 0, factor)
