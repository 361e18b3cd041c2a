"""MSA-Conv: a convolution whose pixels attend to those under its kernel before they are summed up.

Zhang et al., 2023, "TiC: Exploring Vision Transformer in Convolution", https://arxiv.org/abs/2310.04134. Reference:
https://github.com/zs670980918/MSA-Conv (no licence file), commit 2d96f54, core/op/Transformer_in_Convolution.py.

A pixel attends to those under a kernel around it, which may be dilated, and is added; a plain convolution with the same
kernel and a rectifier follow. Nothing tells positions but the zeros outside of the map, so maps of any size will do.
`MSAConv` has the arguments of `conv.Conv` first, and stands where a backbone takes its convolutions by a field.

The paper has two mechanisms for longer links. They are in no published code, and its abstract says what they are for,
so their form is ours:

* Multi-directional cyclic shifts: the heads are five groups, four of which see keys and values rolled by the reach of
  the window, each in one of four directions, while queries stay. (To roll the map and roll the answer back, as Swin
  does with its windows, would change nothing but the rim: a window around each pixel commutes with it.)
* Inter-pooling: the window also holds as many pixels of the map averaged over 2x2, under the same softmax; so the field
  doubles.

Details of the published code that are not in the paper, kept here:
  * pixels outside of the map take part in the softmax, with a logit and a value of 0;
  * there is one head over all channels; more are a field;
  * the closing convolution is not dilated, has no bias, and pads by 1 whatever its kernel.

Where we differ: weights of attention are not dropped in training; the published layer drops a tenth of them. Its
kernels for GPUs store the weights of all windows. Here the softmax runs from place to place of the window, and its
gradient does so once more, which stores neither weights nor copies of the map.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv, Padding, keeping, sides
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.pool import halve

# By how many reaches of the window each group of heads is rolled, along rows and columns.
DIRECTIONS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
Pair = tuple[int, int]
# Keys and values of a map, and the distance in pixels between the places of a window on it.
Map = tuple[Float[Array, 'b h w g k'], Float[Array, 'b h w g k'], int]


class MSAConv(nn.Module):
    """``relu(conv(x + attention(x)))``.

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel and of the window, or (height, width).
        stride, padding: of the closing convolution, as `conv.Conv` takes them.
        dtype: compute type; parameters are float32.
        groups, use_bias: of the closing convolution.
        heads, dilation, shifted, pooled, circular: see `WindowAttention`.
    """

    features: int
    kernel_size: int | Pair
    stride: int = 1
    padding: Padding = 1
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    use_bias: bool = False
    heads: int = 1
    dilation: int = 1
    shifted: bool = False
    pooled: bool = False
    circular: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns the map that the closing convolution makes of one of any size."""
        del train
        x = x.astype(self.dtype)
        how = (self.heads, self.kernel_size, self.dilation, self.shifted, self.pooled, self.circular)
        x = x + WindowAttention(*how, self.dtype, name='attention')(x)
        return nn.relu(self._conv(x.shape[-1])(x))

    def _conv(self, channels: int) -> nn.Module:
        keeps = self.stride == 1 and self.padding == keeping(self.kernel_size)
        if keeps and channels == self.features == self.groups:
            return DepthwiseConv(self.kernel_size, dtype=self.dtype, use_bias=self.use_bias, name='conv')
        how = (self.kernel_size, self.stride, self.padding, self.dtype, self.groups, self.use_bias)
        return Conv(self.features, *how, name='conv')


class WindowAttention(nn.Module):
    """Attention of each pixel to those in a window around it.

    Attributes:
        heads: number of heads; divides the width.
        window: odd side of the window, or (height, width).
        dilation: distance in pixels between the places of the window.
        shifted: whether four of five groups of heads see a map that is rolled by the reach of the window.
        pooled: whether the window also holds as many pixels of the map averaged over 2x2.
        circular: whether the map goes on with its other side, not with zeros.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    window: int | Pair
    dilation: int = 1
    shifted: bool = False
    pooled: bool = False
    circular: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map of any size.

        Raises:
            ValueError: the window has no middle, the heads do not divide the width, or are too few to be shifted.
        """
        window = sides(self.window)
        self._check(window, x.shape[-1])
        q, *seen = jnp.split(Dense(3 * x.shape[-1], dtype=self.dtype, name='qkv')(x), 3, axis=-1)
        by_head = lambda part: part.reshape(*part.shape[:3], self.heads, -1)
        if self.shifted:
            seen = [roll(part, self.heads, [side // 2 * self.dilation for side in window]) for part in seen]
        maps = [(*map(by_head, seen), self.dilation)]
        if self.pooled:
            maps.append((*(by_head(coarse(part)) for part in seen), 2 * self.dilation))
        attention.shown(weights(by_head(q), maps, window, circular=self.circular))
        return attend(by_head(q), maps, window, circular=self.circular).reshape(x.shape)

    def _check(self, window: Pair, width: int) -> None:
        if not all(side % 2 for side in window):
            raise ValueError(f'a window of {window[0]}x{window[1]} has no pixel in its middle: use odd sides.')
        if width % self.heads:
            raise ValueError(f'width {width} does not divide into {self.heads} heads: change width or heads.')
        if self.shifted and self.heads < len(DIRECTIONS):
            raise ValueError(
                f'{self.heads} heads cannot look into {len(DIRECTIONS)} directions: use more heads, or shifted=False.'
            )


def roll(x: Float[Array, 'b h w d'], heads: int, reach: Sequence[int]) -> Float[Array, 'b h w d']:
    """Returns the map with the channels of five groups of heads rolled, those of four by `reach`, to either side."""
    counts = [len(group) for group in np.array_split(np.arange(heads), len(DIRECTIONS))]
    groups = jnp.split(x, np.cumsum(counts)[:-1] * (x.shape[-1] // heads), axis=-1)
    steps = np.multiply(DIRECTIONS, reach)
    return jnp.concatenate([jnp.roll(group, tuple(step), (1, 2)) for group, step in zip(groups, steps)], axis=-1)


def coarse(x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    """Returns the map with each pixel replaced by the mean of the 2x2 block that it is in."""
    means = halve(x.astype(jnp.float32)).astype(x.dtype)
    return jnp.repeat(jnp.repeat(means, 2, axis=1), 2, axis=2)[:, : x.shape[1], : x.shape[2]]


def attend(
    q: Float[Array, 'b h w g k'], maps: Sequence[Map], window: Pair, *, circular: bool = False
) -> Float[Array, 'b h w g k']:
    """Returns ``softmax(q k^T / sqrt(K)) v`` over the places of each pixel's window on all maps.

    Args:
        q: queries of g heads.
        maps: what is seen.
        window: rows and columns of the window.
        circular: whether maps go on with their other sides, not with zeros.
    """
    keys, values, dilations = zip(*(_padded(seen, window, circular) for seen in maps))
    return _attend(q * q.shape[-1] ** -0.5, keys, values, window, dilations)


def weights(
    q: Float[Array, 'b h w g k'], maps: Sequence[Map], window: Pair, *, circular: bool = False
) -> Float[Array, 'b g n p']:
    """Returns the weights that `attend` gives to the places of each pixel's window, in float32."""
    padded = [_padded(seen, window, circular) for seen in maps]
    logits = [
        lax.map(functools.partial(_logits, q * q.shape[-1] ** -0.5, k), _starts(window, dilation))
        for k, _, dilation in padded
    ]
    found = jax.nn.softmax(jnp.concatenate(logits), axis=0)
    return found.reshape(*found.shape[:2], -1, q.shape[3]).transpose(1, 3, 2, 0)


def _padded(seen: Map, window: Pair, circular: bool) -> tuple[Array, Array, int]:
    k, v, dilation = seen
    around = [(0, 0), *((side // 2 * dilation,) * 2 for side in window), (0, 0), (0, 0)]
    k, v = (jnp.pad(part, around, 'wrap' if circular else 'constant') for part in (k, v))
    return k, v, dilation


def _starts(window: Pair, dilation: int) -> Int[np.ndarray, 'p 2']:
    """Returns where in a padded map the pixels begin that are at each place of the windows."""
    return np.indices(window).reshape(2, -1).T.astype(np.int32) * dilation


def _view(x: Array, start: Int[Array, '2'], size: tuple[int, ...]) -> Array:
    return lax.dynamic_slice(x, (0, *start, 0, 0), (x.shape[0], *size, *x.shape[3:]))


def _product(x: Array, y: Array) -> Array:
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), axis=-1)


def _logits(q: Array, k: Array, start: Array) -> Array:
    return _product(q, _view(k, start, q.shape[1:3]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(q: Array, keys: Sequence[Array], values: Sequence[Array], window: Pair, dilations: Sequence[int]) -> Array:
    """Queries are scaled, keys and values padded."""
    return _forward(q, keys, values, window, dilations)[0]


def _forward(q: Array, keys: Sequence[Array], values: Sequence[Array], window: Pair, dilations: Sequence[int]):
    """Returns the answer, and what its gradient needs."""

    def step(k: Array, v: Array, carry: tuple[Array, Array, Array], start: Array) -> tuple:
        top, total, mixed = carry
        logits = _logits(q, k, start)
        higher = jnp.maximum(top, logits)
        kept, weight = jnp.exp(top - higher), jnp.exp(logits - higher)
        mixed = mixed * kept[..., None] + weight[..., None] * _view(v, start, q.shape[1:3])
        return (higher, total * kept + weight, mixed), None

    nothing = jnp.zeros(q.shape[:-1], jnp.float32)
    carry = (nothing - jnp.inf, nothing, jnp.zeros(q.shape, jnp.float32))
    for k, v, dilation in zip(keys, values, dilations):
        carry, _ = lax.scan(functools.partial(step, k, v), carry, _starts(window, dilation))
    top, total, mixed = carry
    y = (mixed / total[..., None]).astype(q.dtype)
    return y, (q, keys, values, y, top + jnp.log(total))


def _backward(window: Pair, dilations: Sequence[int], kept: tuple, dy: Array) -> tuple:
    q, keys, values, y, log_sum = kept
    mean = _product(y, dy)

    def step(k: Array, v: Array, carry: tuple[Array, Array, Array], start: Array) -> tuple:
        dq, dk, dv = carry
        weight = jnp.exp(_logits(q, k, start) - log_sum)
        slope = (weight * (_logits(dy, v, start) - mean))[..., None]
        dq = dq + slope * _view(k, start, q.shape[1:3])
        return (dq, _added(dk, slope * q, start), _added(dv, weight[..., None] * dy, start)), None

    dq, dkeys, dvalues = jnp.zeros(q.shape, jnp.float32), [], []
    for k, v, dilation in zip(keys, values, dilations):
        carry = dq, *(jnp.zeros(part.shape, jnp.float32) for part in (k, v))
        (dq, dk, dv), _ = lax.scan(functools.partial(step, k, v), carry, _starts(window, dilation))
        dkeys.append(dk.astype(k.dtype))
        dvalues.append(dv.astype(v.dtype))
    return dq.astype(q.dtype), tuple(dkeys), tuple(dvalues)


def _added(x: Array, part: Array, start: Array) -> Array:
    """Returns `x` with `part` added from `start` on."""
    return lax.dynamic_update_slice(x, _view(x, start, part.shape[1:3]) + part, (0, *start, 0, 0))


_attend.defvjp(_forward, _backward)

# Published names of the layer's parameters, and ours; see weights.py.
NAMES = (
    ('qkv_conv.weight', 'attention/qkv/kernel', 2),
    ('qkv_conv.bias', 'attention/qkv/bias'),
    ('mlp.weight', 'conv/kernel'),
)
