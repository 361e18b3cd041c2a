"""Batch transforms on the device: `transform(batch, rng) -> batch`, inside the jitted step.

A config lists them in the order of timm's training transforms,
https://github.com/huggingface/pytorch-image-models (Apache-2): RandomFlip and RandAugment
(methods/randaugment.py) on uint8 pixels, then Normalize, then RandomErasing and Mix on the result.

Every draw is a function of (rng, epoch, index) of the example or, where a whole batch shares it, of
the batch's first row; `rng` stays the same for the whole run. So an example is augmented alike in
any batch, at any place in it and on any mesh, and a resumed run draws what an uninterrupted one
would have drawn. A transform that is used twice on the same examples, as for the two views of a
contrastive method, needs two keys.

Where we differ from timm: randomness as above instead of global state. Of timm's modes of random
erasing there is one (one rectangle, with noise in each pixel), and of its modes of mixing one (a
lambda for the whole batch).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

Batch = dict[str, Array]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Folded into the key, so that no transform sees the draws of another.
FLIP, RAND_AUGMENT, ERASE, MIX = range(4)


def example_keys(batch: Batch, rng: PRNGKeyArray, use: int) -> Array:
    """One key per example, (B,): `rng` with `use`, then the epoch and the index and the part of a mixture folded in."""
    rng = jax.random.fold_in(rng, use)
    names = [name for name in ('epoch', 'index', 'source') if name in batch]
    fold = jax.vmap(lambda *numbers: functools.reduce(jax.random.fold_in, numbers, rng))
    return fold(*(batch[name] for name in names))


def require_pixels(image: Array, normalized: bool, who: str) -> None:
    """Raises ValueError for uint8 pixels where normalized ones are wanted, and the reverse."""
    if jnp.issubdtype(image.dtype, jnp.floating) if normalized else image.dtype == jnp.uint8:
        return
    wanted, place = ('normalized', 'after') if normalized else ('uint8', 'before')
    raise ValueError(f'{who} wants {wanted} images and got {image.dtype}: list it {place} Normalize.')


def refuse_places(batch: Batch, who: str) -> None:
    """Raises ValueError where a batch says what lies where, for a transform that moves the pixels of the image."""
    places = [name for name in ('map', 'boxes', 'points') if name in batch]
    if places:
        raise ValueError(
            f'{who} moves the pixels of image alone, and the batch has {" and ".join(places)}, which would stay: leave '
            f'{who} out; a crop of data/images.py moves all columns alike.'
        )


@dataclasses.dataclass(frozen=True)
class Normalize:
    """(image / white - mean) / std, per channel; `image` becomes `dtype`.

    Attributes:
        mean: of each channel, in units of the whole range; one number serves all channels.
        std: likewise.
        dtype: of the result; computed in float32.
        white: the top of the images' range. By default the largest value of an integer type, such as 65,535 of 16 bits,
            and 255 of floats, which crops and colour jitter on the device make of bytes; floats of a data set have
            another.
    """

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    dtype: Any = jnp.float32
    white: float | None = None

    def __post_init__(self) -> None:
        if not all(self.std):
            raise ValueError(f'Normalize.std is {tuple(self.std)}, by which images are divided: no deviation may be 0.')

    def __call__(self, batch: Batch, rng: PRNGKeyArray | None = None) -> Batch:
        """Normalizes `batch['image']` (B, H, W, C)."""
        channels = batch['image'].shape[-1]
        if not {len(self.mean), len(self.std)} <= {1, channels}:
            raise ValueError(
                f'Normalize has {len(self.mean)} means and {len(self.std)} deviations for images '
                f'of {channels} channels; give 1 or {channels} of each.'
            )
        kind = batch['image'].dtype
        white = self.white or (jnp.iinfo(kind).max if jnp.issubdtype(kind, jnp.integer) else 255)
        scale = 1 / (white * jnp.asarray(self.std, jnp.float32))
        offset = jnp.asarray(self.mean, jnp.float32) / jnp.asarray(self.std, jnp.float32)
        scale, offset = (jnp.broadcast_to(v, (1, 1, 1, channels)) for v in (scale, offset))
        image = batch['image'].astype(jnp.float32) * scale - offset
        return batch | {'image': image.astype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors an example left to right with a probability; for pipelines whose crop does not."""

    probability: float = 0.5

    def __call__(self, batch: Batch, rng: PRNGKeyArray) -> Batch:
        """Changes `batch['image']` (B, H, W, C)."""
        refuse_places(batch, 'RandomFlip')
        image = batch['image']
        keys = example_keys(batch, rng, FLIP)
        flip = jax.vmap(lambda key: jax.random.bernoulli(key, self.probability))(keys)
        return batch | {'image': jnp.where(flip[:, None, None, None], image[:, :, ::-1], image)}


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Replaces a random rectangle by normal noise, in every pixel and channel of its own.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, https://arxiv.org/abs/1708.04896;
    the sampling is timm's in mode 'pixel': ten tries at an area and a height/width ratio (uniform
    in its logarithm) that are smaller than the image, and none erased if all fail.

    Attributes:
        probability: that an example is erased.
        area: share of the image, lowest and highest.
        ratio: height / width, lowest and highest.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __call__(self, batch: Batch, rng: PRNGKeyArray) -> Batch:
        """Changes `batch['image']`, normalized (B, H, W, C)."""
        require_pixels(batch['image'], True, 'RandomErasing')
        image = jax.vmap(self.erase)(batch['image'], example_keys(batch, rng, ERASE))
        return batch | {'image': image}

    def erase(self, image: Float[Array, 'h w c'], key: PRNGKeyArray) -> Float[Array, 'h w c']:
        """One image."""
        where, noise = jax.random.split(key)
        erased = self.region(where, image.shape[0], image.shape[1])
        pixels = jax.random.normal(noise, image.shape, image.dtype)
        return jnp.where(erased[..., None], pixels, image)

    def region(self, key: PRNGKeyArray, height: int, width: int) -> Bool[Array, 'h w']:
        """The pixels to erase."""
        draws = jax.random.uniform(key, (23,))
        area = _between(draws[:10], *self.area) * (height * width)
        ratio = jnp.exp(_between(draws[10:20], *map(math.log, self.ratio)))
        tall, wide = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits)
        tall, wide = tall[first], wide[first]
        top = jnp.floor(draws[20] * (height - tall + 1))
        left = jnp.floor(draws[21] * (width - wide + 1))
        erase = fits.any() & (draws[22] < self.probability)
        return erase & _inside(height, width, (top, top + tall, left, left + wide))


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixup or CutMix of the batch with itself in reverse order, and smoothed soft labels.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
    https://arxiv.org/abs/1710.09412; Yun et al., "CutMix", ICCV 2019,
    https://arxiv.org/abs/1905.04899. timm's Mixup in mode 'batch': one lambda, one choice between
    the two and one rectangle for the whole batch; CutMix's lambda is corrected for what the image's
    border cuts off. Row i is mixed with row B-1-i of the global batch, whatever the mesh.

    Attributes:
        num_classes: length of the soft labels; the data set's number of classes, as the head's.
        mixup_alpha: lambda of mixup is Beta(alpha, alpha); 0 leaves mixup out.
        cutmix_alpha: likewise for CutMix.
        switch_probability: of CutMix rather than mixup, where both are on.
        label_smoothing: a class's own target is 1 - s + s / num_classes, every other's
            s / num_classes.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    switch_probability: float = 0.5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if max(self.mixup_alpha, self.cutmix_alpha) <= 0:
            raise ValueError(
                f'Mix has mixup_alpha={self.mixup_alpha} and cutmix_alpha={self.cutmix_alpha}; '
                'one of them must be above 0, or leave Mix out.'
            )

    def __call__(self, batch: Batch, rng: PRNGKeyArray) -> Batch:
        """Changes `image`, normalized (B, H, W, C), and adds `target` float32 (B, num_classes)."""
        image = batch['image']
        require_pixels(image, True, 'Mix')
        refuse_places(batch, 'Mix')
        first = {name: batch[name][:1] for name in ('epoch', 'index')}
        cut, lam = self.draw(example_keys(first, rng, MIX)[0], *image.shape[1:3])
        own = jnp.where(cut.any(), ~cut[..., None], lam).astype(image.dtype)[None]
        target = self.soft_labels(batch['label'])
        return batch | {
            'image': own * image + (1 - own) * image[::-1],
            'target': lam * target + (1 - lam) * target[::-1],
        }

    def draw(self, key: PRNGKeyArray, height: int, width: int) -> tuple[Bool[Array, 'h w'], Float[Array, '']]:
        """The pixels taken from the partner (none in mixup), and lambda, the share of the own."""
        unit, beta = jax.random.split(key)
        choose, y, x = jax.random.uniform(unit, (3,))
        use_cutmix = choose < self._cutmix_probability()
        alpha = jnp.where(use_cutmix, self.cutmix_alpha, self.mixup_alpha)
        lam = jax.random.beta(beta, alpha, alpha)
        # A rectangle of about 1 - lambda of the area around a uniform center, cut at the border.
        half_h, half_w = (jnp.floor(jnp.floor(jnp.sqrt(1 - lam) * n) / 2) for n in (height, width))
        y, x = jnp.floor(y * height), jnp.floor(x * width)
        box = _inside(height, width, (y - half_h, y + half_h, x - half_w, x + half_w))
        cut = use_cutmix & box
        return cut, jnp.where(use_cutmix, 1 - cut.mean(), lam)

    def soft_labels(self, label: Int[Array, b]) -> Float[Array, 'b k']:
        """Smoothed one-hot labels."""
        off = self.label_smoothing / self.num_classes
        return jax.nn.one_hot(label, self.num_classes) * (1 - self.label_smoothing) + off

    def _cutmix_probability(self) -> float:
        if min(self.mixup_alpha, self.cutmix_alpha) > 0:
            return self.switch_probability
        return float(self.cutmix_alpha > 0)


def _between(unit: Num[Array, '*s'], low: float, high: float) -> Num[Array, '*s']:
    return low + (high - low) * unit


def _inside(height: int, width: int, box: tuple[Array, Array, Array, Array]) -> Bool[Array, 'h w']:
    top, bottom, left, right = box
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return ((y >= top) & (y < bottom)) & ((x >= left) & (x < right))
