"""Mobile convolutions with the norm before the branch, and the stem before them, as CoAtNet and MaxViT have them.

Dai et al., 2021, "CoAtNet", https://arxiv.org/abs/2106.04803; Tu et al., 2022, "MaxViT",
https://arxiv.org/abs/2204.01697. Reference: timm 1.0.31 (https://github.com/huggingface/pytorch-image-models,
Apache-2.0), models/maxxvit.py, whose options these are; initial values are its ``vit_eff``, He's with the fan-out.

Where we differ: odd sides, which timm refuses at a stride, are rounded up.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.pool import halve
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_HE = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_TAPS = jax.nn.initializers.normal((2 / 9) ** 0.5)
_DENSE = functools.partial(Dense, kernel_init=_HE)


class MobileConv(nn.Module):
    """``shortcut(x) + down(squeeze(norm(conv(norm(up(norm(x)))))))``; a 3x3 depthwise convolution between matrices.

    At stride 2 the shortcut averages 2x2 pixels and, where widths differ, has a matrix.

    Attributes:
        features: output channels.
        stride: 2 halves the resolution, rounded up.
        norm: factory of the normalizations.
        act: activation behind the second and the third norm.
        squeeze: factory of squeeze-and-excitation.
        padding: of the depthwise convolution, 1 pixel or TensorFlow's 'SAME'.
        of_output: whether the hidden channels are a multiple of the output channels; else of the input's.
        use_bias: whether the last matrix and that of the shortcut have a bias.
        act_first: whether an activation follows the first norm too.
        squeeze_first: whether squeeze-and-excitation comes before the third norm.
        pool_first: whether the branch averages 2x2 pixels after the first norm, in place of a strided convolution.
        expansion: hidden channels over those that they are a multiple of.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[Array], Array] = gelu
    squeeze: Callable[..., nn.Module] = functools.partial(SqueezeExcite, 1 / 16, 1, act=nn.silu)
    padding: int | str = 1
    of_output: bool = True
    use_bias: bool = True
    act_first: bool = False
    squeeze_first: bool = False
    pool_first: bool = False
    expansion: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this branch's part of `drop.path_masks`."""
        norm = functools.partial(self.norm, dtype=self.dtype)
        y = norm(name='norm')(x, train=train)
        y = self.act(y) if self.act_first else y
        y = halve(y) if self.pool_first and self.stride == 2 else y
        hidden = self.expansion * (self.features if self.of_output else x.shape[-1])
        y = self.act(norm(name='norm1')(_DENSE(hidden, False, dtype=self.dtype, name='up')(y), train=train))
        stride = 1 if self.pool_first else self.stride
        y = StridedDepthwise(3, stride, self.padding, _TAPS, self.dtype, name='conv')(y)
        y = self.squeeze(dtype=self.dtype, name='squeeze_first')(y) if self.squeeze_first else y
        y = self.act(norm(name='norm2')(y, train=train))
        y = y if self.squeeze_first else self.squeeze(dtype=self.dtype, name='squeeze')(y)
        y = _DENSE(self.features, self.use_bias, dtype=self.dtype, name='down')(y)
        return self._shortcut(x) + drop_path(y, mask)

    def _shortcut(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        x = halve(x) if self.stride == 2 else x
        if x.shape[-1] == self.features:
            return x
        return _DENSE(self.features, self.use_bias, dtype=self.dtype, name='shortcut')(x)


class Stem(nn.Module):
    """Two 3x3 convolutions with a norm and an activation between them.

    Attributes:
        widths: output channels of each.
        stride: of the first one.
        norm, act, padding: as in `MobileConv`.
        use_bias: whether the convolutions have biases.
        dtype: compute type.
    """

    widths: tuple[int, int]
    stride: int = 2
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[Array], Array] = gelu
    padding: int | str = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        initial = {'kernel_init': _HE, 'bias_init': jax.nn.initializers.zeros}
        conv = functools.partial(
            Conv, kernel_size=3, padding=self.padding, dtype=self.dtype, use_bias=self.use_bias, **initial
        )
        x = conv(self.widths[0], stride=self.stride, name='conv0')(x)
        x = self.act(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        return conv(self.widths[1], name='conv1')(x)


# timm's names of a mobile convolution's parameters, of a stem's, and ours. 1x1 convolutions are matrices here.
_STATISTICS = (('running_mean', 'mean'), ('running_var', 'var'))
BATCH = (('weight', 'scale'), ('bias', 'bias'), *_STATISTICS)
POINT = (('weight', 'kernel', 2), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_PARTS = (
    (POINT, 'shortcut.expand', 'shortcut'),
    (BATCH, 'pre_norm', 'norm'),
    (POINT, 'conv1_1x1', 'up'),
    (BATCH, 'norm1', 'norm1'),
    (_AFFINE, 'conv2_kxk', 'conv'),
    (BATCH, 'norm2', 'norm2'),
    *(
        (POINT, f'{se}.{a}', f'{ours}/{b}')
        for se, ours in (('se', 'squeeze'), ('se_early', 'squeeze_first'))
        for a, b in (('fc1', 'down'), ('fc2', 'up'))
    ),
    (POINT, 'conv3_1x1', 'down'),
)


def names(there: str, here: str) -> list[tuple]:
    """Returns the names of a mobile convolution at these places."""
    return [(f'{there}.{a}.{c}', f'{here}/{b}/{d}', *axes) for pairs, a, b in _PARTS for c, d, *axes in pairs]


STEM_NAMES = (
    *((f'stem.conv{i + 1}.{a}', f'backbone/stem/conv{i}/{b}') for i in range(2) for a, b in _AFFINE),
    *((f'stem.norm1.{a}', f'backbone/stem/norm/{b}') for a, b in BATCH),
)
