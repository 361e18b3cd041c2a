"""TransNeXt: each pixel attends to its 3x3 neighbours and to a pooled map under one softmax.

Shi, 2023, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", https://arxiv.org/abs/2311.17132.
Reference: https://github.com/DaiShiResearch/TransNeXt (Apache-2.0), commit c8a9974, classification/transnext.py and
attention_native.py, whose parameter names these are.

In the first three stages attention is aggregated: a query has logits for the 3x3 pixels around it and for those of the
map pooled by the stage's reduction, and one softmax over both. The weights of the neighbours get learned ones that
depend on the query besides. The last stage attends between all pixels. In both, queries and keys are normalized,
queries get a learned vector, and logits are scaled by a learned temperature and the logarithm of the number of keys.
Logits of pooled and of all pixels have a bias that a small network makes of the offset between query and key, on
logarithmic axes; so images of any size will do. The feed-forward layer is gated, with a 3x3 kernel per channel on its
gate.

Details of the published code that are not in the paper, kept here:
  * the learned weights of neighbours are added after the softmax, and read the query without its learned vector;
  * the pooled map is that of ``gelu(reduce(x))``; it is normalized after pooling, and its keys and values come from the
    same matrix as those of the neighbours;
  * epsilon is 1e-6 in blocks and after stages, 1e-5 after patch embeddings and pooling.

Where we differ: maps that a reduction does not divide are pooled as torch's adaptive pooling does, to at least a pixel.
The kernels that the authors wrote for GPUs compute the same; here neighbours are read in place, by
layers/token_grid.py.
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
from longview.modelzoo.layers import token_grid
from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import adaptive_mean, global_mean, parts
from longview.modelzoo.layers.norms.norm import LayerNorm, l2_normalize
from longview.modelzoo.layers.residuals.residual import Add

_HE = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_ZEROS = jax.nn.initializers.zeros
_NORMAL = init.trunc_normal(0.02)
SIDE = 3  # of the neighbourhood
CHUNK = 2048  # offsets whose biases are made at once


class Queries(nn.Module):
    """``(normalized + kernel) * softplus(temperature) * length``.

    The learned vectors are a kernel: they multiply the keys of every pixel.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, q: Float[Array, 'b h n k'], length: Float[np.ndarray, ' n']) -> Float[Array, 'b h n k']:
        """Returns what keys are multiplied by.

        Args:
            q: normalized queries.
            length: logarithms of the number of keys of each.
        """
        heads, width = q.shape[1], q.shape[3]
        kernel = self.param('kernel', _NORMAL, (width, heads))
        temperature = self.param('temperature', jax.nn.initializers.constant(np.log(np.expm1(1 / 0.24))), (heads,))
        scale = jax.nn.softplus(temperature)[:, None] * length[None]
        return (q + kernel.T[None, :, None].astype(self.dtype)) * scale[None, :, :, None].astype(self.dtype)


class OffsetBias(nn.Module):
    """A bias for each head, query and key: ``down(relu(up(offset)))`` of the offset between them; float32.

    Attributes:
        heads: number of heads.
        trained: rows and columns of the map whose sides are 8 units long.
        hidden: hidden width.
    """

    heads: int
    trained: ft.Grid
    hidden: int = 512

    @nn.compact
    def __call__(self, queries: ft.Grid, keys: ft.Grid) -> Float[Array, 'h n p']:
        """Returns the biases between the pixels of a map and those of the same map pooled to `keys`."""
        rows, columns = (offsets(*sides) for sides in zip(queries, keys, self.trained))
        (down, row), (right, column) = (np.unique(axis, return_inverse=True) for axis in (rows, columns))
        row, column = row.reshape(rows.shape), column.reshape(columns.shape)
        pairs = np.stack(np.meshgrid(down, right, indexing='ij'), axis=-1).reshape(-1, 2)
        chunks = -(-len(pairs) // CHUNK)
        padded = np.pad(pairs, ((0, -len(pairs) % chunks), (0, 0))).reshape(chunks, -1, 2)
        # A chunk after the other, made anew for the gradient: there are many more hidden values than biases.
        make = nn.scan(
            nn.remat(OffsetBias._biases, prevent_cse=False), variable_broadcast='params', split_rngs={'params': False}
        )
        table = make(self, None, jnp.asarray(padded, jnp.float32))[1].reshape(-1, self.heads)
        index = row[:, None, :, None] * len(right) + column[None, :, None]
        return table.T[:, index.reshape(queries[0] * queries[1], -1)]

    def _biases(self, carry: None, pairs: Float[Array, 'n 2']) -> tuple[None, Float[Array, 'n h']]:
        hidden = nn.relu(Dense(self.hidden, name='up')(pairs))
        return carry, Dense(self.heads, name='down')(hidden)


def offsets(queries: int, keys: int, trained: int) -> Float[np.ndarray, 'n p']:
    """Returns the offsets between pixels and parts of one axis on a logarithmic scale, 1 for those 7 units apart.

    Args:
        queries: number of pixels.
        keys: number of parts, into which the axis is pooled.
        trained: pixels of an axis that is 8 units long.
    """
    places = np.arange(queries)
    apart = (places[:, None] - (parts(queries, keys) @ places)[None]) / max(trained - 1, 1) * 8
    return np.sign(apart) * np.log2(np.abs(apart) + 1) / 3


class Attention(nn.Module):
    """Attention between all pixels of a map, by the cosines of queries and keys.

    Attributes:
        heads: number of heads; divides the width.
        trained: rows and columns of the map that offsets are scaled by.
        dtype: compute type; logits and softmax are float32.
    """

    heads: int
    trained: ft.Grid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map of any size."""
        del train
        width, size, count = x.shape[-1], x.shape[1:3], x.shape[1] * x.shape[2]
        qkv = Dense(3 * width, dtype=self.dtype, name='qkv')(x.reshape(x.shape[0], count, width))
        q, k, v = (attention.split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        q = Queries(self.dtype, name='queries')(l2_normalize(q, -1), np.full(count, np.log(count), np.float32))
        bias = OffsetBias(self.heads, self.trained, name='bias')(size, size)
        mixed = attention.attend(q, l2_normalize(k, -1), v, scale=1.0, bias=bias[None])
        return Dense(width, dtype=self.dtype, name='out')(attention.merge_heads(mixed)).reshape(x.shape)


class Taps(nn.Module):
    """The learned weights of neighbours, ``q @ kernel + pos_embed``, those of each head its own.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, q: Float[Array, 'b h n k']) -> Float[Array, 'b h n 9']:
        """Returns the weights of the neighbours of each query."""
        heads, width = q.shape[1], q.shape[3]
        kernel = self.param('kernel', _NORMAL, (SIDE**2, width, heads)).transpose(2, 1, 0)
        table = self.param('pos_embed', _ZEROS, (heads, SIDE**2))
        return q @ kernel[None].astype(self.dtype) + table[None, :, None].astype(self.dtype)


class AggregatedAttention(nn.Module):
    """Attention of each pixel to its 3x3 neighbours and to a pooled map, under one softmax.

    Attributes:
        heads: number of heads; divides the width.
        trained: rows and columns of the map that offsets are scaled by.
        reduction: sides of the map over those of the pooled one.
        dtype: compute type; logits and softmax are float32.
    """

    heads: int
    trained: ft.Grid
    reduction: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map of any size."""
        del train
        width, size = x.shape[-1], x.shape[1:3]
        coarse = tuple(max(1, side // self.reduction) for side in size)
        inside = token_grid.inside(size, SIDE).reshape(-1, SIDE**2)
        length = np.log(inside.sum(1) + coarse[0] * coarse[1]).astype(np.float32)

        q = l2_normalize(self._by_head(Dense(width, dtype=self.dtype, name='q')(x)), -1)
        to_keys_and_values = Dense(2 * width, dtype=self.dtype, name='kv')
        k, v = map(self._by_head, jnp.split(to_keys_and_values(x), 2, axis=-1))
        pooled_k, pooled_v = map(self._by_head, jnp.split(to_keys_and_values(self._pooled(x, coarse)), 2, axis=-1))

        scaled = Queries(self.dtype, name='queries')(q, length)
        image = lambda tokens: tokens.reshape(*tokens.shape[:2], *size, tokens.shape[3])
        near = token_grid.scores(image(scaled), image(l2_normalize(k, -1)), SIDE).reshape(*q.shape[:3], -1)
        table = self.param('pos_embed', init.trunc_normal(0.0004), (self.heads, SIDE**2))
        near = jnp.where(inside[None, None], near.astype(jnp.float32) + table[None, :, None], -jnp.inf)
        far = (scaled @ jnp.swapaxes(l2_normalize(pooled_k, -1), -1, -2)).astype(jnp.float32)
        far = far + OffsetBias(self.heads, self.trained, name='bias')(size, coarse)[None]

        near, far, total = odds(near, far)
        attention.shown(jnp.concatenate([near, far], axis=-1) / total)
        taps = (near / total).astype(self.dtype) + Taps(self.dtype, name='taps')(q)
        mixed = (far.astype(self.dtype) @ pooled_v) / total.astype(self.dtype)
        mixed = mixed + token_grid.mix(image(taps), image(v), SIDE).reshape(q.shape)
        return Dense(width, dtype=self.dtype, name='out')(attention.merge_heads(mixed)).reshape(x.shape)

    def _by_head(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b g n k']:
        return attention.split_heads(x.reshape(x.shape[0], -1, x.shape[-1]), self.heads)

    def _pooled(self, x: Float[Array, 'b h w d'], size: ft.Grid) -> Float[Array, 'b p q d']:
        x = gelu(Conv(x.shape[-1], 1, 1, 0, self.dtype, kernel_init=_HE, bias_init=_ZEROS, name='reduce')(x))
        return LayerNorm(dtype=self.dtype, name='norm')(adaptive_mean(x, size))


def odds(
    near: Float[Array, 'b h n m'], far: Float[Array, 'b h n p']
) -> tuple[Float[Array, 'b h n m'], Float[Array, 'b h n p'], Float[Array, 'b h n 1']]:
    """Returns what one softmax over two sets of logits divides, and the sum that it is divided by.

    Weights of values can be divided after the sum over values, which is a smaller array.
    """
    tops = (jnp.max(logits, axis=-1, keepdims=True) for logits in (near, far))
    top = jax.lax.stop_gradient(jnp.maximum(*tops))
    near, far = jnp.exp(near - top), jnp.exp(far - top)
    return near, far, jnp.sum(near, axis=-1, keepdims=True) + jnp.sum(far, axis=-1, keepdims=True)


class GatedConvMlp(nn.Module):
    """``down(gelu(conv(gate)) * value)`` with ``[gate | value] = up(x)`` and a 3x3 kernel per channel.

    Attributes:
        ratio: hidden width over width of the plain feed-forward layer with as many parameters; the hidden width here
            is 2/3 of it.
        dtype: compute type.
    """

    ratio: float = 4.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        hidden = int(2 * int(x.shape[-1] * self.ratio) / 3)
        gate, value = jnp.split(Dense(2 * hidden, dtype=self.dtype, name='up')(x), 2, axis=-1)
        initial = jax.nn.initializers.normal((2 / 9) ** 0.5)
        gate = DepthwiseConv(3, initial, self.dtype, use_bias=True, bias_init=_ZEROS, name='conv')(gate)
        return Dense(x.shape[-1], dtype=self.dtype, name='down')(gelu(gate) * value)


class PatchEmbedding(nn.Module):
    """A convolution of stride `patch` whose windows overlap, then LayerNorm.

    Attributes:
        features: output channels.
        patch: stride of the convolution; its kernel has the side ``2 * patch - 1``.
        dtype: compute type.
    """

    features: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``ceil(h / patch) x ceil(w / patch)`` pixels."""
        side = 2 * self.patch - 1
        conv = functools.partial(Conv, kernel_init=_HE, bias_init=_ZEROS, name='conv')
        x = conv(self.features, side, self.patch, self.patch - 1, self.dtype)(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class TransNeXt(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        ratios: hidden width over width of the feed-forward layers of each stage, before the 2/3 of gated ones.
        reductions: sides of each stage's map over those of the pooled one; 1 for attention between all pixels.
        stem_stride: stride of the first stage, 4, or less for small images; each further stage doubles it.
        pretrained_size: image size that the biases of offsets were learned for, a side or (height, width); images of
            any other will do, too.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (48, 96, 192, 384)
    depths: Sequence[int] = (2, 2, 15, 2)
    heads: Sequence[int] = (2, 4, 8, 16)
    ratios: Sequence[float] = (8, 8, 4, 4)
    reductions: Sequence[int] = (8, 4, 2, 1)
    stem_stride: int = 4
    pretrained_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mlp: Callable[..., nn.Module] = GatedConvMlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The first embedding, each block, the norms of stages; another embedding belongs to the block before it."""
        between = [f'embed{index}' for index in range(1, len(self.depths))]
        norms = tuple(f'norm{index}' for index in range(len(self.depths)))
        return (('embed0',), *map(tuple, trunk.stage_paths(self.depths, between)), norms)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, which are normalized, ``map`` and ``pooled``, its mean."""
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            patch = 2 if index else self.stem_stride
            x = PatchEmbedding(self.widths[index], patch, self.dtype, name=f'embed{index}')(x)
            features.setdefault(ft.STEM, x)
            x = self._stage(index)(x, stage_masks, train=train)
            x = self.norm(dtype=self.dtype, name=f'norm{index}')(x)
            features[ft.stage(index)] = x
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stage(self, index: int) -> trunk.Stage:
        trained = tuple(-(-side // self.strides[index]) for side in pair(self.pretrained_size))
        reduction = self.reductions[index]
        mixer = Attention if reduction == 1 else functools.partial(AggregatedAttention, reduction=reduction)
        mixer = functools.partial(mixer, heads=self.heads[index], trained=trained, dtype=self.dtype)
        mlp = functools.partial(self.mlp, float(self.ratios[index]), self.dtype)
        block = functools.partial(PreNorm, functools.partial(self.norm, dtype=self.dtype), mixer, mlp, self.residual)
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


# Classification with the README's table. Those of 384 pixels are the same networks, with weights of their own.
_TINY = {'widths': (72, 144, 288, 576), 'heads': (3, 6, 12, 24)}
_SMALL = TransNeXt(**_TINY, depths=(5, 5, 22, 5))
_BASE = TransNeXt((96, 192, 384, 768), (5, 5, 23, 5), (4, 8, 16, 32))
VARIANTS = {
    'transnext_micro': TransNeXt(),
    'transnext_tiny': TransNeXt(**_TINY),
    'transnext_small': _SMALL,
    'transnext_base': _BASE,
    'transnext_small_384': _SMALL,
    'transnext_base_384': _BASE,
    'transnext_micro_aaaa_256': TransNeXt(reductions=(16, 8, 4, 2), pretrained_size=256),
    'transnext_test': TransNeXt((8, 16), (1, 1), (2, 2), (2, 2), (2, 1), stem_stride=2, pretrained_size=16),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2311.17132')
PUBLISHED = {
    'transnext_micro': _PAPER((224, 224), params=12.8, macs=2.7, top1=82.5),
    'transnext_tiny': _PAPER((224, 224), params=28.2, macs=5.7, top1=84.0),
    'transnext_small': _PAPER((224, 224), params=49.7, macs=10.3, top1=84.7),
    'transnext_base': _PAPER((224, 224), params=89.7, macs=18.4, top1=84.8),
    'transnext_small_384': _PAPER((384, 384), params=49.7, macs=32.1, top1=86.0),
    'transnext_base_384': _PAPER((384, 384), params=89.7, macs=56.3, top1=86.2),
    'transnext_micro_aaaa_256': _PAPER((256, 256), params=13.1, macs=3.3, top1=82.6),
}

# Published names of a classifier's parameters, and ours; see weights.py. Stages count from 1 there, from 0 here.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_MIXER = (
    ('temperature', 'queries/temperature'),
    ('query_embedding', 'queries/kernel'),
    ('relative_pos_bias_local', 'pos_embed'),
    ('learnable_tokens', 'taps/kernel'),
    ('learnable_bias', 'taps/pos_embed'),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for there, here in (
            ('q', 'q'),
            ('kv', 'kv'),
            ('qkv', 'qkv'),
            ('proj', 'out'),
            ('sr', 'reduce'),
            ('cpb_fc1', 'bias/up'),
            ('cpb_fc2', 'bias/down'),
        )
        for a, b in _AFFINE
    ),
    *((f'norm.{a}', f'norm/{b}') for a, b in _NORM),
)
_BLOCK = (
    *((f'norm1.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *((f'attn.{a}', f'mixer/{b}') for a, b in _MIXER),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _NORM),
    *(
        (f'mlp.{there}.{a}', f'mlp/{here}/{b}')
        for there, here in (('fc1', 'up'), ('dwconv.dwconv', 'conv'), ('fc2', 'down'))
        for a, b in _AFFINE
    ),
)
NAMES = {
    'TransNeXt': (
        *((f'patch_embed{{s+1}}.proj.{a}', f'backbone/embed{{s}}/conv/{b}') for a, b in _AFFINE),
        *((f'patch_embed{{s+1}}.norm.{a}', f'backbone/embed{{s}}/norm/{b}') for a, b in _NORM),
        *((f'block{{s+1}}.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}') for a, b in _BLOCK),
        *((f'norm{{s+1}}.{a}', f'backbone/norm{{s}}/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
