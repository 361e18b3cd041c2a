"""SGConv: convolutions as long as the sequence, with kernels of few parameters that decay with the distance.

Li et al., 2022, "What Makes Convolutional Models Great on Long Sequence Modeling?", https://arxiv.org/abs/2210.09298.
Reference: https://github.com/ctlllll/SGConv (no licence stated), commit 97862df, gconv_standalone.py; read for facts,
no code was taken. The network around it is that of S4's example, https://github.com/state-spaces/s4 (Apache-2.0).

A kernel is a concatenation of bands, each as long as all bands before it together. All bands have equally many
parameters, which are stretched by linear interpolation and scaled by ``decay ** -band``. As in the reference the kernel
is always divided by the L2 norm that it has at initialization, without a gradient through this number; here it is
computed together with the initial values and stored beside the parameters (collection ``constants``). Where we differ:
the published code also has a learned decay and other interpolation modes, which the paper does not use.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.long_filter import LongFilter
from longview.modelzoo.sequence.trunk import Trunk, s4_example_names


class SGConv(LongFilter):
    """``out(gelu(convolution(x) + D x))``.

    Attributes:
        places, bidirectional, dtype: see `layers.mixers.long_filter.LongFilter`.
        band: number of parameters per band and channel.
        decays: the decay from one band to the next, for the first and for the last channel.
    """

    band: int = 64
    decays: tuple[float, float] = (2.0, 2.0)

    @property
    def _bands(self) -> int:
        return 1 + math.ceil(math.log2(self.places / self.band))

    @property
    def _span(self) -> int:
        return self.band * 2 ** (self._bands - 1)

    def _out(self, y: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        return Dense(y.shape[-1], True, init.uniform_fan_in(y.shape[-1]), self.dtype, name='out')(y)

    def _kernel(self, width: int) -> Float[Array, 'k d s']:
        """Returns the taps of each channel, divided by their initial L2 norm."""
        shape = (self.band, width, 1 + self.bidirectional)
        decay = jnp.linspace(*self.decays, width)[None, :, None]
        bands = []
        for index in range(self._bands):
            taps = Taps(shape, name=f'band{index}')()
            bands.append(stretched(taps, 2 ** max(0, index - 1)) * decay ** (self._bands - 1 - index))
        kernel = jnp.concatenate(bands)
        length = self.variable('constants', 'length', lambda: jnp.sqrt(jnp.sum(kernel**2, axis=0)).T)
        return kernel / jax.lax.stop_gradient(length.value).T[None]


class Taps(nn.Module):
    """The parameters of a band, (taps, channels, directions)."""

    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self) -> Float[Array, 'k d s']:
        """Returns the parameters."""
        return self.param('kernel', jax.nn.initializers.normal(1.0), self.shape)


def stretched(taps: Float[Array, 'k d s'], factor: int) -> Float[Array, 'k2 d s']:
    """Returns the taps stretched by `factor` by linear interpolation, as for an image with ``align_corners=False``."""
    last = len(taps) - 1
    place = np.clip((np.arange(len(taps) * factor) + 0.5) / factor - 0.5, 0, last)
    below = np.minimum(place.astype(int), max(last - 1, 0))
    share = jnp.asarray(place - below, taps.dtype)[:, None, None]
    return taps[below] * (1 - share) + taps[np.minimum(below + 1, last)] * share


class SGConvNetwork(Trunk):
    """`Trunk` with SGConv; the other published names are those of S4's example."""


_CLASSIFIER = functools.partial(SGConvNetwork, last_norm=None, pre_norm=False)
VARIANTS = {
    'sgconv_example': _CLASSIFIER(128, 4, functools.partial(SGConv, bidirectional=True)),
    'sgconv_test': _CLASSIFIER(8, 1, functools.partial(SGConv, places=8, band=2, decays=(1.5, 2.0))),
}
PUBLISHED: dict[str, ft.Published] = {}


# Published names of a mixer's parameters, and ours; see weights.py.
MIXER_NAMES = (
    ('D', 'D'),
    ('kernel_list.{i}', 'band{i}/kernel'),
    ('kernel_norm', 'length', 1),
    ('output_linear.weight', 'out/kernel'),
    ('output_linear.bias', 'out/bias'),
    ('multiplier', ''),
    ('kernel_norm_initialized', ''),
)
NAMES = {'SGConvNetwork': s4_example_names('layers', MIXER_NAMES)}
