"""InceptionNeXt: ConvNeXt with its large kernel split into a small square, two bands and the identity.

Yu et al., 2023, "InceptionNeXt: When Inception Meets ConvNeXt", https://arxiv.org/abs/2303.16900. Reference:
https://github.com/sail-sg/inceptionnext (Apache-2.0), commit 3f9769c; `NAMES` maps its parameter names.

Most channels pass the mixer unchanged; an eighth each goes through 3x3, 1x11 and 11x1 depthwise convolutions. Norms are
batch normalizations. The hidden layers of feed-forward layers have four times the width, in the last stage three times.
The published classifier has a hidden layer of three times the width, GELU and LayerNorm between the mean and the
logits; here they are part of the backbone and compute ``pooled``, so that a linear head follows.

Where sides do not divide we differ: images are then padded with zeros, where the reference crops them.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.depthwise_conv import inception_conv
from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init, meta_next
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import patch_grid
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale


class Inception(nn.Module):
    """``[x0 | square(x1) | row(x2) | column(x3)]`` for a split of the channels; the convolutions have biases.

    Attributes:
        band: length of the two bands.
        ratio: share of the channels that each convolution gets, rounded down.
        dtype: compute type.
    """

    band: int = 11
    ratio: float = 1 / 8
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Keeps the shape.

        Raises:
            ValueError: there are too few channels for one per convolution.
        """
        part = int(x.shape[-1] * self.ratio)
        if not part:
            raise ValueError(
                f'{self.ratio} of {x.shape[-1]} channels is less than one: widen the stage or raise the ratio.'
            )
        kernels = {'square': (3, 3), 'row': (1, self.band), 'column': (self.band, 1)}
        taps, biases = zip(*(Taps(sides, name=name)(part) for name, sides in kernels.items()))
        x, *taps, bias = (array.astype(self.dtype) for array in (x, *taps, jnp.stack(biases)))
        return inception_conv(x, *taps, bias=bias)


class Taps(nn.Module):
    """The parameters of one of the convolutions.

    Attributes:
        sides: height and width of the kernel.
    """

    sides: tuple[int, int]

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, 'i j 1 c'], Float[Array, ' c']]:
        """Returns kernel and bias."""
        kernel = self.param('kernel', init.trunc_normal(0.02), (*self.sides, 1, channels))
        return kernel, self.param('bias', jax.nn.initializers.zeros, (channels,))


class Neck(nn.Module):
    """``norm(gelu(up(x)))``, the hidden layer of the published classifier, in float32.

    Attributes:
        ratio: output channels over input channels.
    """

    ratio: float = 3.0

    @nn.compact
    def __call__(self, x: Float[Array, 'b c']) -> Float[Array, 'b d']:
        """Returns a vector of ``ratio * c`` channels."""
        y = gelu(Dense(int(x.shape[-1] * self.ratio), name='up')(x))
        return LayerNorm(epsilon=1e-6, name='norm')(y)


class InceptionNeXt(ft.PyramidBackbone):
    """The network.

    Attributes:
        widths, depths: channels and blocks of each stage.
        ratios: hidden width over width of the feed-forward layers of each stage.
        patch: stride of the stem; each further stage doubles the stride.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        mixer, norm, mlp, residual: factories of the blocks' parts.
        neck: factory of the module that computes ``pooled`` from the mean.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (3, 3, 9, 3)
    ratios: Sequence[float] = (4, 4, 4, 3)
    patch: int = 4
    drop_path: float = 0.0
    mixer: Callable[..., nn.Module] = Inception
    norm: Callable[..., nn.Module] = BatchNorm
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = functools.partial(LayerScale, 1e-6)
    neck: Callable[..., nn.Module] = Neck
    dtype: DTypeLike = jnp.float32
    remat: bool = False

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
        """The stem, each block, the neck; downsampling belongs to the block before it."""
        return meta_next.layers(self.depths, ['neck'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map``, which equals ``stage3``, and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        patch_grid(*x.shape[1:3], self.patch)
        x = meta_next.PatchStem(self.widths[0], self.patch, self.norm, self.dtype, name='stem')(x, train=train)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], branches=1, train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                down = meta_next.PatchDown(self.widths[index], self.norm, self.dtype, name=f'down{index - 1}')
                x = down(x, train=train)
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        return {**features, ft.MAP: x, ft.POOLED: self.neck(name='neck')(global_mean(x))}

    def _stage(self, index: int) -> meta_next.Stage:
        mixer, norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.mixer, self.norm, self.mlp))
        mlp = functools.partial(mlp, float(self.ratios[index]))
        block = functools.partial(meta_next.MetaNeXt, mixer, norm, mlp, self.residual)
        return meta_next.Stage((block,) * self.depths[index], self.residual, self.remat, name=ft.stage(index))


# Table 2 of the paper; atto is from the repository.
_DEEP = (3, 3, 27, 3)
VARIANTS = {
    'inceptionnext_atto': InceptionNeXt((40, 80, 160, 320), (2, 2, 6, 2), mixer=functools.partial(Inception, 9, 1 / 4)),
    'inceptionnext_tiny': InceptionNeXt(),
    'inceptionnext_small': InceptionNeXt(depths=_DEEP),
    'inceptionnext_base': InceptionNeXt((128, 256, 512, 1024), _DEEP),
    'inceptionnext_test': InceptionNeXt((16, 32), (1, 2), (4, 3), mixer=functools.partial(Inception, 5, 1 / 4)),
}

# Table 4 of the paper; the figures of atto are from the repository.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2303.16900', (224, 224))
PUBLISHED = {
    'inceptionnext_atto': _PAPER(4.2, 0.51, 75.3),
    'inceptionnext_tiny': _PAPER(28, 4.2, 82.3),
    'inceptionnext_small': _PAPER(49, 8.4, 83.5),
    'inceptionnext_base': _PAPER(87, 14.9, 84.0),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_LAYER_NORM = (('weight', 'scale'), ('bias', 'bias'))
_NORM = (*_LAYER_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_THERE, _HERE = 'stages.{s}.blocks.{i}', 'backbone/stage{s}/block{i:02d}'
NAMES = {
    'InceptionNeXt': (
        *((f'stem.0.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
        *((f'stem.1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *((f'stages.{s + 1}.downsample.0.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _NORM),
        *((f'stages.{s + 1}.downsample.1.{a}', f'backbone/down{s}/patches/{b}') for s in range(3) for a, b in _AFFINE),
        *(
            (f'{_THERE}.token_mixer.dwconv_{there}.{a}', f'{_HERE}/mixer/{here}/{b}')
            for a, b in _AFFINE
            for there, here in (('hw', 'square'), ('w', 'row'), ('h', 'column'))
        ),
        *((f'{_THERE}.norm.{a}', f'{_HERE}/norm/{b}') for a, b in _NORM),
        *(
            (f'{_THERE}.mlp.{there}.weight', f'{_HERE}/mlp/{here}/kernel', 2)
            for there, here in (('fc1', 'up'), ('fc2', 'down'))
        ),
        *(
            (f'{_THERE}.mlp.{there}.bias', f'{_HERE}/mlp/{here}/bias')
            for there, here in (('fc1', 'up'), ('fc2', 'down'))
        ),
        (f'{_THERE}.gamma', f'{_HERE}/residual/scale'),
        *((f'head.fc1.{a}', f'backbone/neck/up/{b}') for a, b in _AFFINE),
        *((f'head.norm.{a}', f'backbone/neck/norm/{b}') for a, b in _LAYER_NORM),
        *((f'head.fc2.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
