"""MLP-Mixer and ResMLP: matrices across the patches instead of attention.

Tolstikhin et al., 2021, "MLP-Mixer: An all-MLP Architecture for Vision", https://arxiv.org/abs/2105.01601; Touvron et
al., 2021, "ResMLP: Feedforward networks for image classification with data-efficient training",
https://arxiv.org/abs/2105.03404. Reference: https://github.com/huggingface/pytorch-image-models (timm, Apache-2.0),
release 1.0.31; variants have its names, and outputs agree with it.

Both share one trunk. Mixer has two matrices across the patches, with GELU between them, and LayerNorms; ResMLP has
one matrix, an affine map per channel in place of the norms, and LayerScale. The classifier reads the mean of the
patches. The matrices across the patches take their size from the first input.

Mixer's GELU is the exact one, as in timm; the JAX original has the tanh approximation. Initial values of Mixer are
those of the original (LeCun normal, biases 0), of ResMLP those of Meta's code.

Where we differ: the rate of stochastic depth rises from 0 along the blocks, as in the paper of Mixer; the code of
ResMLP has one rate for all blocks.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import Patches, patch_grid
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

_LECUN, _ZEROS = jax.nn.initializers.lecun_normal(), jax.nn.initializers.zeros


class TokenMlp(nn.Module):
    """Mixer's token mixing: two matrices across the tokens, shared by all channels, with GELU between them.

    Attributes:
        ratio: hidden width over the number of channels.
        kernel_init: initial values of both matrices.
        dtype: compute type.
    """

    ratio: float = 0.5
    kernel_init: init.Initializer = _LECUN
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens."""
        _check_tokens(self, ('up', 'kernel'), x.shape[1])
        up = Dense(int(x.shape[2] * self.ratio), True, self.kernel_init, self.dtype, name='up')
        down = Dense(x.shape[1], True, self.kernel_init, self.dtype, name='down')
        return down(gelu(up(x.swapaxes(1, 2)))).swapaxes(1, 2)


class TokenLinear(nn.Module):
    """ResMLP's token mixing: one matrix across the tokens, shared by all channels.

    Attributes:
        kernel_init: initial values of the matrix.
        dtype: compute type.
    """

    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens."""
        _check_tokens(self, ('mix', 'kernel'), x.shape[1])
        mix = Dense(x.shape[1], True, self.kernel_init, self.dtype, name='mix')
        return mix(x.swapaxes(1, 2)).swapaxes(1, 2)


class Affine(nn.Module):
    """``x * alpha + beta`` per channel, which ResMLP has in place of a norm.

    Attributes:
        dtype: of the result.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Returns the scaled and shifted tokens."""
        alpha = self.param('alpha', jax.nn.initializers.ones, (1, 1, x.shape[-1]))
        beta = self.param('beta', jax.nn.initializers.zeros, (1, 1, x.shape[-1]))
        return (x.astype(jnp.float32) * alpha + beta).astype(self.dtype)


class Mixer(ft.WholeGridBackbone):
    """The trunk of both networks.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        patch: side of the patches.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        stem_init, stem_bias_init: initial values of the patch embedding; by default torch's.
        norm, mixer, mlp, residual: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    width: int = 512
    depth: int = 8
    patch: int = 16
    drop_path: float = 0.0
    stem_init: init.Initializer | None = None
    stem_bias_init: init.Initializer | None = None
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    mixer: Callable[..., nn.Module] = TokenMlp
    mlp: Callable[..., nn.Module] = functools.partial(Mlp, kernel_init=_LECUN)
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts."""
        self.stem = Patches(self.width, self.patch, self.stem_init, self.stem_bias_init, self.dtype)
        parts = {part: functools.partial(getattr(self, part), dtype=self.dtype) for part in ('norm', 'mixer', 'mlp')}
        self.blocks = [PreNorm(**parts, residual=self.residual, name=name) for name in trunk.names(self.depth)]
        self.join = self.residual()
        self.last_norm = parts['norm'](name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding, each block, the last norm."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)), ('norm',))

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of patches."""
        return patch_grid(height, width, self.patch)

    def encode(self, tokens: Float[Array, 'b n d'], grid: ft.Grid | None, *, train: bool = False) -> ft.Features:
        """Runs the blocks on a whole grid of patches.

        Raises:
            ValueError: `grid` is None; the blocks have a weight for each pair of positions.
        """
        self._check_whole(grid)
        masks = path_masks(self, self.drop_path, self.depth, tokens.shape[0], train=train)
        s = trunk.run(self, self.blocks, self.join.open(tokens), masks, train=train, remat=self.remat, scan=self.scan)
        x = self.last_norm(self.join.close(s))
        pooled = jnp.mean(x.astype(jnp.float32), axis=1)
        return {ft.TOKENS: x, ft.MAP: x.reshape(x.shape[0], *grid, self.width), ft.POOLED: pooled}


def _check_tokens(module: nn.Module, path: tuple[str, str], tokens: int) -> None:
    """Raises ValueError if there are weights for another number of tokens."""
    kernel = module.variables.get('params', {}).get(path[0], {}).get(path[1])
    if kernel is not None and kernel.shape[0] != tokens:
        raise ValueError(
            f'the weights mix {kernel.shape[0]} patches and the image has {tokens}: use the image size '
            'and the patch that they were made for.'
        )


# Table 1 of each paper; the names are timm's. LayerScale is initialized as in Meta's code, smaller in deeper networks.
_MIXER = functools.partial(Mixer, stem_init=_LECUN, stem_bias_init=_ZEROS)
_RESMLP = functools.partial(Mixer, norm=Affine, mixer=TokenLinear, mlp=Mlp)
VARIANTS = {
    'mixer_s32_224': _MIXER(512, 8, 32),
    'mixer_s16_224': _MIXER(512, 8, 16),
    'mixer_b32_224': _MIXER(768, 12, 32),
    'mixer_b16_224': _MIXER(768, 12, 16),
    'mixer_l32_224': _MIXER(1024, 24, 32),
    'mixer_l16_224': _MIXER(1024, 24, 16),
    'resmlp_12_224': _RESMLP(384, 12, residual=functools.partial(LayerScale, initial=0.1)),
    'resmlp_24_224': _RESMLP(384, 24, residual=functools.partial(LayerScale, initial=1e-5)),
    'resmlp_36_224': _RESMLP(384, 36, residual=functools.partial(LayerScale, initial=1e-6)),
    'resmlp_big_24_224': _RESMLP(768, 24, 8, residual=functools.partial(LayerScale, initial=1e-6)),
    'mixer_test': _MIXER(32, 2, 4),
    'resmlp_test': _RESMLP(32, 2, 4, residual=functools.partial(LayerScale, initial=0.1)),
}

_MIXER_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2105.01601', (224, 224))
_RESMLP_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2105.03404', (224, 224))
PUBLISHED = {
    'mixer_s32_224': _MIXER_PAPER(params=19),
    'mixer_s16_224': _MIXER_PAPER(params=18),
    'mixer_b32_224': _MIXER_PAPER(params=60),
    'mixer_b16_224': _MIXER_PAPER(params=59, top1=76.4),
    'mixer_l32_224': _MIXER_PAPER(params=206),
    'mixer_l16_224': _MIXER_PAPER(params=207, top1=71.8),
    'resmlp_12_224': _RESMLP_PAPER(params=15, macs=3.0, top1=76.6),
    'resmlp_24_224': _RESMLP_PAPER(params=30, macs=6.0, top1=79.4),
    'resmlp_36_224': _RESMLP_PAPER(params=45, macs=8.9, top1=79.7),
    'resmlp_big_24_224': _RESMLP_PAPER(params=129, macs=100),
}


# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('alpha', 'alpha'), ('beta', 'beta'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_HERE = 'backbone/block{i:02d}/'
# The authors' own: of the Mixer in JAX, of ResMLP in PyTorch.
_JAX_BLOCK = (
    *((f'LayerNorm_{n}/{a}', f'{part}_norm/{a}') for n, part in enumerate(('mixer', 'mlp')) for a in ('scale', 'bias')),
    *(
        (f'{part}_mixing/Dense_{n}/{a}', f'{ours}/{place}/{a}')
        for part, ours in (('token', 'mixer'), ('channel', 'mlp'))
        for n, place in enumerate(('up', 'down'))
        for a in ('kernel', 'bias')
    ),
)
_JAX_NAMES = (
    *((f'stem/{a}', f'backbone/stem/{a}') for a in ('kernel', 'bias')),
    *((f'MixerBlock_{{i}}/{there}', _HERE + here) for there, here in _JAX_BLOCK),
    *((f'pre_head_layer_norm/{a}', f'backbone/norm/{a}') for a in ('scale', 'bias')),
    *((f'head/{a}', f'head/{a}') for a in ('kernel', 'bias')),
)
_RESMLP_NAMES = (
    *((f'patch_embed.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
    *((f'blocks.{{i}}.attn.{a}', f'{_HERE}mixer/mix/{b}') for a, b in _AFFINE),
    *(
        (f'blocks.{{i}}.mlp.fc{n}.{a}', f'{_HERE}mlp/{here}/{b}')
        for n, here in ((1, 'up'), (2, 'down'))
        for a, b in _AFFINE
    ),
    *((f'blocks.{{i}}.gamma_{n}', f'{_HERE}{part}_residual/scale') for n, part in ((1, 'mixer'), (2, 'mlp'))),
)
NAMES = {
    'Mixer': (
        *((f'stem.proj.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        *(('blocks.{i}.norm1.' + a, 'backbone/block{i:02d}/mixer_norm/' + b) for a, b in _NORM),
        *(('blocks.{i}.mlp_tokens.fc1.' + a, 'backbone/block{i:02d}/mixer/up/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.mlp_tokens.fc2.' + a, 'backbone/block{i:02d}/mixer/down/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.linear_tokens.' + a, 'backbone/block{i:02d}/mixer/mix/' + b) for a, b in _AFFINE),
        ('blocks.{i}.ls1', 'backbone/block{i:02d}/mixer_residual/scale'),
        *(('blocks.{i}.norm2.' + a, 'backbone/block{i:02d}/mlp_norm/' + b) for a, b in _NORM),
        *(('blocks.{i}.mlp_channels.fc1.' + a, 'backbone/block{i:02d}/mlp/up/' + b) for a, b in _AFFINE),
        *(('blocks.{i}.mlp_channels.fc2.' + a, 'backbone/block{i:02d}/mlp/down/' + b) for a, b in _AFFINE),
        ('blocks.{i}.ls2', 'backbone/block{i:02d}/mlp_residual/scale'),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
        *_JAX_NAMES,
        *_RESMLP_NAMES,
    ),
}
