"""The U-Net of diffusion models: residual blocks on maps of falling resolution and back, told the time and the class.

Dhariwal and Nichol, 2021, "Diffusion Models Beat GANs on Image Synthesis" (ADM), https://arxiv.org/abs/2105.05233, in
the form of Karras et al., 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (EDM),
https://arxiv.org/abs/2206.00364, appendix C. Reference: NVlabs/edm, training/networks.py, DhariwalUNet (CC BY-NC-SA
4.0, read for facts only). A block with fewer than 64 channels has no attention there, for 64 channels are a head; here
`head_width` says how many are.

Where we differ: biases of dense layers start at 0, those of the reference like their kernels; there is no embedding of
augmentations.

`skip_scale` multiplies what passes from the way down to the way up (Skip-Tuning, https://arxiv.org/abs/2402.15170): of
a trained network it may be changed without training.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.attention import attend, merge_heads
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.dense.fpn import nearest
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.dropout import Dropout
from longview.modelzoo.layers.frame.pool import avg_pool
from longview.modelzoo.layers.norms.norm import GroupNorm

# Times are embedded in sines and cosines whose periods go up to 2 pi times this.
_LONGEST = 10_000
_GROUPS, _LEAST = 32, 4  # groups of a norm; fewer where they would have fewer than four channels
_ZERO = {'kernel_init': nn.initializers.zeros, 'bias_init': nn.initializers.zeros}


class _Step(NamedTuple):
    """A block of the way down or up.

    Attributes:
        name: of its parameters.
        width: output channels.
        resize: 'down', 'up' or ''.
        attention: whether it ends with attention.
        joins: whether it reads a map of the way down beside its input.
    """

    name: str
    width: int
    resize: str = ''
    attention: bool = False
    joins: bool = False


class UNet(ft.Denoiser):
    """A map is halved level by level and doubled again; each map of the way down is read once on the way up.

    Attributes:
        width: channels of level 0, and of the sines and cosines of the time.
        multiples: channels of each level over `width`; height and width have to be divisible by 2 to the power of the
            number of levels less one.
        depth: blocks of a level on the way down; there is one more on the way up.
        attention: the levels whose blocks end with attention; the lowest map has some in any case.
        classes: classes that ``condition`` may be; None for a network that reads no condition.
        head_width: channels of a head of attention; blocks with fewer channels have none.
        embedding_multiple: channels of the embedding of time and class over `width`.
        dropout: rate, inside of the blocks; 0.1 in the paper.
        skip_scale: factors on the maps of the way down as they are read, one for all or the first (deepest) and the
            last one, between which they lie evenly.
        dtype: compute type.
    """

    width: int = 192
    multiples: tuple[int, ...] = (1, 2, 3, 4)
    depth: int = 3
    attention: tuple[int, ...] = (1, 2, 3)
    classes: int | None = None
    head_width: int = 64
    embedding_multiple: int = 4
    dropout: float = 0.0
    skip_scale: float | tuple[float, float] = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        time: Float[Array, ' b'],
        condition: Int[Array, ' b'] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w c']:
        """Returns a map like `x`; it is 0 at first, for the last layer is.

        Args:
            x: noisy images, about a deviation of 1.
            time: of the process.
            condition: the class of each image; -1, and None for all, is any.
            train: whether there is dropout.

        Raises:
            ValueError: the sides cannot be halved as often as there are levels.
        """
        _check_sides(x.shape[1:3], len(self.multiples))
        embedding = self._embedding(time, condition)
        block = lambda step: Block(
            step.width, step.resize, step.attention, self.head_width, self.dropout, self.dtype, name=step.name
        )
        maps = [Conv(self.width * self.multiples[0], 3, 1, 1, self.dtype, name='stem')(x)]
        for step in self._down():
            maps.append(block(step)(maps[-1], embedding, train=train))
        scales = iter(_scales(self.skip_scale, len(maps)))
        y = maps[-1]
        for step in self._up():
            if step.joins:
                y = jnp.concatenate([y, next(scales) * maps.pop()], axis=-1)
            y = block(step)(y, embedding, train=train)
        y = nn.silu(_norm(y.shape[-1], self.dtype, 'norm')(y))
        return Conv(x.shape[-1], 3, 1, 1, self.dtype, name='paint', **_ZERO)(y).astype(jnp.float32)

    def _embedding(self, time: Float[Array, ' b'], condition: Int[Array, ' b'] | None) -> Float[Array, 'b e']:
        width = self.width * self.embedding_multiple
        x = waves(time, self.width)
        x = _dense(self.width, width, self.dtype, name='time0')(x)
        x = _dense(width, width, self.dtype, name='time1')(nn.silu(x))
        if self.classes is not None:
            condition = jnp.full(x.shape[0], -1) if condition is None else condition
            # The vector of the class that is no class is 0.
            known = jax.nn.one_hot(condition, self.classes)
            x = x + Dense(width, False, nn.initializers.normal(1.0), self.dtype, name='class')(known)
        return nn.silu(x)

    def _down(self) -> Sequence[_Step]:
        steps = []
        for level in range(len(self.multiples)):
            if level:
                steps.append(_Step(f'down{level}', self.width * self.multiples[level - 1], 'down'))
            steps += [self._step(f'down{level}_block{i}', level) for i in range(self.depth)]
        return steps

    def _up(self) -> Sequence[_Step]:
        last = len(self.multiples) - 1
        lowest = self.width * self.multiples[last]
        steps = [_Step('middle0', lowest, attention=True), _Step('middle1', lowest)]
        for level in range(last, -1, -1):
            if level < last:
                steps.append(_Step(f'up{level}', self.width * self.multiples[level + 1], 'up'))
            steps += [self._step(f'up{level}_block{i}', level, joins=True) for i in range(self.depth + 1)]
        return steps

    def _step(self, name: str, level: int, *, joins: bool = False) -> _Step:
        return _Step(name, self.width * self.multiples[level], '', level in self.attention, joins)


class Block(nn.Module):
    """Two convolutions whose second norm is scaled and shifted by the embedding, a shortcut, and maybe attention.

    Attributes:
        width: output channels.
        resize: 'down' halves the map first, 'up' doubles it, '' leaves its size.
        attention: whether there is attention, if a head has enough channels.
        head_width: channels of a head.
        dropout: rate, before the second convolution.
        dtype: compute type.
    """

    width: int
    resize: str = ''
    attention: bool = False
    head_width: int = 64
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], embedding: Float[Array, 'b e'], *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of `width` channels."""
        resized = _RESIZED[self.resize]
        y = resized(nn.silu(_norm(x.shape[-1], self.dtype, 'norm0')(x)))
        y = Conv(self.width, 3, 1, 1, self.dtype, name='conv0')(y)
        modulation = _dense(embedding.shape[-1], 2 * self.width, self.dtype, name='affine')(embedding)
        scale, shift = jnp.split(modulation[:, None, None], 2, axis=-1)
        y = nn.silu(_norm(self.width, self.dtype, 'norm1')(y) * (scale + 1) + shift)
        y = Dropout(self.dropout, name='dropout')(y, train=train)
        y = Conv(self.width, 3, 1, 1, self.dtype, name='conv1', **_ZERO)(y)
        x = resized(x)
        if x.shape[-1] != self.width:
            x = Conv(self.width, 1, dtype=self.dtype, name='shortcut')(x)
        x = x + y
        heads = self.width // self.head_width
        return Attention(heads, self.dtype, name='attention')(x) if self.attention and heads else x


class Attention(nn.Module):
    """``x + out(attention(norm(x)))`` over all pixels; the channels of `qkv` are in the published order.

    Attributes:
        heads: number of heads.
        dtype: compute type.
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape."""
        batch, height, width, channels = x.shape
        pixels = _norm(channels, self.dtype, 'norm')(x).reshape(batch, height * width, channels)
        qkv = _dense(channels, 3 * channels, self.dtype, name='qkv')(pixels)
        # For each head its channels, and for each of these the query, the key and the value.
        q, k, v = jnp.unstack(qkv.reshape(batch, height * width, self.heads, -1, 3).swapaxes(1, 2), axis=-1)
        y = merge_heads(attend(q, k, v))
        return x + Dense(channels, True, nn.initializers.zeros, self.dtype, name='out')(y).reshape(x.shape)


def waves(time: Float[Array, ' b'], width: int) -> Float[Array, 'b d']:
    """Returns cosines and then sines of a time, ``width / 2`` each.

    The frequencies fall geometrically from 1 to nearly ``1 / 10000``; Vaswani et al., 2017,
    https://arxiv.org/abs/1706.03762.
    """
    frequencies = jnp.float32(1 / _LONGEST) ** (jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angles = time.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def _norm(channels: int, dtype: DTypeLike, name: str) -> GroupNorm:
    return GroupNorm(max(1, min(_GROUPS, channels // _LEAST)), dtype=dtype, name=name)


def _dense(fan_in: int, features: int, dtype: DTypeLike, name: str) -> Dense:
    return Dense(features, True, init.uniform_fan_in(fan_in), dtype, name=name)


def _doubled(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    return nearest(x, (2 * x.shape[1], 2 * x.shape[2]))


_RESIZED: dict[str, Callable[[Array], Array]] = {
    '': lambda x: x,
    'down': lambda x: avg_pool(x, 2, 2, 0),
    'up': _doubled,
}


def _scales(given: float | tuple[float, float], count: int) -> list[float]:
    """Returns a factor for each map that is read on the way up, the deepest first."""
    if isinstance(given, (int, float)):
        return [float(given)] * count
    first, last = given
    return [first + (last - first) * i / max(1, count - 1) for i in range(count)]


def _check_sides(sides: tuple[int, ...], levels: int) -> None:
    if any(side % 2 ** (levels - 1) for side in sides):
        raise ValueError(
            f'images of {sides[0]} x {sides[1]} pixels cannot be halved {levels - 1} times, as often as UNet.multiples '
            'says: give fewer multiples, or images of other sides.'
        )
