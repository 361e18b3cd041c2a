"""NiNformer: a gate made by an MLP-Mixer block takes the place of a ViT's attention.

Abdullah and Aydin, 2024, "NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function",
https://arxiv.org/abs/2403.02411. Reference: https://github.com/Abdullah-88/NiNformer (BSD-3-Clause), commit 0ec85d4,
ninformer.py and train.py; `NAMES` maps its parameter names.

Details of the published code, kept here: both branches of a block share one LayerNorm, whose epsilon is 1e-5; there are
neither positions nor a class token nor a last norm; the classifier reads the mean of the patches. The matrices across
the patches take their size from the first input.

Where we differ: biases start at 0 (layers/mixers/mixer_gate.py), and there may be stochastic depth.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.dropout import dropout_keys
from longview.modelzoo.layers.frame.patch import Patches, patch_grid
from longview.modelzoo.layers.mixers import mixer_gate
from longview.modelzoo.layers.mixers.mixer_gate import FeedForward, MixerGate
from longview.modelzoo.layers.norms.norm import LayerNorm


class Block(nn.Module):
    """``x += gate(norm(x))``, then ``x += mlp(norm(x))``, with one norm for both.

    Attributes:
        ratio: hidden width of every feed-forward layer over the number of channels.
        rate: of the dropouts.
        norm, mixer: factories of the parts.
        dtype: compute type.
    """

    ratio: float = 2.0
    rate: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mixer: Callable[..., nn.Module] = MixerGate
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b n d'],
        drawn: tuple[Float[Array, 'r b'] | None, Key[Array, 'p b'] | None] = (None, None),
        *,
        train: bool = False,
    ) -> Float[Array, 'b n d']:
        """Returns the next tokens; `drawn` are its masks of `drop.path_masks` and its keys of `dropout_keys`."""
        mixer_mask, mlp_mask = (None, None) if drawn[0] is None else drawn[0]
        mixer_keys, mlp_keys = (None, None) if drawn[1] is None else (drawn[1][: mixer_gate.KEYS], drawn[1][-2:])
        norm = self.norm(dtype=self.dtype, name='norm')
        mixer = self.mixer(ratio=self.ratio, rate=self.rate, dtype=self.dtype, name='mixer')
        x = x + drop_path(mixer(norm(x), train=train, keys=mixer_keys), mixer_mask)
        mlp = FeedForward(int(x.shape[-1] * self.ratio), self.rate, dtype=self.dtype, name='mlp')
        return x + drop_path(mlp(norm(x), mlp_keys), mlp_mask)


class NiNformer(ft.WholeGridBackbone):
    """The network.

    Attributes:
        width: channels of the tokens.
        depth: number of blocks.
        patch: side of the patches.
        ratio: hidden width of every feed-forward layer over the width.
        dropout: rate of the dropouts in these, behind GELU and behind the second matrix.
        drop_path: stochastic depth of the last block, which the paper has not; see layers/frame/drop.py.
        norm, mixer: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    width: int = 256
    depth: int = 4
    patch: int = 4
    ratio: float = 2.0
    dropout: float = 0.5
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mixer: Callable[..., nn.Module] = MixerGate
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Makes the parts."""
        self.stem = Patches(self.width, self.patch, dtype=self.dtype)
        self.blocks = [
            Block(self.ratio, self.dropout, self.norm, self.mixer, self.dtype, name=name)
            for name in trunk.names(self.depth)
        ]

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patch embedding, each block; no other layer follows."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)))

    def grid(self, height: int, width: int) -> ft.Grid:
        """Returns rows and columns of patches."""
        return patch_grid(height, width, self.patch)

    def encode(self, tokens: Float[Array, 'b n d'], grid: ft.Grid | None, *, train: bool = False) -> ft.Features:
        """Runs the blocks on a whole grid of patches.

        Raises:
            ValueError: `grid` is None; the blocks have a weight for each pair of positions.
        """
        self._check_whole(grid)
        batch = tokens.shape[0]
        drawn = (
            path_masks(self, self.drop_path, self.depth, batch, train=train),
            dropout_keys(self, self.dropout, self.depth, batch, places=mixer_gate.KEYS + 2, train=train),
        )
        x = trunk.run(self, self.blocks, tokens, drawn, train=train, remat=self.remat, scan=self.scan)
        pooled = jnp.mean(x.astype(jnp.float32), axis=1)
        return {ft.TOKENS: x, ft.MAP: x.reshape(batch, *grid, self.width), ft.POOLED: pooled}


# The one network of the published code, which is for CIFAR-10.
VARIANTS = {
    'ninformer_256_4_cifar': NiNformer(),
    'ninformer_test': NiNformer(16, 2, dropout=0.0),
}

PUBLISHED = {'ninformer_256_4_cifar': ft.Published('https://arxiv.org/abs/2403.02411', (32, 32))}

# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORMS = (
    ('norm', 'norm'),
    ('mgu.Mixer.token_mix.0', 'mixer/token_norm'),
    ('mgu.Mixer.channel_mix.0', 'mixer/channel_norm'),
)
_LAYERS = (
    ('mgu.proj', 'mixer/proj'),
    *(
        (f'{there}.net.{k}', f'{here}/{place}')
        for there, here in (
            ('mgu.Mixer.token_mix.2', 'mixer/token_mix'),
            ('mgu.Mixer.channel_mix.1', 'mixer/channel_mix'),
            ('ffn', 'mlp'),
        )
        for k, place in ((0, 'up'), (3, 'down'))
    ),
)


def block_names(here: str) -> tuple[tuple[str, str], ...]:
    """Returns the names of the blocks; `here` is our path of the network, with a slash behind it."""
    there, ours = 'model.{i}.', here + 'block{i:02d}/'
    return (
        *((f'{there}{name}.{a}', f'{ours}{path}/{b}') for name, path in _NORMS for a, b in _NORM),
        *((f'{there}{name}.{a}', f'{ours}{path}/{b}') for name, path in _LAYERS for a, b in _AFFINE),
    )


NAMES = {
    'NiNformer': (
        *((f'patcher.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        *block_names('backbone/'),
        *((f'classifier.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
