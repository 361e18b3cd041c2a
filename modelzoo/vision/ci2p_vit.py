"""CI2P-ViT: a ViT whose patch embedding is the frozen encoder of a network that compresses images.

"Compress image to patches for Vision Transformer", 2025, https://arxiv.org/abs/2502.10120. Reference:
https://github.com/fanchy/ci2pvit (Apache-2.0), commit 167538b, base_model.py, mmobj.py and mmbase_cfg.py, on mmpretrain
1.2.0 (Apache-2.0) and CompressAI 1.2.8 (BSD-3-Clause-Clear).

Pixels from 0 to 1 pass the analysis transform of a factorized-prior model, a sixteenth of the image's sides with 192
channels, which is not trained; two inverted residuals halve the sides once more and make 768 channels. Of 256x256
pixels there are 64 tokens, a quarter of a ViT-B/16's. The ViT has neither a class token nor positions and reads the
mean of its tokens. LayerNorm's epsilon is 1e-6, GELU is the exact one.

The network of two scales (``ds``) has 16x16 tokens of 192 channels, as the encoder leaves them, in the first half of
its blocks; the second inverted residual then makes the 8x8 tokens of 768 channels that the other half reads.

The published configuration builds the encoder with ReLU, and loads into it the weights of one with GDN, whose GDN it
drops: ``norm=None`` is that network, ``norm=gdn.GDN`` the encoder that fits the weights. The last commit switches off
the step between the two scales, and runs all blocks with 192 channels; ours has the step.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.convolutions.compression import Analysis, analysis_names
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Squeeze(nn.Module):
    """Squeeze-and-excitation with a piecewise linear sigmoid; the hidden width is rounded as in MobileNetV3.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the rescaled map."""
        y = nn.relu(Dense(squeezed(x.shape[-1]), dtype=self.dtype, name='down')(global_mean(x)))
        y = Dense(x.shape[-1], dtype=self.dtype, name='up')(y)
        return x * jax.nn.hard_sigmoid(y)[:, None, None]


def squeezed(width: int) -> int:
    """Returns a quarter, rounded to a multiple of 8 that is not below 90 % of it."""
    rounded = max(8, int(width / 4 + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width / 4 else rounded + 8


class InvertedResidual(nn.Module):
    """A matrix to more channels, a depthwise convolution, squeeze-and-excitation, a matrix back; norms behind each.

    Attributes:
        features, hidden: output channels and those between.
        kernel_size, stride: of the depthwise convolution.
        dtype: compute type.
    """

    features: int
    hidden: int
    kernel_size: int = 3
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map, to which the input is added where it has the shape."""
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        y = jax.nn.hard_swish(conv(self.hidden, 1, name='up')(x, train=train))
        depthwise = conv(self.hidden, self.kernel_size, self.stride, groups=self.hidden, name='conv')
        y = Squeeze(self.dtype, name='squeeze')(jax.nn.hard_swish(depthwise(y, train=train)))
        y = conv(self.features, 1, name='down')(y, train=train)
        return x + y if y.shape == x.shape else y


class Patches(nn.Module):
    """The encoder and two inverted residuals, of which the second halves the sides.

    Attributes:
        features: output channels; None for the map before the second inverted residual, with the encoder's.
        widths, norm: as in `Analysis`.
        frozen: whether the encoder's parameters get no gradient.
        dtype: compute type.
    """

    features: int | None
    widths: Sequence[int] = (128, 128, 128, 192)
    norm: Callable[..., nn.Module] | None = None
    frozen: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map; pixels are from 0 to 1."""
        encoder = Analysis
        if self.frozen:
            encoder = nn.map_variables(Analysis, 'params', jax.lax.stop_gradient, init=self.is_initializing())
        y = encoder(self.widths, self.norm, self.dtype, name='encoder')(x)
        width = self.widths[-1]
        y = InvertedResidual(width, 4 * width, dtype=self.dtype, name='reshape0')(y, train=train)
        if self.features is None:
            return y
        return halved(self.features, width, self.dtype, 'reshape1')(y, train=train)


def halved(features: int, width: int, dtype: DTypeLike, name: str) -> InvertedResidual:
    """Returns the inverted residual that halves the sides of a map of `width` channels."""
    return InvertedResidual(features, 6 * width, 5, 2, dtype, name=name)


class CI2PViT(ft.Backbone):
    """The network.

    Attributes:
        width, depth, heads: channels of the tokens, number of blocks, heads of each.
        encoder: output channels of the encoder's convolutions.
        encoder_norm: factory of the normalizations between these; None for ReLU.
        frozen: whether the encoder's parameters get no gradient; an optimizer must not decay them then.
        pixels: mean and deviation of each channel by which images were normalized, which is undone.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mixer, mlp: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
        early_heads: heads of the first half of the blocks where these run at the encoder's resolution and width; None
            for a network of one scale.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    encoder: Sequence[int] = (128, 128, 128, 192)
    encoder_norm: Callable[..., nn.Module] | None = None
    frozen: bool = True
    pixels: tuple[Sequence[float], Sequence[float]] = IMAGENET
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mixer: Callable[..., nn.Module] = Attention
    mlp: Callable[..., nn.Module] = Mlp
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False
    early_heads: int | None = None

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding, each block, the last norm; the step between two scales joins the block before it."""
        blocks = [[name] for name in trunk.names(self.depth)]
        if self.early_heads is not None:
            blocks[self.depth // 2 - 1].append('middle')
        return (('stem',), *map(tuple, blocks), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``, the mean of the tokens."""
        mean, deviation = (jnp.asarray(values, x.dtype)[None, None, None] for values in self.pixels)
        early = self.early_heads is not None
        patches = Patches(
            None if early else self.width, self.encoder, self.encoder_norm, self.frozen, self.dtype, name='stem'
        )
        stem = x = patches(x * deviation + mean, train=train)
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        masks = path_masks(self, self.drop_path, self.depth, x.shape[0], train=train)
        half = self.depth // 2 if early else 0
        if early:
            tokens = self._run(x, slice(half), self.early_heads, parts, masks, train=train)
            x = halved(self.width, self.encoder[-1], self.dtype, 'middle')(tokens.reshape(x.shape), train=train)
        tokens = self._run(x, slice(half, self.depth), self.heads, parts, masks, train=train)
        tokens = parts['norm'](name='norm')(tokens)
        return {
            ft.STEM: stem,
            ft.TOKENS: tokens,
            ft.MAP: tokens.reshape(x.shape),
            ft.POOLED: jnp.mean(tokens.astype(jnp.float32), axis=1),
        }

    def _run(
        self, x: Float[Array, 'b h w c'], which: slice, heads: int, parts: dict[str, Any], masks: Any, *, train: bool
    ) -> Float[Array, 'b n c']:
        """Returns the pixels of a map as tokens, after some of the blocks."""
        mixer = functools.partial(parts['mixer'], heads=heads)
        blocks = [
            PreNorm(**parts | {'mixer': mixer}, residual=Add, name=name) for name in trunk.names(self.depth)[which]
        ]
        tokens, masks = x.reshape(x.shape[0], -1, x.shape[-1]), jax.tree.map(lambda mask: mask[which], masks)
        return trunk.run(self, blocks, tokens, masks, train=train, remat=self.remat, scan=self.scan)


VARIANTS = {
    'ci2p_vit_base_256': CI2PViT(),
    'ci2p_vit_ds_base_256': CI2PViT(early_heads=3),
    'ci2p_vit_test': CI2PViT(16, 2, 2, (4,), pixels=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
}

# The paper's figure on ImageNet-1k is that of the network of two scales.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2502.10120', (256, 256))
PUBLISHED = {'ci2p_vit_base_256': _PAPER(), 'ci2p_vit_ds_base_256': _PAPER(top1=77.0)}

# Published names of a classifier's parameters, and ours; see weights.py. 1x1 convolutions of the squeeze are matrices.
_SCALE = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_SCALE, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_POINT = (('weight', 'kernel', 2), ('bias', 'bias'))
_CONVS = (('expand_conv', 'up'), ('depthwise_conv', 'conv'), ('linear_conv', 'down'))


def _residual_names(there: str, here: str) -> tuple[tuple, ...]:
    """Returns the names of an inverted residual at these places."""
    return (
        *((f'{there}.{a}.conv.weight', f'{here}/{b}/conv/kernel') for a, b in _CONVS),
        *((f'{there}.{a}.bn.{c}', f'{here}/{b}/norm/{d}') for a, b in _CONVS for c, d in _BATCH),
        *(
            (f'{there}.se.{a}.conv.{c}', f'{here}/squeeze/{b}/{d}', *axes)
            for a, b in (('conv1', 'down'), ('conv2', 'up'))
            for c, d, *axes in _POINT
        ),
    )


def patch_names(there: str, here: str) -> tuple[tuple, ...]:
    """Returns the names of the patch embedding at these places."""
    return (
        *analysis_names(f'{there}compressai.', f'{here}encoder/'),
        *_residual_names(f'{there}patchReshape.{{k}}', f'{here}reshape{{k}}'),
    )


_LAYER = 'backbone.transformer.layers.{i}'
_PARTS = (
    (_SCALE, 'ln1', 'mixer_norm'),
    (_AFFINE, 'attn.qkv', 'mixer/qkv'),
    (_AFFINE, 'attn.proj', 'mixer/out'),
    (_SCALE, 'ln2', 'mlp_norm'),
    (_AFFINE, 'ffn.layers.0.0', 'mlp/up'),
    (_AFFINE, 'ffn.layers.1', 'mlp/down'),
)
NAMES = {
    'CI2PViT': (
        *patch_names('backbone.to_patch_embedding.', 'backbone/stem/'),
        *_residual_names('backbone.transformer.patchReshape', 'backbone/middle'),
        *((f'{_LAYER}.{there}.{a}', f'backbone/block{{i:02d}}/{here}/{b}') for p, there, here in _PARTS for a, b in p),
        *((f'backbone.transformer.ln1.{a}', f'backbone/norm/{b}') for a, b in _SCALE),
        *((f'head.fc.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
