"""The effective receptive field: which pixels the middle of a feature map depends on, and how much.

Luo et al., 2016, "Understanding the effective receptive field in deep convolutional neural networks",
https://arxiv.org/abs/1701.04128: the gradient of one output with respect to the pixels. Its picture and its one number
as Ding et al., 2022, "Scaling up your kernels to 31x31" (RepLKNet), https://arxiv.org/abs/2203.06717, section 4.1: the
contribution scores of all channels at the middle, added over images, and the share of the image's area that the least
square around the middle covers which holds 20, 30, 50 or 99 % of them.

Where we differ: channels are added with random signs, and scores are absolute gradients. The plain sum of the channels
of a normalized map is a constant, whose gradient is 0. `positive` computes what RepLKNet published: the gradients of
the sum of the positive channels, of which the positive ones count.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from longview.analysis.unrolled import reads, unrolled
from longview.modelzoo import features as ft

# Of the scores, the shares of which RepLKNet's table 10 gives the area.
SHARES = (0.2, 0.3, 0.5, 0.99)


class Field(NamedTuple):
    """The effective receptive field of the middle of a feature map.

    Attributes:
        feature: the feature.
        scores: of each pixel of the image, (H, W), added over channels and images; they are 0 or more.
        centre: the pixel (row, column) that the middle of the feature map lies over.
    """

    feature: str
    scores: Float[np.ndarray, 'h w']
    centre: tuple[int, int]


def receptive_field(
    module: nn.Module,
    variables: Mapping[str, Any],
    *columns: Shaped[Array, 'b ...'],
    feature: str | None = None,
    positive: bool = False,
    seed: int = 0,
) -> Field:
    """Returns the effective receptive field of a network, as it would be deployed.

    Args:
        module: reads images; its features are maps, or one token a pixel.
        variables: its arrays by collection.
        *columns: what it reads: images (B, H, W, C), over which scores are added. Their values matter, for a network is
            not linear.
        feature: the name of the map; by default ``map``, else the last stage of a pyramid, else ``tokens``.
        positive: whether to count positive channels and gradients alone, as published.
        seed: of the signs.

    Raises:
        TypeError: the network does not read images alone.
        ValueError: what it is shown are no images, there is no such feature, or that is no map.
    """
    if reads(module) != (ft.IMAGE,):
        raise TypeError(
            f'{type(getattr(module, "backbone", module)).__name__} reads {" and ".join(reads(module))}, and a '
            'receptive field is of pixels: choose a network that reads images.'
        )
    (image,) = columns
    if image.ndim != 4:
        raise ValueError(f'the network is shown an array of shape {image.shape}, and images (B, H, W, C) are wanted.')
    module, variables = unrolled(module), dict(variables)
    shapes = jax.eval_shape(lambda variables, x: module.apply(variables, x, train=False), variables, image)
    feature = _chosen(shapes, feature)
    rows, columns = _grid(feature, shapes[feature].shape, image.shape[1:3])

    def middle(x: Array, variables: dict[str, Any]) -> Array:
        features = module.apply(variables, x, train=False)[feature]
        at = features.reshape(x.shape[0], rows, columns, -1)[:, rows // 2, columns // 2].astype(jnp.float32)
        if positive:
            return jnp.sum(jax.nn.relu(at))
        return jnp.vdot(at, jax.random.rademacher(jax.random.key(seed), at.shape, at.dtype))

    def scores(x: Array, variables: dict[str, Any]) -> Array:
        gradient = jax.grad(middle)(x, variables).astype(jnp.float32)
        return jnp.sum(jax.nn.relu(gradient) if positive else jnp.abs(gradient), axis=(0, 3))

    over = lambda place, of, pixels: min(int((place + 0.5) * pixels / of), pixels - 1)
    centre = over(rows // 2, rows, image.shape[1]), over(columns // 2, columns, image.shape[2])
    return Field(feature, jax.device_get(jax.jit(scores)(image, variables)), centre)


def area(field: Field, share: float) -> float:
    """Returns the share of the image's pixels in the least square around the centre with a share of all scores.

    RepLKNet's high-contribution area ratio; the larger, the more evenly pixels contribute. Squares have an odd side,
    and end where the image does.

    Raises:
        ValueError: the share is not above 0 and at most 1, or no pixel contributes.
    """
    if not 0 < share <= 1:
        raise ValueError(f'the share of the scores is {share}: it must be above 0 and at most 1.')
    scores, (row, column) = field.scores.astype(np.float64), field.centre
    total = scores.sum()
    if not total > 0:
        raise ValueError(f'no pixel contributes to the middle of {field.feature}: the network begins as a constant.')
    for reach in range(max(scores.shape)):
        square = scores[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        # Sums of the same numbers in another order are not quite the same.
        if square.sum() >= share * total * (1 - 1e-9):
            break
    return square.size / scores.size


def _chosen(shapes: Any, feature: str | None) -> str:
    if not isinstance(shapes, Mapping):
        raise ValueError('the network gives no features by name: give a backbone, or a classifier with one.')
    stages = [name for name in map(ft.stage, range(len(shapes))) if name in shapes]
    if feature is None:
        feature = next((name for name in (ft.MAP, *reversed(stages), ft.TOKENS) if name in shapes), ft.MAP)
    if feature not in shapes:
        raise ValueError(f'the network gives no {feature!r}, but {", ".join(shapes)}: choose one of these.')
    return feature


def _grid(feature: str, shape: tuple[int, ...], image: tuple[int, int]) -> tuple[int, int]:
    if len(shape) == 4:
        return shape[1], shape[2]
    if len(shape) == 3 and shape[1] == image[0] * image[1]:  # a sequence of pixels, row by row
        return image
    raise ValueError(f'{feature} has the shape {shape} and is no map, so it has no middle: choose another feature.')
