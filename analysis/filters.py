"""Kernels of convolutions as small pictures.

Krizhevsky et al., 2012, "ImageNet classification with deep convolutional neural networks", figure 3: what the first
layer of a trained network looks for, edges and colours. Depthwise kernels, one a channel, show how far a layer looks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Float

from longview.analysis.unrolled import parts
from longview.modelzoo.features import Backbone
from longview.trees import by_path

# The channels of a tile: grey, or red, green and blue.
_CHANNELS = (1, 3)


def first_filters(module: nn.Module, params: Mapping[str, Any]) -> tuple[str, Float[np.ndarray, 'd i j c']]:
    """Returns the path and the filters of the convolution, or patch embedding, that meets the pixels.

    It is the first kernel (i, j, C, D) for images of one or three channels, of the embedding if that has one.

    Args:
        module: the network.
        params: its parameters.

    Raises:
        ValueError: there is none.
    """
    found = {path: kernel for path, kernel in _kernels(params).items() if kernel.shape[2] in _CHANNELS}
    found = {path: kernel for path, kernel in found.items() if not _is_depthwise(kernel)} or found
    stem = [path for path in found if any(f'/{path}'.find(f'/{prefix}/') >= 0 for prefix in _embedding(module))]
    path = next(iter(stem or found), None)
    if path is None:
        raise ValueError(
            f'{type(getattr(module, "backbone", module)).__name__} has no convolution or patch embedding of one or '
            'three channels: there are no filters to draw.'
        )
    return path, np.moveaxis(found[path], 3, 0)


def depthwise_filters(params: Mapping[str, Any]) -> dict[str, Float[np.ndarray, 'd i j 1']]:
    """Returns the kernels of all depthwise convolutions (i, j, 1, D) that are wider than a pixel, by path."""
    return {path: np.moveaxis(kernel, 3, 0) for path, kernel in _kernels(params).items() if _is_depthwise(kernel)}


def tiles(filters: Float[np.ndarray, 'd i j c']) -> Float[np.ndarray, 'd i j c']:
    """Returns filters as pictures from 0 to 1: the largest weight of each is black or white, and 0 is grey."""
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * filters / np.where(largest > 0, largest, 1)


def _kernels(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf, np.float32) for path, leaf in by_path(params).items() if np.ndim(leaf) == 4}


def _is_depthwise(kernel: np.ndarray) -> bool:
    return kernel.shape[2] == 1 and kernel.shape[3] > 1 and max(kernel.shape[:2]) > 1


def _embedding(module: nn.Module) -> tuple[str, ...]:
    return next((part.layers[0] for part in parts(module) if isinstance(part, Backbone)), ())
