"""NiNformer's gating unit: a whole MLP-Mixer block inside of a block makes the factors of a linear map of the tokens.

Abdullah and Aydin, 2024, "NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function",
https://arxiv.org/abs/2403.02411. Reference: https://github.com/Abdullah-88/NiNformer (BSD-3-Clause), commit 0ec85d4,
ninformer.py. Whatever takes a `mixer` can take the unit: ViT, or the networks of modelzoo/vision/ninformer.py.

Where we differ: biases start at 0, not uniformly distributed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.dropout import dropout
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.norms.norm import LayerNorm

# torch's default, uniform with the bound 1 / sqrt(fan_in).
_TORCH_S = jax.nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# Where an example's keys are needed: twice in each feed-forward layer.
KEYS = 4


class FeedForward(nn.Module):
    """``dropout(down(dropout(gelu(up(x)))))``, with biases.

    Attributes:
        hidden: width between the two matrices.
        rate: of both dropouts.
        kernel_init: initial values of both matrices.
        dtype: compute type.
    """

    hidden: int
    rate: float = 0.0
    kernel_init: init.Initializer = _TORCH_S
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], keys: Key[Array, '2 b'] | None = None) -> Float[Array, 'b n d']:
        """Acts on the last axis; `keys` are those of both dropouts, None for no dropout."""
        inner, outer = (None, None) if keys is None else keys
        y = gelu(Dense(self.hidden, True, self.kernel_init, self.dtype, name='up')(x))
        y = Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='down')(dropout(y, inner, self.rate))
        return dropout(y, outer, self.rate)


class MixerGate(nn.Module):
    """``proj(x) * mixer(x)``, where the mixer is two residual branches, one across the tokens, one across the channels.

    ``mixer(x) = z + channel_mix(norm(z))`` with ``z = x + token_mix(norm(x))``.

    Attributes:
        ratio: hidden width of both branches over the number of channels.
        rate: of the dropouts in the branches.
        kernel_init: initial values of all matrices; by default torch's.
        norm: factory of the norms of the branches.
        dtype: compute type.
        heads: unused, for the signature that the mixers of a ViT share.
    """

    ratio: float = 2.0
    rate: float = 0.0
    kernel_init: init.Initializer = _TORCH_S
    norm: Callable[..., nn.Module] = LayerNorm
    dtype: DTypeLike = jnp.float32
    heads: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b n d'], *, train: bool = False, keys: Key[Array, 'p b'] | None = None
    ) -> Float[Array, 'b n d']:
        """Mixes the tokens.

        Args:
            x: as many tokens as at the first call, in the same order.
            train: whether there should be keys where there is dropout.
            keys: of the `KEYS` dropouts, one for each example; None for no dropout.

        Raises:
            ValueError: the weights are for another number of tokens, or dropout has no keys in training.
        """
        self._check_tokens(x.shape[1])
        if train and self.rate and keys is None:
            raise ValueError(
                f'MixerGate.rate is {self.rate} and the network gives it no keys for dropout: use rate=0, or NiNformer.'
            )
        hidden = int(x.shape[-1] * self.ratio)
        branch = lambda name: FeedForward(hidden, self.rate, self.kernel_init, self.dtype, name=name)
        token_keys, channel_keys = (None, None) if keys is None else (keys[:2], keys[2:])
        y = self.norm(dtype=self.dtype, name='token_norm')(x)
        z = x + branch('token_mix')(y.swapaxes(1, 2), token_keys).swapaxes(1, 2)
        y = self.norm(dtype=self.dtype, name='channel_norm')(z)
        gate = z + branch('channel_mix')(y, channel_keys)
        return Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='proj')(x) * gate

    def _check_tokens(self, tokens: int) -> None:
        mix = self.variables.get('params', {}).get('token_mix')
        if mix is not None and mix['up']['kernel'].shape[0] != tokens:
            raise ValueError(
                f'the weights mix {mix["up"]["kernel"].shape[0]} tokens and the input has {tokens}: use the image size '
                'and the patch that they were made for.'
            )
