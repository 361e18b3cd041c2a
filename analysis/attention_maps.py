"""What each attention layer of a network looks at.

Any layer whose softmax goes through `layers.attention.attention.shown`: attention between all tokens, to a reduced map,
causal or masked, and in windows. Rollout: Abnar and Zuidema, 2020, "Quantifying attention flow in transformers",
https://arxiv.org/abs/2005.00928.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from longview.analysis.unrolled import unrolled
from longview.modelzoo.features import Grid
from longview.modelzoo.layers.attention import attention, window


def attention_maps(
    module: nn.Module, variables: Mapping[str, Any], *columns: Shaped[Array, 'b ...']
) -> dict[str, Float[np.ndarray, 'b h n m']]:
    """Returns the softmax weights of each attention layer, by the layer's path, in the order of computation.

    Entry (b, h, n, m) is how much of token m's value goes into token n, in head h for example b; each row sums to 1,
    or to less where a window looks at padding.
    Tokens are in the layer's own order: row by row, after the learned ones. Attention in windows is put into its place,
    with zeros between pixels of different windows, so that a map of N pixels has N x N weights.

    Args:
        module: the network; it runs as it would be deployed.
        variables: its arrays by collection.
        *columns: what it reads (`features.read_by`).

    Raises:
        ValueError: nothing in it is attention by softmax.
    """
    module, variables = unrolled(module), dict(variables)

    def run(variables: dict[str, Any], columns: tuple[Array, ...]) -> tuple[Array, ...]:
        seen = _Seen()
        with nn.intercept_methods(seen.watch), attention.watching(seen.note):
            module.apply(variables, *columns, train=False)
        order[:] = seen.weights
        windows.update(seen.windows)
        return tuple(seen.weights.values())

    order: list[str] = []
    windows: dict[str, np.ndarray] = {}
    found = jax.device_get(jax.jit(run)(variables, columns))
    if not order:
        raise ValueError(
            f'no layer of {type(getattr(module, "backbone", module)).__name__} is attention by softmax: choose another '
            'network.'
        )
    return {path: placed(w, windows[path]) if path in windows else w for path, w in zip(order, found, strict=True)}


def rollout(maps: Sequence[Float[np.ndarray, 'b _ _ _']]) -> Float[np.ndarray, 'b n n']:
    """Returns how much of each token of the input reaches each token of the output: the layers' product.

    Each layer is the mean over its heads, of which the stream passes one half by: ``(W + 1) / 2``.

    Args:
        maps: the weights of the layers, the first one first.

    Raises:
        ValueError: the layers do not all have the same tokens.
    """
    shapes = {(weights.shape[0], *weights.shape[2:]) for weights in maps}
    if len(shapes) != 1 or len({weights.shape[-2:] for weights in maps} | {maps[0].shape[-2:][::-1]}) != 1:
        sizes = ', '.join(sorted({'x'.join(map(str, shape[1:])) for shape in shapes})) or 'no layer'
        raise ValueError(
            f'rollout multiplies layers of the same tokens, and there is {sizes}: take layers of one size.'
        )
    identity = np.eye(maps[0].shape[-1])
    product = identity[None]
    for weights in maps:
        product = (weights.mean(axis=1, dtype=np.float64) + identity) / 2 @ product
    return product


def over_picture(
    weights: Float[np.ndarray, '*h n m'], size: Grid, query: int | None = None
) -> Float[np.ndarray, '*h r c']:
    """Returns what one token looks at, as maps of rows and columns of a picture; learned tokens are left out.

    Args:
        weights: of a layer, for one example.
        size: height and width of the picture, whose shape the map has.
        query: the token that looks; by default the first one if it is learned, as a class token is, and else the one
            in the middle of the picture.

    Raises:
        ValueError: the tokens are no map of that shape, or there is no such query.
    """
    tokens = weights.shape[-2]
    learned, grid = _grid(tokens, size)
    if query is None:
        query = 0 if learned else grid[0] // 2 * grid[1] + grid[1] // 2
    if not 0 <= query < tokens:
        raise ValueError(f'there is no token {query} among {tokens}: choose one from 0 to {tokens - 1}.')
    hidden, looked_at = _grid(weights.shape[-1], size)
    return weights[..., query, hidden:].reshape(*weights.shape[:-2], *looked_at)


def placed(weights: Float[np.ndarray, 'v h n n'], pixels: Int[np.ndarray, 'p n']) -> Float[np.ndarray, 'b h m m']:
    """Returns attention in windows as weights between all pixels of a map.

    Args:
        weights: of all windows of all examples.
        pixels: the number of each window's pixels in the map, row by row; -1 where it is padding.
    """
    count, heads = pixels.max() + 1, weights.shape[1]
    weights = weights.reshape(-1, len(pixels), *weights.shape[1:])
    found = np.zeros((len(weights), heads, count, count), weights.dtype)
    for number, inside in enumerate(pixels):
        real = np.flatnonzero(inside >= 0)
        places = np.ix_(range(len(weights)), range(heads), inside[real], inside[real])
        found[places] = weights[:, number][..., real[:, None], real[None]]
    return found


class _Seen:
    """Keeps the weights of attention layers by path while a network is traced, and how its windows lie."""

    def __init__(self) -> None:
        self.weights: dict[str, Array] = {}
        self.windows: dict[str, np.ndarray] = {}
        self._open: list[tuple[nn.Module, tuple]] = []  # the modules that are being called, the innermost last

    def watch(self, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """Calls a method of a module; an interceptor of flax."""
        self._open.append((context.module, args))
        output = call(*args, **kwargs)
        self._open.pop()
        return output

    def note(self, weights: Array) -> None:
        """Keeps weights, the last ones that a layer shows."""
        layer = self._open[-1][0]
        path = '/'.join(layer.path)
        self.weights[path] = weights
        if hasattr(layer, 'shifted'):  # the fields of attention in windows
            x, *_ = next(args for module, args in self._open if module.path == layer.path)
            self.windows[path] = _pixels(x.shape[1:3], layer.side, layer.shifted)


def _pixels(size: Grid, side: int, shifted: bool) -> Int[np.ndarray, 'p n']:
    """Returns the number of each pixel of each window, -1 for padding, as a layer partitions a map of `size`."""
    cut, shift = window.fit(size, side)
    numbers = np.arange(size[0] * size[1]).reshape(size)
    numbers = np.roll(numbers, (-shift[0], -shift[1]), (0, 1)) if shifted else numbers
    numbers = np.pad(numbers, [(0, -n % w) for n, w in zip(size, cut)], constant_values=-1)
    inside = numbers.reshape(len(numbers) // cut[0], cut[0], -1, cut[1])
    return inside.swapaxes(1, 2).reshape(-1, cut[0] * cut[1])


def _grid(tokens: int, size: Grid) -> tuple[int, Grid]:
    """Returns how many tokens before a map are learned, as few as can be, and the rows and columns of the map."""
    for learned in range(tokens):
        rows = round(((tokens - learned) * size[0] / size[1]) ** 0.5)
        if rows and (tokens - learned) % rows == 0 and rows * size[1] == (tokens - learned) // rows * size[0]:
            return learned, (rows, (tokens - learned) // rows)
    raise ValueError(f'{tokens} tokens are no map of a picture of {size[0]}x{size[1]}: draw weights of another layer.')
