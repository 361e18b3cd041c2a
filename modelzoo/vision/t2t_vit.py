"""T2T-ViT: a plain transformer on tokens that are made in steps, each of overlapping windows of the tokens before.

Yuan et al., 2021, "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet",
https://arxiv.org/abs/2101.11986. Reference: https://github.com/yitu-opensource/T2T-ViT (Clear BSD), commit 0f63dc9;
`NAMES` maps its parameter names.

A step is a soft split, a window of tokens laid end to end for each place, and a token transformer that makes 64
channels of it: attention, of which the values are also the shortcut, and a feed-forward layer. The attention of these
many tokens is plain (`t2t_vit_t_*`) or linear in their number, by a Performer's positive random features
(Choromanski et al., 2020, https://arxiv.org/abs/2009.14794). After two steps a last soft split and a matrix make the
tokens of the deep and narrow network.

Soft splits are not laid down, which would take two to three times the room of their input: what reads a window is a
matrix, and behind a norm a matrix and the window's own mean and variance. So `SoftSplit` is a convolution, whose kernel
has the norm's scale and no mean, and a root of windowed moments. Their parameters are the published ones, channel by
channel of a window.

Details of the published code, kept here:
  * position table and random features are fixed: sines over the number of a token, and rows of an orthogonal matrix
    times the root of their number. Files hold them, so they are parameters here, without a gradient: an optimizer that
    decays them has to be told not to (configs/t2t_vit_7.py);
  * plain token attention is scaled by the root of the length of a window, and has no bias before;
  * the matrices of queries, keys and values of the deep network have no bias. Published weights were trained with
    logits scaled by the root of the whole width; the code, unless asked for its weights, has that of a head's, as is
    usual (`wide_scale=False`).

For images of another size the table is resized bicubically, as the reference does when it loads weights. Where we
differ: images of any size and shape; no dropout of 0.1 inside the Performers. SE, ghost and dense variants are not
built.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention, attend
from longview.modelzoo.layers.convolutions.conv import convolve, out_size
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import avg_pool
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, along

_INIT = init.trunc_normal(0.02)
_ONES, _ZEROS = jax.nn.initializers.ones, jax.nn.initializers.zeros
EPSILON = 1e-5

# Side, step and padding of a window.
Window = tuple[int, int, int]


class SoftSplit(nn.Module):
    """``norm(windows) @ kernel + bias``, or the same without norm, of the pixels of each window laid end to end.

    Attributes:
        features: output channels.
        window: side, step and padding with zeros.
        normed: whether the windows are normalized, each by itself, as `LayerNorm` does.
        use_bias: whether there is a bias.
        dtype: compute type of the product; the moments are float32.
    """

    features: int
    window: Window
    normed: bool = True
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a pixel for each window."""
        (side, step, padding), channels = self.window, x.shape[-1]
        length = side * side * channels
        kernel = self.param('kernel', _INIT, (length, self.features))
        shift = self.param('bias', _ZEROS, (self.features,)) if self.use_bias else jnp.zeros((self.features,))
        if self.normed:
            scale = self.param('norm_scale', _ONES, (length,))
            shift = shift + self.param('norm_bias', _ZEROS, (length,)) @ kernel
            kernel = kernel * scale[:, None]
            kernel = kernel - jnp.mean(kernel, axis=0, keepdims=True)  # takes the mean off every window
        # The published order is channel by channel.
        kernel = kernel.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), step, padding)
        if self.normed:
            y = y * jax.lax.rsqrt(variances(x, self.window) + EPSILON)
        return (y + shift[None, None, None]).astype(self.dtype)


def variances(x: Float[Array, 'b h w c'], window: Window) -> Float[Array, 'b h2 w2 1']:
    """Returns the variance of the values in each window, zeros of the padding among them."""
    x = x.astype(jnp.float32)
    mean, square = (avg_pool(jnp.mean(a, axis=-1, keepdims=True), *window) for a in (x, x * x))
    return jnp.maximum(square - mean * mean, 0)


class TokenTransformer(nn.Module):
    """``v + out(attention(q, k, v))`` with ``[q | k | v]`` of a soft split, then ``x + mlp(norm(x))``.

    Attributes:
        window: of the soft split.
        features: output channels.
        performer: whether attention is by random features, half as many as channels; else it is plain.
        dtype: compute type; attention is float32.
    """

    window: Window
    features: int = 64
    performer: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a pixel for each window."""
        length = self.window[0] ** 2 * x.shape[-1]
        x = SoftSplit(3 * self.features, self.window, use_bias=self.performer, dtype=self.dtype, name='split')(x)
        first, second, v = jnp.split(x.reshape(x.shape[0], -1, x.shape[-1]), 3, axis=-1)
        if self.performer:
            features = RandomFeatures(self.features // 2, name='features')
            k, q = (features(part.astype(jnp.float32)) for part in (first, second))
            y = linear_attention(q, k, v.astype(jnp.float32))
        else:
            y = attend(*(part[:, None] for part in (first, second, v)), scale=length**-0.5)[:, 0]
        v = v + Dense(self.features, dtype=self.dtype, name='out')(y)
        v = v + Mlp(1.0, dtype=self.dtype, name='mlp')(LayerNorm(EPSILON, self.dtype, name='norm')(v))
        return v.reshape(*x.shape[:3], self.features)


class RandomFeatures(nn.Module):
    """``exp(x @ kernel - |x|^2 / 2) / sqrt(M)``: products of two such vectors estimate ``exp(x y)``.

    The kernel is drawn once and has no gradient.

    Attributes:
        features: M, their number.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, 'b n k']) -> Float[Array, 'b n m']:
        """Returns the features of each vector."""
        orthogonal = jax.nn.initializers.orthogonal(self.features**0.5)
        kernel = jax.lax.stop_gradient(self.param('kernel', orthogonal, (x.shape[-1], self.features)))
        return jnp.exp(x @ kernel - jnp.sum(x * x, axis=-1, keepdims=True) / 2) * self.features**-0.5


def linear_attention(
    q: Float[Array, 'b n m'], k: Float[Array, 'b n m'], v: Float[Array, 'b n d']
) -> Float[Array, 'b n d']:
    """Returns ``sum_j (q_i k_j) v_j / sum_j q_i k_j`` for each i, in time linear in the number of tokens."""
    total = q @ jnp.sum(k, axis=1)[..., None]
    return q @ (k.swapaxes(1, 2) @ v) / (total + 1e-8)


class TokensToToken(nn.Module):
    """Token transformers, one behind the other, and a last soft split with a matrix.

    Attributes:
        features: output channels.
        windows: of the soft splits.
        token_features: channels between them.
        performer: see `TokenTransformer`.
        dtype: compute type.
    """

    features: int
    windows: Sequence[Window]
    token_features: int = 64
    performer: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a pixel for each window of the last soft split."""
        *steps, last = self.windows
        for index, window in enumerate(steps):
            mix = TokenTransformer(tuple(window), self.token_features, self.performer, self.dtype, name=f'mix{index}')
            x = mix(x)
        return SoftSplit(self.features, tuple(last), normed=False, dtype=self.dtype, name='project')(x)


class T2TViT(ft.TokenBackbone):
    """The network.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        heads: heads of each block.
        ratio: hidden width of the feed-forward layers over width.
        windows: side, step and padding of each soft split; the product of the steps is the stride.
        token_features: channels of the tokens before.
        performer: whether token transformers are Performers.
        wide_scale: whether the logits of the blocks are divided by the root of `width`, as in published weights, rather
            than by that of a head's width.
        image_size: image size of the position table, a side or (height, width). For images of any other size the
            table is resized.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp, residual: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    width: int = 256
    depth: int = 7
    heads: int = 4
    ratio: float = 2.0
    windows: Sequence[Window] = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
    token_features: int = 64
    performer: bool = True
    wide_scale: bool = True
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mixer: Callable[..., nn.Module] = functools.partial(Attention, qkv_bias=False)
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts; `grid` raises ValueError for an `image_size` that is too small."""
        rows, columns = self.grid(*pair(self.image_size))
        self.stem = TokensToToken(self.width, self.windows, self.token_features, self.performer, self.dtype)
        self.cls_token = self.param('cls_token', _INIT, (1, 1, self.width))
        self.pos_embed = self.param('pos_embed', _sines, (1, 1 + rows * columns, self.width))
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        scale = {'scale': self.width**-0.5} if self.wide_scale else {}
        parts['mixer'] = functools.partial(parts['mixer'], heads=self.heads, **scale)
        parts['mlp'] = functools.partial(parts['mlp'], ratio=self.ratio)
        self.blocks = [
            PreNorm(**parts, residual=residual, name=name)
            for name, residual in zip(trunk.names(self.depth), along(self.residual, self.depth))
        ]
        self.join = self.residual()
        self.last_norm = parts['norm'](name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """What makes the tokens, with positions and class token, each block, the last norm."""
        return (('stem', 'pos_embed', 'cls_token'), *((name,) for name in trunk.names(self.depth)), ('norm',))

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``; the first three leave out the class token.

        Raises:
            ValueError: the image is too small.
        """
        grid = self.grid(*x.shape[1:3])
        tokens = self.embed(x)
        features = self.encode(tokens + self.positions(grid), grid, train=train)
        return {ft.STEM: tokens.reshape(x.shape[0], *grid, self.width), **features}

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of tokens."""
        sides = [height, width]
        for side, step, padding in self.windows:
            sides = [out_size(length, side, step, padding) for length in sides]
        if min(sides) < 1:
            raise ValueError(f'image {height}x{width} is smaller than a window: use larger images or smaller windows.')
        return tuple(sides)

    def embed(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
        """Returns the tokens, row by row, without positions."""
        return self.stem(x).reshape(x.shape[0], -1, self.width)

    def positions(self, grid: ft.Grid) -> Float[Array, '1 n d']:
        """Returns the positions of the tokens; a table of another grid is resized."""
        table = jax.lax.stop_gradient(self.pos_embed)[:, 1:]
        return posemb.resize(table, self.grid(*pair(self.image_size)), grid).astype(self.dtype)

    def encode(self, tokens: Float[Array, 'b n d'], grid: ft.Grid | None, *, train: bool = False) -> ft.Features:
        """Runs the blocks on any subset of the tokens, in any order; ``map`` is returned only with a `grid`."""
        masks = path_masks(self, self.drop_path, self.depth, tokens.shape[0], train=train)
        first = self.cls_token + jax.lax.stop_gradient(self.pos_embed)[:, :1]
        first = jnp.broadcast_to(first, (tokens.shape[0], 1, self.width)).astype(self.dtype)
        s = self.join.open(jnp.concatenate([first, tokens], axis=1))
        s = trunk.run(self, self.blocks, s, masks, train=train, remat=self.remat, scan=self.scan)
        x = self.last_norm(self.join.close(s))
        image = {} if grid is None else {ft.MAP: x[:, 1:].reshape(x.shape[0], *grid, self.width)}
        return {ft.TOKENS: x[:, 1:], **image, ft.POOLED: x[:, 0].astype(jnp.float32)}


def _sines(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Float[Array, '1 n d']:
    """Returns the table of Vaswani et al., 2017, for tokens in their order; `key` is not used."""
    del key
    _, tokens, width = shape
    channel = np.arange(width)
    angle = np.arange(tokens)[:, None] / 10_000.0 ** (channel // 2 * 2 / width)[None]
    return jnp.asarray(np.where(channel[None] % 2, np.cos(angle), np.sin(angle))[None], dtype)


class PlainT2TViT(T2TViT):
    """The network whose token transformers have plain attention."""

    performer: bool = False


# Tables 1 and 2 of the paper, and the repository; resnext and wide are of table 7.
_SIZES = {
    '14': {'width': 384, 'depth': 14, 'heads': 6, 'ratio': 3.0},
    '19': {'width': 448, 'depth': 19, 'heads': 7, 'ratio': 3.0},
    '24': {'width': 512, 'depth': 24, 'heads': 8, 'ratio': 3.0},
}
_TEST = {'width': 8, 'depth': 2, 'heads': 2, 'windows': ((3, 2, 1),) * 2, 'token_features': 8, 'image_size': 16}
VARIANTS = {
    't2t_vit_7': T2TViT(),
    't2t_vit_10': T2TViT(depth=10),
    't2t_vit_12': T2TViT(depth=12),
    **{f't2t_vit_{size}': T2TViT(**fields) for size, fields in _SIZES.items()},
    't2t_vit_14_384': T2TViT(**_SIZES['14'], image_size=384),
    **{f't2t_vit_t_{size}': PlainT2TViT(**fields) for size, fields in _SIZES.items()},
    't2t_vit_14_resnext': T2TViT(**_SIZES['14'] | {'heads': 32}),
    't2t_vit_14_wide': T2TViT(768, 4, 12, 3.0),
    't2t_vit_test': T2TViT(**_TEST),
    't2t_vit_t_test': PlainT2TViT(**_TEST),
}

# The tables of the repository.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2101.11986')
PUBLISHED = {
    't2t_vit_7': _PAPER((224, 224), 4.3, 1.1, 71.7),
    't2t_vit_10': _PAPER((224, 224), 5.9, 1.5, 75.2),
    't2t_vit_12': _PAPER((224, 224), 6.9, 1.8, 76.5),
    't2t_vit_14': _PAPER((224, 224), 21.5, 4.8, 81.5),
    't2t_vit_19': _PAPER((224, 224), 39.2, 8.5, 81.9),
    't2t_vit_24': _PAPER((224, 224), 64.1, 13.8, 82.3),
    't2t_vit_14_384': _PAPER((384, 384), 21.7, top1=83.3),
    't2t_vit_t_14': _PAPER((224, 224), 21.5, 6.1, 81.7),
    't2t_vit_t_19': _PAPER((224, 224), 39.2, 9.8, 82.4),
    't2t_vit_t_24': _PAPER((224, 224), 64.1, 15.0, 82.6),
}


def _refit(backbone: T2TViT, path: str, table: np.ndarray) -> np.ndarray:
    return posemb.refit(table, backbone.grid(*pair(backbone.image_size)), before=1)


RESIZE = {'T2TViT': _refit, 'PlainT2TViT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BLOCK = (
    *((f'norm{k}.{a}', f'{here}_norm/{b}') for k, here in ((1, 'mixer'), (2, 'mlp')) for a, b in _NORM),
    ('attn.qkv.weight', 'mixer/qkv/kernel'),
    *((f'attn.proj.{a}', f'mixer/out/{b}') for a, b in _AFFINE),
    *((f'mlp.fc{k}.{a}', f'mlp/{here}/{b}') for k, here in ((1, 'up'), (2, 'down')) for a, b in _AFFINE),
)
_MIX = (
    *((f'norm1.{a}', f'split/norm_{b}') for a, b in _NORM),
    *((f'norm2.{a}', f'norm/{b}') for a, b in _NORM),
)
_PERFORMER = (
    *_MIX,
    ('w', 'features/kernel'),
    *((f'kqv.{a}', f'split/{b}') for a, b in _AFFINE),
    *((f'proj.{a}', f'out/{b}') for a, b in _AFFINE),
    *((f'mlp.{k}.{a}', f'mlp/{here}/{b}') for k, here in ((0, 'up'), (2, 'down')) for a, b in _AFFINE),
)
_PLAIN = (
    *_MIX,
    ('attn.qkv.weight', 'split/kernel'),
    *((f'attn.proj.{a}', f'out/{b}') for a, b in _AFFINE),
    *((f'mlp.fc{k}.{a}', f'mlp/{here}/{b}') for k, here in ((1, 'up'), (2, 'down')) for a, b in _AFFINE),
)


def _names(mix: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return (
        ('cls_token', 'backbone/cls_token'),
        ('pos_embed', 'backbone/pos_embed'),
        *(('tokens_to_token.attention{k+1}.' + a, 'backbone/stem/mix{k}/' + b) for a, b in mix),
        *((f'tokens_to_token.project.{a}', f'backbone/stem/project/{b}') for a, b in _AFFINE),
        *(('blocks.{i}.' + a, 'backbone/block{i:02d}/' + b) for a, b in _BLOCK),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    )


NAMES = {'T2TViT': _names(_PERFORMER), 'PlainT2TViT': _names(_PLAIN)}
