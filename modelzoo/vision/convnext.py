"""ConvNeXt and ConvNeXt V2: a ResNet modernized towards the design of vision transformers, without attention.

Liu et al., 2022, "A ConvNet for the 2020s", https://arxiv.org/abs/2201.03545; reference
https://github.com/facebookresearch/ConvNeXt (MIT), commit 048efce. Woo et al., 2023, "ConvNeXt V2: Co-designing and
Scaling ConvNets with Masked Autoencoders", https://arxiv.org/abs/2301.00808; reference
https://github.com/facebookresearch/ConvNeXt-V2 (MIT for the code, CC BY-NC 4.0 for the weights). `NAMES` maps their
parameter names. Khalfaoui-Hassani et al., 2021, "Dilated convolution with learnable spacings",
https://arxiv.org/abs/2112.03740, puts its convolution (layers/convolutions/dcls.py) in the place of the depthwise one;
reference https://github.com/K-H-Ismail/ConvNeXt-dcls (MIT), commit aad45f3.

A block is a 7x7 depthwise convolution, LayerNorm and a feed-forward layer of four times the width, in one branch with
LayerScale; version 2 has global response normalization inside the feed-forward layer and no LayerScale. LayerNorm's
epsilon is 1e-6 everywhere. With learnable spacings a kernel is 17x17 and has 34 or 40 weights, at positions that all
blocks of a stage share. The classifier reads the normalized mean of the last stage, not the mean of ``map``.

Where sides do not divide we differ: images are then padded with zeros, where the reference crops them.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import DepthwiseConv, keeping
from longview.modelzoo.layers.convolutions.dcls import Dcls
from longview.modelzoo.layers.frame import init, meta_next, trunk
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import patch_grid
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import GlobalResponseNorm, LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add


class ResponseMlp(nn.Module):
    """``down(response(gelu(up(x))))`` with biases, the feed-forward layer of version 2.

    Attributes:
        ratio: hidden width over width.
        kernel_init: initial values of both matrices.
        dtype: compute type.
    """

    ratio: float = 4.0
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        y = gelu(Dense(int(x.shape[-1] * self.ratio), True, self.kernel_init, self.dtype, name='up')(x))
        y = GlobalResponseNorm(dtype=self.dtype, name='response')(y)
        return Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='down')(y)


class PlacingBlock(meta_next.MetaNeXt):
    """A block whose convolution gets the positions of its weights."""

    @nn.compact
    def __call__(self, s: Array, given: tuple[Array | None, Array], *, train: bool = False) -> Array:
        """Returns the stream after the block; `given` are its part of `drop.path_masks`, and the positions."""
        mask, positions = given
        join = self.residual(name='residual')
        y = self.mixer(name='mixer')(join.read(s), positions)
        y = self.mlp(name='mlp')(self.norm(name='norm')(y, train=train))
        return join.write(s, drop_path(y, None if mask is None else mask[0]))


class PlacingStage(trunk.Stage):
    """The blocks of one resolution, whose convolutions have their weights at the same positions.

    Attributes:
        conv: factory of the convolution, such as `dcls.Dcls`; it says how positions start.
    """

    conv: Callable[..., nn.Module] = Dcls

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the map after the stage, of the same shape; `masks` are those of its blocks.

        Raises:
            ValueError: the convolution has no positions.
        """
        layer = self.conv(parent=None)
        if not isinstance(layer, Dcls):
            raise ValueError(
                f'{type(layer).__name__} has no positions to share: set shares_positions to False, or `conv` to a '
                'factory of dcls.Dcls.'
            )
        positions = layer.positions_of(self, x.shape[-1], axes=2)
        given = masks, jnp.broadcast_to(positions[None], (self.depth, *positions.shape))
        blocks = [self.block(name=name) for name in trunk.names(self.depth)]
        join = self.residual(name='residual')
        s = trunk.run(self, blocks, join.open(x), given, train=train, remat=self.remat, scan=self.scan)
        return join.close(s)


class ConvNeXt(ft.PyramidBackbone):
    """Both versions, and those with other depthwise convolutions.

    Attributes:
        widths, depths: channels and blocks of each stage.
        patch: stride of the stem; each further stage doubles the stride.
        kernel_size: side of the depthwise kernels.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
        conv: factory of the depthwise convolutions, with the arguments of `conv.Conv`; None for `conv.DepthwiseConv`.
        shares_positions: whether `conv` is a `dcls.Dcls` whose positions the blocks of a stage share.
    """

    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (3, 3, 9, 3)
    patch: int = 4
    kernel_size: int = 7
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = functools.partial(LayerScale, 1e-6)
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False
    conv: Callable[..., nn.Module] | None = None
    shares_positions: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.patch * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; downsampling belongs to the block before it.

        Positions that are shared belong to the first block of their stage.
        """
        layers = meta_next.layers(self.depths)
        if not self.shares_positions:
            return layers
        first = {path: f'{path.partition("/")[0]}/positions' for path in itertools.chain(*layers) if '/block00' in path}
        return tuple((*layer, *(first[path] for path in layer if path in first)) for layer in layers)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        patch_grid(*x.shape[1:3], self.patch)
        x = meta_next.PatchStem(self.widths[0], self.patch, self.norm, self.dtype, name='stem')(x)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], branches=1, train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                x = meta_next.PatchDown(self.widths[index], self.norm, self.dtype, name=f'down{index - 1}')(x)
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        norm = self.norm(name='norm')
        return {**features, ft.MAP: norm(x).astype(self.dtype), ft.POOLED: norm(global_mean(x))}

    def _stage(self, index: int) -> trunk.Stage:
        mixer = self._conv(self.widths[index])
        norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.mlp))
        kind = PlacingBlock if self.shares_positions else meta_next.MetaNeXt
        block = functools.partial(kind, mixer, norm, mlp, self.residual)
        stage = functools.partial(PlacingStage, conv=mixer) if self.shares_positions else trunk.Stage
        return stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))

    def _conv(self, width: int) -> Callable[..., nn.Module]:
        """Returns the factory of the depthwise convolutions of a stage."""
        kernel_init, zeros = init.trunc_normal(0.02), jax.nn.initializers.zeros
        if self.conv is None:
            return functools.partial(DepthwiseConv, self.kernel_size, kernel_init, self.dtype, True, zeros)
        return functools.partial(
            self.conv,
            width,
            self.kernel_size,
            1,
            keeping(self.kernel_size),
            self.dtype,
            groups=width,
            use_bias=True,
            kernel_init=kernel_init,
            bias_init=zeros,
        )


_V2 = functools.partial(ConvNeXt, mlp=ResponseMlp, residual=Add)


def _spaced(count: int, *sizes: Sequence[int], **fields: int) -> ConvNeXt:
    fields = {'kernel_size': 17} | fields
    return ConvNeXt(*sizes, conv=functools.partial(Dcls, count=count), shares_positions=True, **fields)


def _widths(first: int) -> tuple[int, ...]:
    return tuple(first * 2**index for index in range(4))


# Section 2.7 of the first paper (and table 9 for XL); table 5 in the appendix of the second; the code of the third.
_SMALL, _DEEP = (2, 2, 6, 2), (3, 3, 27, 3)
VARIANTS = {
    'convnext_tiny': ConvNeXt(),
    'convnext_small': ConvNeXt(depths=_DEEP),
    'convnext_base': ConvNeXt(_widths(128), _DEEP),
    'convnext_large': ConvNeXt(_widths(192), _DEEP),
    'convnext_xlarge': ConvNeXt(_widths(256), _DEEP),
    'convnextv2_atto': _V2(_widths(40), _SMALL),
    'convnextv2_femto': _V2(_widths(48), _SMALL),
    'convnextv2_pico': _V2(_widths(64), _SMALL),
    'convnextv2_nano': _V2(_widths(80), (2, 2, 8, 2)),
    'convnextv2_tiny': _V2(),
    'convnextv2_base': _V2(_widths(128), _DEEP),
    'convnextv2_large': _V2(_widths(192), _DEEP),
    'convnextv2_huge': _V2(_widths(352), _DEEP),
    'convnext_dcls_tiny': _spaced(34),
    'convnext_dcls_small': _spaced(40, _widths(96), _DEEP),
    'convnext_dcls_base': _spaced(40, _widths(128), _DEEP),
    'convnext_test': ConvNeXt((16, 32), (1, 2), kernel_size=5),
    'convnextv2_test': _V2((16, 32), (1, 2), kernel_size=3),
    'convnext_dcls_test': _spaced(5, (8, 16), (1, 2), kernel_size=7),
}

# The repositories' tables: trained on ImageNet-1k alone, XL on ImageNet-22k before.
_V1_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2201.03545', (224, 224))
_V2_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2301.00808', (224, 224))
_DCLS_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2112.03740', (224, 224))
PUBLISHED = {
    'convnext_tiny': _V1_PAPER(28, 4.5, 82.1),
    'convnext_small': _V1_PAPER(50, 8.7, 83.1),
    'convnext_base': _V1_PAPER(89, 15.4, 83.8),
    'convnext_large': _V1_PAPER(198, 34.4, 84.3),
    'convnext_xlarge': _V1_PAPER(350, 60.9, 87.0),
    'convnextv2_atto': _V2_PAPER(3.7, 0.55, 76.7),
    'convnextv2_femto': _V2_PAPER(5.2, 0.78, 78.5),
    'convnextv2_pico': _V2_PAPER(9.1, 1.37, 80.3),
    'convnextv2_nano': _V2_PAPER(15.6, 2.45, 81.9),
    'convnextv2_tiny': _V2_PAPER(28.6, 4.47, 83.0),
    'convnextv2_base': _V2_PAPER(89, 15.4, 84.9),
    'convnextv2_large': _V2_PAPER(198, 34.4, 85.8),
    'convnextv2_huge': _V2_PAPER(660, 115, 86.3),
    'convnext_dcls_tiny': _DCLS_PAPER(28, 5.0, 82.5),
    'convnext_dcls_small': _DCLS_PAPER(50, 9.5, 83.7),
    'convnext_dcls_base': _DCLS_PAPER(89, 16.5, 84.1),
}


# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_THERE, _HERE = 'stages.{s}.{i}', 'backbone/stage{s}/block{i:02d}'
_TIMM_BLOCK = (
    *((f'conv_dw.{a}', f'mixer/{b}') for a, b in _AFFINE),
    *((f'norm.{a}', f'norm/{b}') for a, b in _NORM),
    *((f'mlp.{there}.{a}', f'mlp/{here}/{b}') for a, b in _AFFINE for there, here in (('fc1', 'up'), ('fc2', 'down'))),
    *((f'mlp.grn.{a}', f'mlp/response/{b}') for a, b in _NORM),
    ('gamma', 'residual/scale'),
)
_TIMM_NAMES = (
    *((f'stem.0.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
    *((f'stem.1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
    *((f'stages.{s + 1}.downsample.0.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _NORM),
    *((f'stages.{s + 1}.downsample.1.{a}', f'backbone/down{s}/patches/{b}') for s in range(3) for a, b in _AFFINE),
    *((f'stages.{{s}}.blocks.{{i}}.{there}', f'{_HERE}/{here}') for there, here in _TIMM_BLOCK),
    *((f'head.norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    *((f'head.fc.{a}', f'head/{b}') for a, b in _AFFINE),
)
_TRANSFORMERS_BLOCK = (
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for a, b in _AFFINE
        for there, here in (('dwconv', 'mixer'), ('pwconv1', 'mlp/up'), ('pwconv2', 'mlp/down'))
    ),
    *((f'layernorm.{a}', f'norm/{b}') for a, b in _NORM),
    *((f'grn.{a}', f'mlp/response/{b}') for a, b in _NORM),
    ('layer_scale_parameter', 'residual/scale'),
)
_DOWN = 'encoder.stages.{}.downsampling_layer'
_TRANSFORMERS_NAMES = (
    *((f'embeddings.patch_embeddings.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
    *((f'embeddings.layernorm.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
    *((f'{_DOWN.format(s + 1)}.0.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _NORM),
    *((f'{_DOWN.format(s + 1)}.1.{a}', f'backbone/down{s}/patches/{b}') for s in range(3) for a, b in _AFFINE),
    *((f'encoder.stages.{{s}}.layers.{{i}}.{there}', f'{_HERE}/{here}') for there, here in _TRANSFORMERS_BLOCK),
    *((f'layernorm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
    *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
)
NAMES = {
    'ConvNeXt': (
        *((f'downsample_layers.0.0.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
        *((f'downsample_layers.0.1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *((f'downsample_layers.{s + 1}.0.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _NORM),
        *((f'downsample_layers.{s + 1}.1.{a}', f'backbone/down{s}/patches/{b}') for s in range(3) for a, b in _AFFINE),
        *(
            (f'{_THERE}.{there}.{a}', f'{_HERE}/{here}/{b}')
            for a, b in _AFFINE
            for there, here in (('dwconv', 'mixer'), ('pwconv1', 'mlp/up'), ('pwconv2', 'mlp/down'))
        ),
        # Files hold the positions of a stage once more under each of its other blocks.
        ('stages.{s}.0.dwconv.P', 'backbone/stage{s}/positions'),
        *((f'{_THERE}.norm.{a}', f'{_HERE}/norm/{b}') for a, b in _NORM),
        (f'{_THERE}.gamma', f'{_HERE}/residual/scale'),
        (f'{_THERE}.grn.gamma', f'{_HERE}/mlp/response/scale'),
        (f'{_THERE}.grn.beta', f'{_HERE}/mlp/response/bias'),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
        *_TIMM_NAMES,
        *_TRANSFORMERS_NAMES,
    ),
}
