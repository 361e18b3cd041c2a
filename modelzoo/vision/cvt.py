"""CvT: a three-stage transformer whose queries, keys and values are convolved before they are projected.

Wu et al., 2021, "CvT: Introducing Convolutions to Vision Transformers", https://arxiv.org/abs/2103.15808. Reference:
https://github.com/leoxiaobin/CvT (MIT), commit 46ab3c8; `NAMES` maps its parameter names.

Each stage begins with overlapping patches. In every block queries, keys and values each have a 3x3 depthwise
convolution with batch normalization, which for keys and values halves the resolution; there are no position
embeddings. A class token joins in the last stage, bypasses the convolutions, and is read by the classifier.

Details of the published code that are not in the paper, kept here:
  * attention logits are divided by the root of the width of the stage, not of a head;
  * GELU is ``x * sigmoid(1.702 x)``;
  * stochastic depth applies to the last stage only, at a rate that rises from 0 along that stage.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm, in_turn
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, quick_gelu
from longview.modelzoo.layers.frame.patch import patch_grid
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add


class ConvProjection(nn.Module):
    """``project(norm(conv(x)))``: a 3x3 depthwise convolution, then a matrix. Learned tokens pass the matrix only.

    Attributes:
        features: output channels.
        stride: stride of the convolution.
        norm: factory of the normalization.
        kernel_init: initial values of the matrix.
        dtype: compute type.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    kernel_init: init.Initializer
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, image: Float[Array, 'b h w c'], before: Float[Array, 'b p c'], *, train: bool = False
    ) -> Float[Array, 'b m d']:
        """Returns the projected tokens `before`, followed by the pixels row by row."""
        image = StridedDepthwise(3, self.stride, 1, dtype=self.dtype, name='conv')(image)
        image = self.norm(dtype=self.dtype, name='norm')(image, train=train)
        tokens = jnp.concatenate([before, image.reshape(image.shape[0], -1, image.shape[-1])], axis=1)
        return Dense(self.features, True, self.kernel_init, self.dtype, name='project')(tokens)


class ConvAttention(nn.Module):
    """Attention between convolved pixels and the learned tokens that precede them.

    Attributes:
        heads: number of heads; divides the width.
        grid: rows and columns of pixels; any further tokens are learned ones and come first.
        stride: stride of the convolutions of keys and values.
        norm: factory of the normalization after each convolution.
        kernel_init: initial values of the matrices.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    grid: ft.Grid
    stride: int = 2
    norm: Callable[..., nn.Module] = BatchNorm
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens."""
        batch, tokens, width = x.shape
        first = tokens - math.prod(self.grid)
        before, image = x[:, :first], x[:, first:].reshape(batch, *self.grid, width)
        parts = []
        for name, stride in (('q', 1), ('k', self.stride), ('v', self.stride)):
            project = ConvProjection(width, stride, self.norm, self.kernel_init, self.dtype, name=name)
            parts.append(attention.split_heads(project(image, before, train=train), self.heads))
        mixed = attention.merge_heads(attention.attend(*parts, scale=width**-0.5))
        return Dense(width, True, self.kernel_init, self.dtype, name='out')(mixed)


class OverlappingPatches(nn.Module):
    """A convolution whose kernel is wider than its stride, then LayerNorm.

    The side of the kernel is ``2 * patch - 1``, the padding ``patch / 2``: 7 and 2 for a patch of 4, 3 and 1 for 2.

    Attributes:
        features: output channels.
        patch: stride of the convolution.
        dtype: compute type.
    """

    features: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / patch by w / patch pixels; for a patch of 2, rounded up."""
        x = Conv(self.features, 2 * self.patch - 1, self.patch, self.patch // 2, self.dtype, name='conv')(x)
        return LayerNorm(dtype=self.dtype, name='norm')(x)


class Stage(nn.Module):
    """The blocks of one resolution.

    Attributes:
        block: factory of a block.
        depth: number of blocks.
        residual: factory of the connection that opens and closes the stream.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    block: Callable[..., nn.Module]
    depth: int
    residual: Callable[..., nn.Module]
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b n d'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b n d']:
        """Returns the tokens after the stage; `masks` are those of its blocks."""
        join = self.residual(name='residual')
        blocks = [self.block(name=name) for name in trunk.names(self.depth)]
        return join.close(in_turn(blocks, join.open(x), masks, train=train, remat=self.remat))


class CvT(ft.PyramidBackbone):
    """The network.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        patch: stride of the first stage; each further stage doubles the stride.
        drop_path: stochastic depth of the last block; the stages before the last one have none.
        norm, mixer, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (64, 192, 384)
    depths: Sequence[int] = (1, 2, 10)
    heads: Sequence[int] = (1, 3, 6)
    patch: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mixer: Callable[..., nn.Module] = ConvAttention
    mlp: Callable[..., nn.Module] = functools.partial(Mlp, activation=quick_gelu)
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16 as published."""
        return tuple(self.patch * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The first patch embedding, each block, the last norm; downsampling belongs to the block before it."""
        blocks = trunk.stage_paths(self.depths, [f'embed{index}' for index in range(1, len(self.depths))])
        blocks[sum(self.depths[:-1]) - 1].append('cls_token')
        return (('embed0',), *map(tuple, blocks), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``, which is the class token.

        Raises:
            ValueError: the patch does not divide the image.
        """
        patch_grid(*x.shape[1:3], self.patch)
        last = len(self.depths) - 1
        token = self.param('cls_token', init.trunc_normal(0.02), (1, 1, self.widths[last]))
        features = {}
        for index in range(last + 1):
            x = OverlappingPatches(
                self.widths[index], self.patch if index == 0 else 2, self.dtype, name=f'embed{index}'
            )(x)
            features.setdefault(ft.STEM, x)
            before = [jnp.broadcast_to(token, (x.shape[0], *token.shape[1:])).astype(x.dtype)] if index == last else []
            tokens = jnp.concatenate([*before, x.reshape(x.shape[0], -1, x.shape[-1])], axis=1)
            masks = path_masks(self, self.drop_path if before else 0.0, self.depths[index], x.shape[0], train=train)
            tokens = self._stage(index, x.shape[1:3])(tokens, masks, train=train)
            x = tokens[:, len(before) :].reshape(x.shape)
            features[ft.stage(index)] = x
        tokens = self.norm(dtype=self.dtype, name='norm')(tokens)
        return {**features, ft.MAP: tokens[:, 1:].reshape(x.shape), ft.POOLED: tokens[:, 0].astype(jnp.float32)}

    def _stage(self, index: int, grid: ft.Grid) -> Stage:
        norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.mlp))
        mixer = functools.partial(self.mixer, heads=self.heads[index], grid=grid, dtype=self.dtype)
        block = functools.partial(PreNorm, norm, mixer, mlp, self.residual)
        return Stage(block, self.depths[index], self.residual, self.remat, name=ft.stage(index))


# Table 2 of the paper; W24 from the configuration of the code.
VARIANTS = {
    'cvt_13': CvT(),
    'cvt_21': CvT(depths=(1, 4, 16)),
    'cvt_w24': CvT((192, 768, 1024), (2, 2, 20), (3, 12, 16)),
    'cvt_test': CvT((16, 32), (1, 2), (1, 2)),
}

# The repository's README; W24's accuracy is after ImageNet-22k.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2103.15808')
PUBLISHED = {
    'cvt_13': _PAPER((224, 224), params=20, macs=4.5, top1=81.6),
    'cvt_21': _PAPER((224, 224), params=32, macs=7.1, top1=82.5),
    'cvt_w24': _PAPER((384, 384), params=277, macs=193.2),
}


# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_STATISTICS = (('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_BLOCK = (
    *((f'norm1.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *((f'attn.conv_proj_{part}.conv.weight', f'mixer/{part}/conv/kernel') for part in 'qkv'),
    *((f'attn.conv_proj_{part}.bn.{a}', f'mixer/{part}/norm/{b}') for part in 'qkv' for a, b in _NORM + _STATISTICS),
    *((f'attn.proj_{part}.{a}', f'mixer/{part}/project/{b}') for part in 'qkv' for a, b in _AFFINE),
    *((f'attn.proj.{a}', f'mixer/out/{b}') for a, b in _AFFINE),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _NORM),
    *((f'mlp.fc1.{a}', f'mlp/up/{b}') for a, b in _AFFINE),
    *((f'mlp.fc2.{a}', f'mlp/down/{b}') for a, b in _AFFINE),
)
_STAGE = 'encoder.stages.{s}.'
_PARTS = (('q', 'query'), ('k', 'key'), ('v', 'value'))
_CONV = 'attention.attention.convolution_projection_{}.convolution_projection.'
_TRANSFORMERS_BLOCK = (
    *((f'layernorm_before.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *((f'{_CONV.format(there)}convolution.weight', f'mixer/{here}/conv/kernel') for here, there in _PARTS),
    *(
        (f'{_CONV.format(there)}normalization.{a}', f'mixer/{here}/norm/{b}')
        for here, there in _PARTS
        for a, b in _NORM + _STATISTICS
    ),
    *(
        (f'attention.attention.projection_{there}.{a}', f'mixer/{here}/project/{b}')
        for here, there in _PARTS
        for a, b in _AFFINE
    ),
    *((f'attention.output.dense.{a}', f'mixer/out/{b}') for a, b in _AFFINE),
    *((f'layernorm_after.{a}', f'mlp_norm/{b}') for a, b in _NORM),
    *((f'intermediate.dense.{a}', f'mlp/up/{b}') for a, b in _AFFINE),
    *((f'output.dense.{a}', f'mlp/down/{b}') for a, b in _AFFINE),
)
_TRANSFORMERS_NAMES = (
    *(
        (f'{_STAGE}embedding.convolution_embeddings.projection.{a}', f'backbone/embed{{s}}/conv/{b}')
        for a, b in _AFFINE
    ),
    *(
        (f'{_STAGE}embedding.convolution_embeddings.normalization.{a}', f'backbone/embed{{s}}/norm/{b}')
        for a, b in _NORM
    ),
    *((f'{_STAGE}layers.{{i}}.{a}', 'backbone/stage{s}/block{i:02d}/' + b) for a, b in _TRANSFORMERS_BLOCK),
    ('encoder.stages.2.cls_token', 'backbone/cls_token'),
    *((f'layernorm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
)
NAMES = {
    'CvT': (
        *(('stage{s}.patch_embed.proj.' + a, 'backbone/embed{s}/conv/' + b) for a, b in _AFFINE),
        *(('stage{s}.patch_embed.norm.' + a, 'backbone/embed{s}/norm/' + b) for a, b in _NORM),
        *(('stage{s}.blocks.{i}.' + a, 'backbone/stage{s}/block{i:02d}/' + b) for a, b in _BLOCK),
        ('stage2.cls_token', 'backbone/cls_token'),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
        *_TRANSFORMERS_NAMES,
    ),
}
