"""DuoFormer: attention between the scales of a convolutional pyramid within each region, then between regions.

Tang et al., 2025, "DuoFormer: Leveraging Hierarchical Representations by Local and Global Attention Vision
Transformer", https://arxiv.org/abs/2506.12982. Reference: https://github.com/AliSerwat/duoformer_TCGA (no licence
file), commit 69b7441, a mirror of the authors' https://github.com/xiaoyatang/duoformer_TCGA; models/model.py and
multi_vision_transformer.py, and for the networks called scratch model_wo_extra_params.py and scale_attention.py.

A pixel of the pyramid's last stage is a region. Its tokens are that pixel, those of earlier stages that it covers, all
projected to one width, and before them a scale token, made of all stages by convolutions or learned. Blocks of a
transformer mix the tokens of each region (scale attention); the first token of each region and a class token then
attend to each other (patch attention), and the class token is classified. Any pyramid may be the trunk.

Details of the published code that are not in the paper, kept here:
  * layers of patch attention have neither normalization nor residual connection nor feed-forward layer;
  * each after the first reads the first one's answer, so only the last one counts; the others are parameters without
    a gradient. In the scratch networks each reads the one before;
  * logits are scaled by 2 / sqrt(width), not by the width of a head, in both kinds of attention; in the scratch
    networks by 1 / sqrt(width of a head), and the class token is classified without its normalization;
  * four tokens of a region are ordered by columns, sixteen and sixty-four by rows.

Where we differ: images of any size are taken. Maps are filled up with zeros to whole regions, and positions resized as
timm resizes them. Positions of scales begin with a deviation of 0.036 as there, those of regions and the class token as
in timm. There is no dropout, whose rates are 0 in the reference's script. Its ResNet is torchvision's pretrained one,
ours starts at random. In the scratch networks the reference passes arguments that its classes do not take, and of two
scales a table of another length than there are tokens: only their parts run as committed.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb, window
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, Stem, projection
from longview.modelzoo.layers.frame import init, pyramid, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.pool import global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

_HE = jax.nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
_ZEROS = jax.nn.initializers.zeros
_NORM = functools.partial(LayerNorm, epsilon=1e-6)


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + branch(x))`` of ResNet-50, in torchvision's form: the 3x3 convolution has the stride.

    Attributes:
        features: output channels, four times those inside.
        stride: of the block.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        y = nn.relu(conv(self.features // 4, 1, name='conv1')(x, train=train))
        y = nn.relu(conv(self.features // 4, 3, self.stride, name='conv2')(y, train=train))
        y = conv(self.features, 1, name='conv3')(y, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = projection(self.features, self.stride, self.norm, self.dtype, 'shortcut')(x, train=train)
        return nn.relu(x + drop_path(y, mask))


class Trunk(ft.HalvingBackbone):
    """ResNet-50, as torchvision has it; its classifier is left out.

    Attributes:
        depths, widths: blocks and output channels of each stage.
        stem_width: channels after the stem.
        stem_stride: 4, or 1 for small images.
        norm: factory of every normalization.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    stem_width: int = 64
    stem_stride: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return pyramid.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        stem = Stem(self.stem_width, self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        block = functools.partial(Bottleneck, norm=self.norm, dtype=self.dtype)
        stages = pyramid.halving(block, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}


class ChannelTokens(nn.Module):
    """One token for each region, of all stages: they are brought to its size, joined and convolved.

    A stage is halved by convolutions of stride 2, and the last time by max-pooling.

    Attributes:
        features: output channels.
        depth: convolutions with normalization after the stages are joined.
        norm: factory of these.
        dtype: compute type.
    """

    features: int
    depth: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, 'b _ _ _']], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Returns a map of the last one's size; sides of the others are that times a power of 2."""
        conv = functools.partial(Conv, padding=1, dtype=self.dtype, kernel_init=_HE, bias_init=_ZEROS)
        joined = []
        for stage, x in enumerate(maps):
            halvings = int(math.log2(x.shape[1] // maps[-1].shape[1]))
            for index in range(1, halvings):
                x = conv(x.shape[-1], 3, 2, name=f'stage{stage}_conv{index}')(x)
            joined.append(max_pool(x, 2, 2, 0) if halvings else x)
        x = jnp.concatenate(joined, axis=-1)
        for index in range(self.depth):
            x = conv(self.features, 3, 1, name=f'conv{index}')(x)
            x = nn.relu(self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train))
        return x


class Former(nn.Module):
    """Scale attention within regions, then patch attention between them and a class token.

    Attributes:
        depth: blocks of scale attention, and layers of patch attention.
        heads: number of heads; divides the width.
        grid: rows and columns of regions that the positions are for; for others they are resized.
        scale: of the logits; 1 / sqrt(K) by default.
        chained: whether each layer of patch attention reads the one before, and not the first one.
        residual: factory of the connections of the blocks.
        dtype: compute type; softmaxes are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    depth: int
    heads: int
    grid: ft.Grid
    scale: float | None = None
    chained: bool = False
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w s d'], masks: Float[Array, 'l r b'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b n d']:
        """Returns the class token and then those of the regions; `masks` are those of the blocks."""
        (batch, *grid, places, width), regions = x.shape, x.shape[1] * x.shape[2]
        attention = functools.partial(Attention, self.heads, dtype=self.dtype, scale=self.scale)
        table = self.param('scale_pos_embed', init.trunc_normal(0.036), (1, 1, places, width))
        x = x.reshape(batch * regions, places, width) + table[0].astype(self.dtype)
        mlp = functools.partial(Mlp, dtype=self.dtype)
        block = functools.partial(PreNorm, functools.partial(_NORM, dtype=self.dtype), attention, mlp, self.residual)
        blocks = [block(name=f'scale{index:02d}') for index in range(self.depth)]
        masks = None if masks is None else jnp.repeat(masks, regions, axis=-1)
        x = trunk.run(self, blocks, x, masks, train=train, remat=self.remat, scan=self.scan)
        tokens = self._with_class(x[:, 0].reshape(batch, regions, width), tuple(grid))
        y = first = attention(name='patch00')(tokens)
        for index in range(1, self.depth):
            y = attention(name=f'patch{index:02d}')(y if self.chained else first)
        return y

    def _with_class(self, x: Float[Array, 'b n d'], grid: ft.Grid) -> Float[Array, 'b m d']:
        width = x.shape[-1]
        token = self.param('cls_token', jax.nn.initializers.normal(1e-6), (1, 1, width))
        table = self.param('pos_embed', init.trunc_normal(0.02), (1, 1 + self.grid[0] * self.grid[1], width))
        places = posemb.resize(table[:, 1:], self.grid, grid, matrix=posemb.smooth_cubic_matrix)
        token = jnp.broadcast_to(token + table[:, :1], (x.shape[0], 1, width))
        return jnp.concatenate([token.astype(self.dtype), x + places.astype(self.dtype)], axis=1)


class DuoFormer(ft.PyramidBackbone):
    """The network.

    Attributes:
        trunk: factory of the pyramid, called with `dtype`; sides halve from stage to stage.
        width, depth, heads: of the transformer; see `Former`.
        scales: how many of the pyramid's last stages have tokens.
        channel_token: whether the scale token is made of all stages; else it is learned.
        grid: rows and columns of regions that the positions are for.
        scale: what logits are multiplied by, times sqrt(width); None for 1 / sqrt(K).
        chained, residual: see `Former`.
        last_norm: whether the tokens that are read are normalized.
        norm: factory of the batch normalizations of the channel tokens.
        drop_path: stochastic depth of the last block of scale attention; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether blocks are recomputed in the backward pass.
        scan: how the blocks of scale attention run; see layers/frame/trunk.py.
    """

    trunk: Callable[..., ft.PyramidBackbone] = Trunk
    width: int = 768
    depth: int = 12
    heads: int = 12
    scales: int = 2
    channel_token: bool = True
    grid: ft.Grid = (7, 7)
    scale: float | None = 2.0
    chained: bool = False
    residual: Callable[..., nn.Module] = functools.partial(LayerScale, initial=1e-5)
    last_norm: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """The trunk's."""
        return self.trunk(parent=None).strides

    @property
    def channels(self) -> tuple[int, ...]:
        """The trunk's."""
        return self.trunk(parent=None).channels

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The trunk's, what makes tokens, each block, each layer of patch attention, the last norm."""
        below = [tuple(f'trunk/{path}' for path in group) for group in self.trunk(parent=None).layers]
        token = 'channel_tokens' if self.channel_token else 'scale_token'
        made = (token, *(f'project{stage}' for stage in self._stages), 'former/scale_pos_embed')
        blocks = [(f'former/scale{index:02d}',) for index in range(self.depth)]
        patches = [(f'former/patch{index:02d}',) for index in range(self.depth)]
        patches[0] += ('former/cls_token', 'former/pos_embed')
        return (*below, made, *blocks, *patches, ('norm',))

    @property
    def _stages(self) -> range:
        """The stages that have tokens, the last one first."""
        last = len(self.strides) - 1
        return range(last, last - self.scales, -1)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns the trunk's ``stem`` and stages, ``map``, the tokens of regions, and ``pooled``, the class token.

        Raises:
            ValueError: the trunk has fewer stages than there are scales.
        """
        if not 1 <= self.scales <= len(self.strides):
            raise ValueError(f'scales is {self.scales} and the trunk has {len(self.strides)} stages: use 1 to that.')
        found = self.trunk(dtype=self.dtype, remat=self.remat, name='trunk')(x, train=train)
        stages = {ft.stage(index): found[ft.stage(index)] for index in range(len(self.strides))}
        tokens = self._tokens(list(stages.values()), train=train)
        former = Former(
            self.depth,
            self.heads,
            self.grid,
            None if self.scale is None else self.scale * self.width**-0.5,
            self.chained,
            self.residual,
            self.dtype,
            self.remat,
            self.scan,
            name='former',
        )
        masks = path_masks(self, self.drop_path, self.depth, x.shape[0], train=train)
        y = former(tokens, masks, train=train)
        y = _NORM(dtype=self.dtype, name='norm')(y) if self.last_norm else y
        image = y[:, 1:].reshape(*tokens.shape[:3], self.width)
        return {ft.STEM: found[ft.STEM], **stages, ft.MAP: image, ft.POOLED: y[:, 0].astype(jnp.float32)}

    def _tokens(self, maps: Sequence[Float[Array, 'b _ _ _']], *, train: bool) -> Float[Array, 'b h w s d']:
        """Returns the tokens of each region."""
        size = maps[-1].shape[1:3]
        sides = [self.strides[-1] // stride for stride in self.strides]
        maps = [_filled(x, (size[0] * side, size[1] * side)) for x, side in zip(maps, sides)]
        if self.channel_token:
            token = ChannelTokens(self.width, norm=self.norm, dtype=self.dtype, name='channel_tokens')
            tokens = [token(maps, train=train)[:, :, :, None]]
        else:
            token = self.param('scale_token', jax.nn.initializers.normal(0.036), (1, 1, 1, self.width))
            tokens = [jnp.broadcast_to(token[None].astype(self.dtype), (maps[-1].shape[0], *size, 1, self.width))]
        for stage in self._stages:
            project = Dense(self.width, kernel_init=_HE, dtype=self.dtype, name=f'project{stage}')
            tokens.append(by_region(project(maps[stage]), sides[stage]))
        return jnp.concatenate(tokens, axis=3)


class ScratchDuoFormer(DuoFormer):
    """The network that its authors train from scratch; its published names are others.

    Attributes:
        scales, channel_token, scale, chained, residual, last_norm: as in `DuoFormer`.
    """

    scales: int = 3
    channel_token: bool = False
    scale: float | None = None
    chained: bool = True
    residual: Callable[..., nn.Module] = Add
    last_norm: bool = False


def by_region(x: Float[Array, 'b h w d'], side: int) -> Float[Array, 'b r c s d']:
    """Returns the pixels of each region of side x side: by rows, but four of them by columns."""
    rows, columns = (length // side for length in x.shape[1:3])
    x = window.partition(x, (side, side)).reshape(x.shape[0], rows, columns, side * side, x.shape[-1])
    return x[:, :, :, jnp.array([0, 2, 1, 3])] if side == 2 else x


def _filled(x: Array, size: ft.Grid) -> Array:
    return jnp.pad(x, [(0, 0), *((0, wanted - side) for side, wanted in zip(x.shape[1:3], size)), (0, 0)])


# The sizes are those of the reference's script, but for scales.
_TINY = functools.partial(Trunk, (1, 1, 1), (8, 12, 16), stem_width=8)
VARIANTS = {
    'duoformer_r50_s2': DuoFormer(),
    'duoformer_scratch_r50_s3': ScratchDuoFormer(),
    'duoformer_scratch_r50_s4': ScratchDuoFormer(scales=4),
    'duoformer_test': DuoFormer(_TINY, 12, 2, 2, grid=(2, 2)),
}

# Its results are of medical images, not of ImageNet.
PUBLISHED: dict[str, ft.Published] = {}


def _refit(backbone: DuoFormer, path: str, table: Array) -> Array:
    return posemb.refit(table, backbone.grid, before=1, matrix=posemb.smooth_cubic_matrix)


RESIZE = {'DuoFormer': _refit, 'ScratchDuoFormer': _refit}

# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_SCALED = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_SCALED, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_MLP = (('fc1', 'up'), ('fc2', 'down'))
_NORMS = (('norm1', 'mixer_norm'), ('norm2', 'mlp_norm'))


def _scale_names(there: str, qkv: str, out: str) -> tuple[tuple[str, str], ...]:
    here = 'former/scale{i:02d}/'
    return (
        *((f'{there}.{a}.{c}', f'{here}{b}/{d}') for a, b in _NORMS for c, d in _SCALED),
        *(
            (f'{there}.attn.{a}.{c}', f'{here}mixer/{b}/{d}')
            for a, b in ((qkv, 'qkv'), (out, 'out'))
            for c, d in _AFFINE
        ),
        *((f'{there}.mlp.{a}.{c}', f'{here}mlp/{b}/{d}') for a, b in _MLP for c, d in _AFFINE),
        (f'{there}.ls1.gamma', f'{here}mixer_residual/scale'),
        (f'{there}.ls2.gamma', f'{here}mlp_residual/scale'),
    )


def former_names(*, scratch: bool) -> tuple[tuple[str, str], ...]:
    """Returns the names of the transformer alone, with the norm behind it."""
    scales = ('scaleBlocks.{i}', 'qkv', 'proj') if scratch else ('blocks.{i}', 'qkv1', 'proj1')
    return (
        ('cls_token', 'former/cls_token'),
        ('pos_embed', 'former/pos_embed'),
        ('pos_embed_for_scale', 'former/scale_pos_embed'),
        *_scale_names(*scales),
        *(
            (f'blocks.{{i}}.attn.{a}.{c}', f'former/patch{{i:02d}}/{b}/{d}')
            for a, b in (('qkv', 'qkv'), ('proj', 'out'))
            for c, d in _AFFINE
        ),
        *((f'norm.{a}', f'norm/{b}') for a, b in _SCALED),
        # What the reference has and does not use.
        *((f'blocks.{{i}}.attn.{a}_norm.{b}', '') for a in 'qk' for b, _ in _SCALED),
        *((f'{name}.{a}', '') for name in ('patch_embed.proj', 'fc_norm') for a, _ in _AFFINE),
    )


_TRUNK = (
    ('resnet_projector.0.weight', 'trunk/stem/conv/kernel'),
    *((f'resnet_projector.1.{a}', f'trunk/stem/norm/{b}') for a, b in _BATCH),
    *(
        pair
        for stage in range(4)
        for there, here in ((f'resnet_projector.{stage + 4}.{{i}}.', f'trunk/stage{stage}/block{{i:02d}}/'),)
        for pair in (
            (f'{there}conv{{k}}.weight', f'{here}conv{{k}}/conv/kernel'),
            *((f'{there}bn{{k}}.{a}', f'{here}conv{{k}}/norm/{b}') for a, b in _BATCH),
            (f'{there}downsample.0.weight', f'{here}shortcut/conv/kernel'),
            *((f'{there}downsample.1.{a}', f'{here}shortcut/norm/{b}') for a, b in _BATCH),
        )
    ),
)
_TOKENS = (
    *((f'chann_proj{{s+1}}.conv{{k}}.{a}', f'channel_tokens/stage{{s}}_conv{{k}}/{b}') for a, b in _AFFINE),
    *((f'chann_proj_all.nConvs.{{k}}.conv.{a}', f'channel_tokens/conv{{k}}/{b}') for a, b in _AFFINE),
    *((f'chann_proj_all.nConvs.{{k}}.norm.{a}', f'channel_tokens/norm{{k}}/{b}') for a, b in _BATCH),
    ('channel_token', 'scale_token'),
    *((f'projection.proj_heads{{s}}.{a}', f'project{{s}}/{b}', *axes) for (a, b), axes in zip(_AFFINE, ((2,), ()))),
)


def _names(*, scratch: bool) -> tuple[tuple, ...]:
    return (
        *((there, f'backbone/{here}', *axes) for there, here, *axes in (*_TRUNK, *_TOKENS)),
        *(
            (f'vision_transformer.{there}', here and f'backbone/{here}')
            for there, here in former_names(scratch=scratch)
        ),
        *((f'vision_transformer.head.{a}', f'head/{b}') for a, b in _AFFINE),
    )


NAMES = {'DuoFormer': _names(scratch=False), 'ScratchDuoFormer': _names(scratch=True)}
