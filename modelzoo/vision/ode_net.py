"""ODE-Net: a classifier whose residual blocks are one differential equation.

Chen et al., 2018, "Neural Ordinary Differential Equations", https://arxiv.org/abs/1806.07366, section 3. Reference:
https://github.com/rtqichen/torchdiffeq (MIT), examples/odenet_mnist.py. Three convolutions, of which two halve the
sides, an `ODEBlock` (layers/ode.py) or six residual blocks, a norm, ReLU and the mean over pixels. The example's norms
are group norms, and the paper's network for MNIST downsamples by two residual blocks, which the example has as an
option and we have not.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers import ode
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import GroupNorm


class Stem(nn.Module):
    """Convolutions of 3x3, 4x4 and 4x4, the last two of stride 2, with norms and ReLU between them.

    Attributes:
        features: output channels.
        norm: factory of the norms.
        dtype: compute type.
    """

    features: int
    norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of about a quarter of the sides; the first convolution pads nothing."""
        for index, shape in enumerate(((3, 1, 0), (4, 2, 1), (4, 2, 1))):
            if index:
                x = nn.relu(self.norm(name=f'norm{index - 1}')(x))
            x = Conv(self.features, *shape, self.dtype, name=f'conv{index}')(x)
        return x


class Residual(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))``, an explicit step of what the equation says.

    Attributes:
        norm: factory of the norms.
        dtype: compute type.
    """

    norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        del train
        conv = functools.partial(Conv, x.shape[-1], 3, 1, 1, self.dtype, use_bias=False)
        y = conv(name='conv1')(nn.relu(self.norm(name='norm1')(x)))
        return x + drop_path(conv(name='conv2')(nn.relu(self.norm(name='norm2')(y))), mask)


class Equation(nn.Module):
    """An equation in the place of residual blocks.

    Attributes:
        solution: factory of an `ODEBlock`.
    """

    solution: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        del train
        y = self.solution(name='equation')(x)
        return y if mask is None else x + drop_path(y - x, mask)


class ODENet(ft.Backbone):
    """The network.

    Attributes:
        width: channels.
        depth: number of equations, one after the other, or of residual blocks.
        block: factory of an equation's block, which takes ``func``; None for residual blocks.
        groups: of the norms, at most.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    width: int = 64
    depth: int = 1
    block: Callable[..., nn.Module] | None = ode.ODEBlock
    groups: int = 32
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each equation or residual block, the last norm."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``map`` and ``pooled``."""
        norm = functools.partial(GroupNorm, min(self.groups, self.width), dtype=self.dtype)
        stem = Stem(self.width, norm, self.dtype, name='stem')(x)
        kind = functools.partial(Residual, norm, self.dtype)
        if self.block is not None:
            func = functools.partial(ode.TimeConvs, self.groups)
            kind = functools.partial(Equation, functools.partial(self.block, func=func, dtype=self.dtype))
        blocks = [kind(name=name) for name in trunk.names(self.depth)]
        masks = path_masks(self, self.drop_path, len(blocks), x.shape[0], branches=1, train=train)
        masks = None if masks is None else masks[:, 0]
        x = trunk.run(self, blocks, stem, masks, train=train, remat=self.remat, scan=False)
        x = nn.relu(norm(name='norm')(x))
        return {ft.STEM: stem, ft.MAP: x, ft.POOLED: global_mean(x)}


VARIANTS = {
    'ode_net_mnist': ODENet(),
    'ode_net_resnet_mnist': ODENet(depth=6, block=None),
    'ode_net_test': ODENet(8, 2, functools.partial(ode.ODEBlock, solver='rk4', steps=2)),
}

# The paper's network downsamples by residual blocks, hence 0.22 million parameters, and 0.60 of its residual network.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/1806.07366', (28, 28))
PUBLISHED = {'ode_net_mnist': _PAPER(), 'ode_net_resnet_mnist': _PAPER()}

# Published names of a classifier's parameters, and ours; see weights.py. All layers of the example are one list.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'))
NAMES = {
    'ODENet': (
        *((f'{3 * index}.{a}', f'backbone/stem/conv{index}/{b}') for index in range(3) for a, b in _AFFINE),
        *((f'{3 * index + 1}.{a}', f'backbone/stem/norm{index}/{b}') for index in range(2) for a, b in _NORM),
        *(
            pair
            for index, name in enumerate(trunk.names(6))
            for pair in ode.names(f'{7 + index}.odefunc.', f'backbone/{name}/equation/func/')
        ),
        *(
            (f'{7 + index}.{layer}{{k}}.{a}', f'backbone/{name}/{layer}{{k}}/{b}')
            for index, name in enumerate(trunk.names(6))
            for layer, pairs in (('norm', _NORM), ('conv', _AFFINE[:1]))
            for a, b in pairs
        ),
        *((f'{place}.{a}', f'backbone/norm/{b}') for place in (8, 13) for a, b in _NORM),
        *((f'{place}.{a}', f'head/{b}') for place in (12, 17) for a, b in _AFFINE),
    ),
}
