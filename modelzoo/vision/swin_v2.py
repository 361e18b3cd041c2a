"""Swin Transformer V2: a pyramid with window attention; every second block shifts its windows.

Liu et al., 2021, "Swin Transformer V2: Scaling Up Capacity and Resolution", https://arxiv.org/abs/2111.09883.
Reference: https://github.com/huggingface/pytorch-image-models (timm, Apache-2.0), release 1.0.31, a port of
https://github.com/microsoft/Swin-Transformer (MIT), with nearly the same parameter names.

Attention is by cosine similarity with a learned scale per head, at most 100, plus a bias that a small network computes
from the relative offset on a logarithmic scale. Norms are at the ends of branches, and their scales are initially 0.
Keys have no bias. A map that does not divide into windows is padded with zeros after the shift, and the zeros are
attended to, as in the reference. Logits between pixels that are neighbors only because of the shift are lowered by 100.

A window never exceeds the map: for small images it shrinks and is not shifted.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import attention, window
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PostNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import Patches, patch_grid
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add


class WindowAttention(nn.Module):
    """Cosine attention inside the windows of a map.

    Attributes:
        heads: number of heads; divides the width.
        side: side of the windows.
        shifted: whether the map is rolled by half a window before it is partitioned.
        pretrained_side: side of the windows in pre-training, if it differs; else 0.
        kernel_init: initial values of the matrices.
        dtype: compute type; logits and biases are float32.
    """

    heads: int
    side: int
    shifted: bool
    pretrained_side: int = 0
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of each window."""
        size = x.shape[1:3]
        cut, shift = window.fit(size, self.side)
        shift = shift if self.shifted else (0, 0)
        x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
        x = jnp.pad(x, ((0, 0), (0, -size[0] % cut[0]), (0, -size[1] % cut[1]), (0, 0)))
        full = x.shape[1:3]
        mixed = self._attend(window.partition(x, cut), self._bias(cut, full, shift))
        mixed = Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='out')(mixed)
        mixed = window.merge(mixed, cut, full)[:, : size[0], : size[1]]
        return jnp.roll(mixed, shift, (1, 2))

    def _attend(self, x: Float[Array, 'v n d'], bias: Float[Array, 'p h n n']) -> Float[Array, 'v n d']:
        """Mixes the tokens of all windows; `bias` has one entry per position of a window in the map, or one for all."""
        width = x.shape[-1]
        q_bias, v_bias = (self.param(f'{name}_bias', jax.nn.initializers.zeros, (width,)) for name in 'qv')
        qkv = Dense(3 * width, False, self.kernel_init, self.dtype, name='qkv')(x)
        bias_row = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(self.dtype)
        q, k, v = (
            attention.split_heads(part, self.heads) for part in jnp.split(qkv + bias_row[None, None], 3, axis=-1)
        )
        sharpness = self.param('logit_scale', jax.nn.initializers.constant(math.log(10)), (self.heads, 1, 1))
        sharpness = jnp.exp(jnp.minimum(sharpness, math.log(100)))[None]
        logits = (_direction(q) @ jnp.swapaxes(_direction(k), -1, -2)).astype(jnp.float32) * sharpness
        places = logits.reshape(-1, len(bias), *logits.shape[1:]) + bias[None]
        weights = attention.shown(jax.nn.softmax(places.reshape(logits.shape), axis=-1))
        return attention.merge_heads(weights.astype(v.dtype) @ v)

    def _bias(self, cut: window.Pair, full: window.Pair, shift: window.Pair) -> Float[Array, 'p h n n']:
        """Returns the bias of the logits, with the mask of shifted windows."""
        table = jnp.asarray(log_offsets(cut, self.pretrained_side))
        hidden = nn.relu(Dense(512, name='bias_up')(table))
        values = Dense(self.heads, False, name='bias_down')(hidden)
        bias = 16 * jax.nn.sigmoid(values[window.relative_index(cut)]).transpose(2, 0, 1)[None]
        if not any(shift):
            return bias
        return bias - 100.0 * window.apart(full, cut, shift)[:, None].astype(np.float32)


def log_offsets(cut: window.Pair, pretrained_side: int) -> Float[np.ndarray, 'm 2']:
    """Returns all relative offsets (dy, dx) within a window, row by row, on a logarithmic scale.

    Offsets d are scaled so that the largest one (that of `pretrained_side`, if it is given) is 8, and become
    ``sign(d) log2(|d| + 1) / log2(8)``.
    """
    axes = [np.arange(1 - side, side) * 8 / max((pretrained_side or side) - 1, 1) for side in cut]
    offsets = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(-1, 2)
    return (np.sign(offsets) * np.log2(np.abs(offsets) + 1) / np.log2(8)).astype(np.float32)


def _direction(x: Float[Array, 'v h n k']) -> Float[Array, 'v h n k']:
    """Returns ``x / max(|x|, 1e-12)``, whose gradient is finite also at 0."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(x.dtype)


class ZeroLayerNorm(nn.Module):
    """LayerNorm whose scale is initially 0, so that a block is initially the identity.

    Attributes:
        epsilon: torch's default.
        dtype: of the result.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Normalizes the last axis."""
        scale, bias = (self.param(name, jax.nn.initializers.zeros, (x.shape[-1],)) for name in ('scale', 'bias'))
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * scale[None, None, None] + bias[None, None, None]).astype(self.dtype)


class Merge(nn.Module):
    """Patch merging: 2x2 pixels to one of twice the width, then LayerNorm.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h2 w2 e']:
        """Returns a map of half the sides, rounded up."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = Dense(2 * channels, False, dtype=self.dtype, name='reduce')(x.reshape(*x.shape[:3], -1))
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class Stem(nn.Module):
    """Patches, then LayerNorm.

    Attributes:
        features: output channels.
        patch: side of the patches.
        dtype: compute type.
    """

    features: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map with one pixel per patch."""
        x = Patches(self.features, self.patch, dtype=self.dtype, name='patches')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class Stage(nn.Module):
    """The blocks of one resolution; every second block shifts its windows.

    Attributes:
        block: factory of a block, given `shifted`.
        depth: number of blocks.
        residual: factory of the connection that opens and closes the stream.
        remat, scan: see layers/frame/trunk.py; the blocks alternate, so `scan` compiles each of them.
    """

    block: Callable[..., nn.Module]
    depth: int
    residual: Callable[..., nn.Module]
    remat: bool
    scan: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the map after the stage, of the same shape; `masks` are those of its blocks."""
        join = self.residual(name='residual')
        s = join.open(x)
        for index, name in enumerate(trunk.names(self.depth)):
            block_masks = None if masks is None else masks[index : index + 1]
            blocks = [self.block(shifted=index % 2 == 1)(name=name)]
            s = trunk.run(self, blocks, s, block_masks, train=train, remat=self.remat, scan=self.scan)
        return join.close(s)


class SwinV2(ft.PyramidBackbone):
    """The network.

    Attributes:
        width: channels of the first stage; each stage doubles them.
        depths, heads: blocks and heads of each stage.
        window: side of the windows.
        pretrained_windows: side of the windows in pre-training for each stage, if it differs; see `WindowAttention`.
        patch: side of the patches.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see `Stage`.
    """

    width: int = 96
    depths: Sequence[int] = (2, 2, 6, 2)
    heads: Sequence[int] = (3, 6, 12, 24)
    window: int = 8
    pretrained_windows: Sequence[int] = (0, 0, 0, 0)
    patch: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = ZeroLayerNorm
    mixer: Callable[..., nn.Module] = WindowAttention
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.patch * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """96, 192, 384, 768 for the smallest."""
        return tuple(self.width * 2**index for index in range(len(self.depths)))

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; downsampling belongs to the block before it."""
        blocks = trunk.stage_paths(self.depths, [f'merge{index}' for index in range(1, len(self.depths))])
        return (('stem',), *map(tuple, blocks), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        patch_grid(*x.shape[1:3], self.patch)
        x = Stem(self.width, self.patch, self.dtype, name='stem')(x)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            x = Merge(self.dtype, name=f'merge{index}')(x) if index else x
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        x = LayerNorm(dtype=self.dtype, name='norm')(x)
        return {**features, ft.MAP: x, ft.POOLED: jnp.mean(x.astype(jnp.float32), axis=(1, 2))}

    def _stage(self, index: int) -> Stage:
        norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.mlp))
        mixer = functools.partial(
            self.mixer,
            heads=self.heads[index],
            side=self.window,
            dtype=self.dtype,
            pretrained_side=self.pretrained_windows[index],
        )

        def block(shifted: bool) -> Callable[..., nn.Module]:
            return functools.partial(PostNorm, norm, functools.partial(mixer, shifted=shifted), mlp, self.residual)

        return Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


# Section 4.1 of the paper; the names are timm's. The last ones are for weights from ImageNet-22k at 192 pixels.
_DEEP = (2, 2, 18, 2)
_SMALL = functools.partial(SwinV2, 96, _DEEP)
_BASE = functools.partial(SwinV2, 128, _DEEP, (4, 8, 16, 32))
_LARGE = functools.partial(SwinV2, 192, _DEEP, (6, 12, 24, 48))
_FROM_12 = {'pretrained_windows': (12, 12, 12, 6)}
VARIANTS = {
    'swinv2_tiny_window8_256': SwinV2(),
    'swinv2_tiny_window16_256': SwinV2(window=16),
    'swinv2_small_window8_256': _SMALL(),
    'swinv2_small_window16_256': _SMALL(window=16),
    'swinv2_base_window8_256': _BASE(),
    'swinv2_base_window16_256': _BASE(window=16),
    'swinv2_base_window12_192': _BASE(window=12),
    'swinv2_base_window12to16_192to256': _BASE(window=16, **_FROM_12),
    'swinv2_base_window12to24_192to384': _BASE(window=24, **_FROM_12),
    'swinv2_large_window12_192': _LARGE(window=12),
    'swinv2_large_window12to16_192to256': _LARGE(window=16, **_FROM_12),
    'swinv2_large_window12to24_192to384': _LARGE(window=24, **_FROM_12),
    'swinv2_test': SwinV2(16, (2, 1), (2, 4), window=3, pretrained_windows=(0, 2)),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2111.09883', (256, 256))
PUBLISHED = {
    'swinv2_tiny_window8_256': _PAPER(params=28, macs=5.9, top1=81.8),
    'swinv2_tiny_window16_256': _PAPER(params=28, macs=6.6, top1=82.8),
    'swinv2_small_window8_256': _PAPER(params=50, macs=11.5, top1=83.7),
    'swinv2_small_window16_256': _PAPER(params=50, macs=12.6, top1=84.1),
    'swinv2_base_window8_256': _PAPER(params=88, macs=20.3, top1=84.2),
    'swinv2_base_window16_256': _PAPER(params=88, macs=21.8, top1=84.6),
}


# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_BLOCK = (
    *((f'attn.{name}', f'mixer/{name}') for name in ('logit_scale', 'q_bias', 'v_bias')),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for a, b in _AFFINE
        for there, here in (
            ('attn.cpb_mlp.0', 'mixer/bias_up'),
            ('attn.cpb_mlp.2', 'mixer/bias_down'),
            ('attn.qkv', 'mixer/qkv'),
            ('attn.proj', 'mixer/out'),
            ('mlp.fc1', 'mlp/up'),
            ('mlp.fc2', 'mlp/down'),
        )
    ),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for a, b in _NORM
        for there, here in (('norm1', 'mixer_norm'), ('norm2', 'mlp_norm'))
    ),
    *((name, '') for name in ('attn.relative_position_index', 'attn.relative_coords_table', 'attn_mask')),
)
_STEM = (
    *((f'patch_embed.proj.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
    *((f'patch_embed.norm.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
)
_BLOCKS = tuple(('layers.{s}.blocks.{i}.' + a, 'backbone/stage{s}/block{i:02d}/' + b) for a, b in _BLOCK)
_LAST_NORM = tuple((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM)


def _merges(layers: str, first: int) -> tuple[tuple[str, str], ...]:
    """Names of the three mergings: with the stage before them (`first` is 0) or with the one after them."""
    return tuple(
        (f'{layers}.{s + first}.downsample.{there}', f'backbone/merge{s + 1}/{here}')
        for s in range(3)
        for there, here in (
            ('reduction.weight', 'reduce/kernel'),
            *((f'norm.{a}', f'norm/{b}') for a, b in _NORM),
        )
    )


_ATTENTION = 'attention.self.'
_TRANSFORMERS_BLOCK = (
    (f'{_ATTENTION}logit_scale', 'mixer/logit_scale'),
    *((f'{_ATTENTION}{name}.weight', f'mixer/qkv/kernel:{n}') for n, name in enumerate(('query', 'key', 'value'))),
    *((f'{_ATTENTION}{name}.bias', f'mixer/{name[0]}_bias') for name in ('query', 'value')),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for a, b in _AFFINE
        for there, here in (
            (f'{_ATTENTION}continuous_position_bias_mlp.0', 'mixer/bias_up'),
            (f'{_ATTENTION}continuous_position_bias_mlp.2', 'mixer/bias_down'),
            ('attention.output.dense', 'mixer/out'),
            ('intermediate.dense', 'mlp/up'),
            ('output.dense', 'mlp/down'),
        )
    ),
    *(
        (f'layernorm_{there}.{a}', f'{here}_norm/{b}')
        for a, b in _NORM
        for there, here in (('before', 'mixer'), ('after', 'mlp'))
    ),
    *((f'{_ATTENTION}relative_{name}', '') for name in ('position_index', 'coords_table')),
)
_TRANSFORMERS_NAMES = (
    *((f'embeddings.patch_embeddings.projection.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
    *((f'embeddings.norm.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
    *(
        ('encoder.layers.{s}.blocks.{i}.' + a, 'backbone/stage{s}/block{i:02d}/' + b if b else '')
        for a, b in _TRANSFORMERS_BLOCK
    ),
    *_merges('encoder.layers', 0),
    *((f'layernorm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
)
NAMES = {
    'SwinV2': (
        *_STEM,
        *_BLOCKS,
        *_merges('layers', 1),
        *_LAST_NORM,
        *((f'head.fc.{a}', f'head/{b}') for a, b in _AFFINE),
        *_TRANSFORMERS_NAMES,
    ),
}
# The authors' files count a merging with the stage before it, timm's with the one after it.
OTHER_NAMES = {
    'SwinV2': (
        (
            *_STEM,
            *_BLOCKS,
            *_merges('layers', 0),
            *_LAST_NORM,
            *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
        ),
    )
}
