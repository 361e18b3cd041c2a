"""ViG: gated linear attention for images, plain and hierarchical.

Liao et al., 2024, "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention",
https://arxiv.org/abs/2405.18425. Reference: https://github.com/hustvl/ViG (MIT), commit dfb9d32.

A block reads the image row by row as a sequence in both directions, which share q, k and v and have their own gates,

    S_t = exp(g_t) * S_{t-1} + k_t v_t^T,    o_t = (q_t / sqrt(K)) S_t,

and mixes the mean of both directions with its own input, ``m * norm(o) + (1 - m) * norm(x)``, where x is the output of
a 3x3 depthwise convolution.

Details of the published code that are not in the paper, kept here because the published weights need them:
  * outside of training plain ViG halves the output of the scan once more (`BiGLA.eval_scale`); a norm follows, so this
    has an effect only through the epsilon of that norm;
  * in each of the two norms of the mixture all heads share one scale;
  * the position table has weight decay (as every parameter of two or more axes);
  * plain ViG sets Xavier values in its mixers after the initialization of linear layers, so they prevail; the
    hierarchical network sets them before it, so only the depthwise convolutions keep them. Its truncated normal is cut
    at 100 standard deviations, which is the normal distribution.
Where we differ: a stem whose patch is not 16 (hierarchical: 4) has the total stride of the patch, and the position
table has the size of the grid that its convolutions really make.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.gla import bidirectional_gla
from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.convolutions.conv import DepthwiseConv
from longview.modelzoo.layers.frame import init, meta_next, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import SwiGLU
from longview.modelzoo.layers.frame.patch import ConvStem, Downsample, pair, stem_grid
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import LayerNorm, RMSNorm
from longview.modelzoo.layers.residuals.residual import Add


def identity(x: Array) -> Array:
    """No activation."""
    return x


class BiGLA(nn.Module):
    """Bidirectional gated linear attention with 2-D locality.

    Attributes:
        heads: number of heads.
        expand_k: width of queries and keys over the width of the values.
        gate_rank: rank of the product of the two matrices that compute the gates.
        gate_divisor: log gates are divided by this, so that states decay slowly.
        conv_activation: activation after the depthwise convolution.
        out_activation: activation before the last matrix.
        eval_scale: factor on the output of the scan outside of training.
        kernel_init: initial values of all matrices.
        dtype: compute type; gates and states are float32.
    """

    heads: int
    expand_k: float = 0.5
    gate_rank: int = 16
    gate_divisor: float = 16.0
    conv_activation: Callable[[Array], Array] = identity
    out_activation: Callable[[Array], Array] = identity
    eval_scale: float = 1.0
    kernel_init: init.Initializer = init.xavier_uniform(2**-2.5)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels of a map."""
        width = x.shape[-1]
        conv = DepthwiseConv(3, init.xavier_uniform(2**-2.5), self.dtype, name='conv')
        local = self.conv_activation(conv(x)).reshape(x.shape[0], -1, width)
        mixed = self._scan(local) * (0.5 if train else 0.5 * self.eval_scale)
        mix = self._heads(nn.sigmoid(self._linear(width, 'mix', bias=True)(local)))
        mixed = RMSNorm(dtype=self.dtype, name='scan_norm')(mixed)
        local = RMSNorm(dtype=self.dtype, name='local_norm')(self._heads(local))
        out = self.out_activation(mixed * mix + local * (1 - mix)).reshape(x.shape)
        return self._linear(width, 'out')(out)

    def _scan(self, local: Float[Array, 'b t d']) -> Float[Array, 'b t n v']:
        """Returns the sum of the scans in both directions."""
        width, keys = local.shape[-1], self._keys(local.shape[-1])
        qkv = self._linear(2 * keys + width, 'qkv')(local)
        q, k, v = map(self._heads, jnp.split(qkv, (keys, 2 * keys), axis=-1))
        gates = self._linear(self.gate_rank, 'gate_down')(local).astype(jnp.float32)
        gates = self._linear(2 * keys, 'gate_up', bias=True, dtype=jnp.float32)(gates)
        gates = jax.nn.log_sigmoid(gates) / self.gate_divisor
        return bidirectional_gla(q, k, v, *map(self._heads, jnp.split(gates, 2, axis=-1)))

    def _keys(self, width: int) -> int:
        keys = int(width * self.expand_k)
        if width % self.heads or keys % self.heads:
            raise ValueError(
                f'width {width} and its {keys} keys do not divide into {self.heads} heads: change width or heads.'
            )
        return keys

    def _heads(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t n k']:
        return x.reshape(*x.shape[:2], self.heads, -1)

    def _linear(self, features: int, name: str, *, bias: bool = False, dtype: DTypeLike | None = None) -> Dense:
        return Dense(features, bias, self.kernel_init, dtype or self.dtype, name=name)


class ViG(ft.TokenBackbone):
    """The plain network: one resolution.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        heads: heads of each block.
        patch: stride of the stem, an even number.
        image_size: image size of the position table, a side or (height, width). For images of any other size that
            the patch divides the table is resized.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp, residual: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = RMSNorm
    mixer: Callable[..., nn.Module] = functools.partial(BiGLA, eval_scale=0.5)
    mlp: Callable[..., nn.Module] = SwiGLU
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts; `grid` raises ValueError for an `image_size` that does not fit."""
        self.stem = ConvStem(self.width, self.patch, nn.silu, self.dtype)
        rows, columns = self._table_grid()
        self.pos_embed = self.param('pos_embed', init.trunc_normal(0.02), (1, rows * columns, self.width))
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        parts['mixer'] = functools.partial(parts['mixer'], heads=self.heads)
        self.blocks = [PreNorm(**parts, residual=self.residual, name=name) for name in trunk.names(self.depth)]
        self.join = self.residual()
        self.last_norm = parts['norm'](name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with the position table, each block, the last norm."""
        return (('stem', 'pos_embed'), *((name,) for name in trunk.names(self.depth)), ('norm',))

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        grid = self.grid(*x.shape[1:3])
        tokens = self.embed(x)
        features = self.encode(tokens + self.positions(grid), grid, train=train)
        return {ft.STEM: tokens.reshape(x.shape[0], *grid, self.width), **features}

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of tokens."""
        return stem_grid(height, width, self.patch)

    def embed(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
        """Returns the pixels of the stem, row by row, without positions."""
        return self.stem(x).reshape(x.shape[0], -1, self.width)

    def positions(self, grid: ft.Grid) -> Float[Array, '1 n d']:
        """Returns the position table, resized if `grid` is another one."""
        return posemb.resize(self.pos_embed, self._table_grid(), grid).astype(self.dtype)

    def encode(self, tokens: Float[Array, 'b n d'], grid: ft.Grid | None, *, train: bool = False) -> ft.Features:
        """Runs the blocks on a whole grid of tokens.

        Raises:
            ValueError: `grid` is None; the blocks convolve the tokens as a map.
        """
        if grid is None:
            raise ValueError(
                'ViG convolves its tokens as an image, so it cannot encode a subset of them: '
                'replace tokens instead of dropping them.'
            )
        masks = path_masks(self, self.drop_path, self.depth, tokens.shape[0], train=train)
        s = self.join.open(tokens.reshape(tokens.shape[0], *grid, self.width))
        s = trunk.run(self, self.blocks, s, masks, train=train, remat=self.remat, scan=self.scan)
        x = self.last_norm(self.join.close(s))
        return {ft.TOKENS: x.reshape(tokens.shape), ft.MAP: x, ft.POOLED: global_mean(x)}

    def _table_grid(self) -> ft.Grid:
        return self.grid(*pair(self.image_size))


class HierViG(ft.PyramidBackbone):
    """The hierarchical network: four resolutions, no position table.

    Attributes:
        width: channels of the first stage; each stage doubles them.
        depths, heads: blocks and heads of each stage.
        patch: stride of the stem, an even number.
        drop_path, dtype, remat, scan, norm, mixer, mlp, residual: as in `ViG`; scan runs within each stage.
    """

    width: int = 96
    depths: Sequence[int] = (2, 2, 5, 2)
    heads: Sequence[int] = (3, 6, 12, 24)
    patch: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mixer: Callable[..., nn.Module] = functools.partial(BiGLA, kernel_init=init.trunc_normal(0.02))
    mlp: Callable[..., nn.Module] = functools.partial(SwiGLU, multiple_of=32)
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
        return meta_next.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        stem_grid(*x.shape[1:3], self.patch)
        gelu = functools.partial(nn.gelu, approximate=False)
        x = ConvStem(self.channels[0], self.patch, gelu, self.dtype, name='stem')(x)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
            if index + 1 < len(self.depths):
                x = Downsample(self.channels[index + 1], self.dtype, name=f'down{index}')(x)
        x = self.norm(dtype=self.dtype, name='norm')(x)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stage(self, index: int) -> trunk.Stage:
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        parts['mixer'] = functools.partial(parts['mixer'], heads=self.heads[index])
        block = functools.partial(PreNorm, **parts, residual=self.residual)
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


# The sizes of tables 1 and 3 of the paper; widths, heads, activations and drop rates are those of the published
# configurations (classification/configs). All were trained for 300 epochs at 224 pixels.
VARIANTS = {
    'vig_tiny': ViG(
        192, heads=3, mixer=functools.partial(BiGLA, eval_scale=0.5, conv_activation=nn.silu, out_activation=nn.silu)
    ),
    'vig_small': ViG(384, heads=6, drop_path=0.2),
    'vig_base': ViG(768, heads=12, drop_path=0.5),
    'vig_h_tiny': HierViG(96, drop_path=0.2),
    'vig_h_small': HierViG(96, (2, 2, 17, 2), drop_path=0.3),
    'vig_h_base': HierViG(128, (2, 2, 17, 2), (4, 8, 16, 32), drop_path=0.6),
    'vig_test': ViG(32, 2, 2, patch=4, image_size=16, mlp=functools.partial(SwiGLU, multiple_of=16)),
    'vig_h_test': HierViG(16, (1, 2), (1, 2)),
}

# Multiply-adds: the abstract says 20 % of DeiT-B's 17.5 G. With the plain recurrence ours are 4.42 G; the published
# network ends its feed-forward layers in one fused operation, and without those matrices the count is 3.49 G.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2405.18425', (224, 224))
PUBLISHED = {
    'vig_tiny': _PAPER(params=6, top1=77.2),
    'vig_small': _PAPER(params=23, macs=3.5, top1=81.7),
    'vig_base': _PAPER(params=89, top1=82.6),
    'vig_h_tiny': _PAPER(params=29, top1=82.8),
    'vig_h_small': _PAPER(params=50, top1=83.8),
    'vig_h_base': _PAPER(params=89, top1=84.2),
}


def _refit(backbone: ViG, path: str, table: np.ndarray) -> np.ndarray:
    return posemb.refit(table, backbone.grid(*pair(backbone.image_size)))


RESIZE = {'ViG': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_MIXER = (
    ('in_proj.0.weight', 'conv/kernel'),
    ('qkv_proj.weight', 'qkv/kernel'),
    ('gk_proj.0.weight', 'gate_down/kernel'),
    ('gk_proj.1.weight', 'gate_up/kernel'),
    ('gk_proj.1.bias', 'gate_up/bias'),
    ('g_norm.weight', 'scan_norm/scale'),
    ('l_norm.weight', 'local_norm/scale'),
    ('g_proj.weight', 'mix/kernel'),
    ('g_proj.bias', 'mix/bias'),
    ('o_proj.weight', 'out/kernel'),
)
_LAYER_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
NAMES = {
    'ViG': (
        ('pos_embed', 'backbone/pos_embed'),
        *((f'patch_embed.proj.0.{a}', f'backbone/stem/conv0/{b}') for a, b in _AFFINE),
        *((f'patch_embed.proj.1.{a}', f'backbone/stem/norm0/{b}') for a, b in _LAYER_NORM),
        *((f'patch_embed.proj.3.{a}', f'backbone/stem/conv1/{b}') for a, b in _AFFINE),
        *((f'patch_embed.proj.4.{a}', f'backbone/stem/norm1/{b}') for a, b in _LAYER_NORM),
        ('blocks.{i}.attn_norm.weight', 'backbone/block{i:02d}/mixer_norm/scale'),
        *(('blocks.{i}.attn.' + a, 'backbone/block{i:02d}/mixer/' + b) for a, b in _MIXER),
        ('blocks.{i}.mlp_norm.weight', 'backbone/block{i:02d}/mlp_norm/scale'),
        ('blocks.{i}.mlp.gate_proj.weight', 'backbone/block{i:02d}/mlp/up/kernel'),
        ('blocks.{i}.mlp.down_proj.weight', 'backbone/block{i:02d}/mlp/down/kernel'),
        ('norm.weight', 'backbone/norm/scale'),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
    'HierViG': (
        *((f'patch_embed.0.{a}', f'backbone/stem/conv0/{b}') for a, b in _AFFINE),
        *((f'patch_embed.2.{a}', f'backbone/stem/norm0/{b}') for a, b in _LAYER_NORM),
        *((f'patch_embed.5.{a}', f'backbone/stem/conv1/{b}') for a, b in _AFFINE),
        *((f'patch_embed.7.{a}', f'backbone/stem/norm1/{b}') for a, b in _LAYER_NORM),
        *(
            ('layers.{s}.blocks.{i}.norm.' + a, 'backbone/stage{s}/block{i:02d}/mixer_norm/' + b)
            for a, b in _LAYER_NORM
        ),
        *(('layers.{s}.blocks.{i}.op.' + a, 'backbone/stage{s}/block{i:02d}/mixer/' + b) for a, b in _MIXER),
        *(('layers.{s}.blocks.{i}.norm2.' + a, 'backbone/stage{s}/block{i:02d}/mlp_norm/' + b) for a, b in _LAYER_NORM),
        ('layers.{s}.blocks.{i}.mlp.fc1.weight', 'backbone/stage{s}/block{i:02d}/mlp/up/kernel'),
        ('layers.{s}.blocks.{i}.mlp.fc2.weight', 'backbone/stage{s}/block{i:02d}/mlp/down/kernel'),
        *(('layers.{s}.downsample.1.' + a, 'backbone/down{s}/conv/' + b) for a, b in _AFFINE),
        *(('layers.{s}.downsample.3.' + a, 'backbone/down{s}/norm/' + b) for a, b in _LAYER_NORM),
        *((f'classifier.norm.{a}', f'backbone/norm/{b}') for a, b in _LAYER_NORM),
        *((f'classifier.head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
