"""RWKV-4: time mixing, a weighted average of past values with decaying weights, and channel mixing.

Peng et al., 2023, "RWKV: Reinventing RNNs for the Transformer Era", https://arxiv.org/abs/2305.13048. Reference:
https://github.com/HazyResearch/zoology (Apache-2.0), commit d88d6f5, zoology/mixers/rwkv.py, which is the authors'
https://github.com/BlinkDL/RWKV-LM (Apache-2.0); read for facts, no code was taken.

    wkv_t = (sum_{i < t} e^{(t - 1 - i) w + k_i} v_i + e^{u + k_t} v_t) / (the same with v = 1),  w = -e^decay

Both begin with a token shift, which interpolates each element with the one before it. Sums are stored with a separate
logarithmic scale, so that no exponential overflows; a sequence is read by an associative scan. Where we differ: the
sums are always float32 (the reference rounds the result to bfloat16).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.mixer import Mixer

_NOTHING = -1e30


class Sums(NamedTuple):
    """The weighted sums of values and of ones, stored as ``e^scale * values`` and ``e^scale * ones``."""

    scale: Float[Array, 'b t d']
    values: Float[Array, 'b t d']
    ones: Float[Array, 'b t d']


class State(NamedTuple):
    """The previous element, and the sums over all elements read."""

    before: Float[Array, 'b 1 d']
    sums: Sums


class TimeMix(Mixer):
    """``out(sigmoid(r) * wkv)`` with receptance, keys and values computed after a token shift.

    Attributes:
        depth: relative position of the block, from 0 for the first to 1 for the last; used for initial values only.
        fade: 1 for the first block, falling to 1 / blocks for the last; used for initial values only.
        kernel_init: initial values of the matrices.
        dtype: compute type of the matrices.
    """

    depth: float = 0.0
    fade: float = 1.0
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        zeros = jnp.zeros((batch, 1, width))
        return State(zeros.astype(self.dtype), Sums(zeros + _NOTHING, zeros, zeros))

    def _sequence_state(self, x: Float[Array, 'b t d']) -> State:
        return self.init_state(*x.shape[::2])

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State) -> tuple[Float[Array, 'b t d'], State]:
        width = x.shape[-1]
        shares = {'k': rising(self.fade), 'v': rising(self.fade, 0.3 * self.depth), 'r': rising(0.5 * self.fade)}
        mixed, before = {}, state.before
        for name, initial in shares.items():
            mixed[name], last = token_shift(self.param(f'mix_{name}', initial, (1, 1, width)), x, before)
        linear = lambda name: Dense(width, False, self.kernel_init, self.dtype, name=name)
        r, k, v = (linear(name)(mixed[name]).astype(jnp.float32) for name in 'rkv')
        decay = -jnp.exp(self.param('decay', self._decays, (width,)))
        bonus = self.param('bonus', _bonus, (width,))
        found, sums = weighted_mean(k, v, decay, bonus, state.sums)
        return linear('out')(jax.nn.sigmoid(r) * found), State(last, sums)

    def _decays(self, key: Array, shape: Sequence[int]) -> Array:
        del key
        return -5 + 8 * (jnp.arange(shape[0]) / max(shape[0] - 1, 1)) ** (0.7 + 1.3 * self.depth)


class ChannelMix(Mixer):
    """``sigmoid(r) * down(relu(up)^2)`` after a token shift.

    Attributes:
        fade, kernel_init, dtype: as in `TimeMix`.
        ratio: hidden width over width.
    """

    fade: float = 1.0
    ratio: int = 4
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> Float[Array, 'b 1 d']:
        """Returns the element before the first one: zeros."""
        return jnp.zeros((batch, 1, width), self.dtype)

    def _sequence_state(self, x: Float[Array, 'b t d']) -> Float[Array, 'b 1 d']:
        return self.init_state(*x.shape[::2])

    @nn.compact
    def _mix(
        self, x: Float[Array, 'b t d'], state: Float[Array, 'b 1 d']
    ) -> tuple[Float[Array, 'b t d'], Float[Array, 'b 1 d']]:
        width = x.shape[-1]
        linear = lambda size, name: Dense(size, False, self.kernel_init, self.dtype, name=name)
        k, last = token_shift(self.param('mix_k', rising(self.fade), (1, 1, width)), x, state)
        r, _ = token_shift(self.param('mix_r', rising(self.fade), (1, 1, width)), x, state)
        hidden = jax.nn.relu(linear(self.ratio * width, 'up')(k)) ** 2
        return jax.nn.sigmoid(linear(width, 'r')(r)) * linear(width, 'down')(hidden), last


def token_shift(
    share: Float[Array, '1 1 d'], x: Float[Array, 'b t d'], before: Float[Array, 'b 1 d']
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b 1 d']]:
    """Returns ``share * x_t + (1 - share) * x_{t - 1}`` for each element t, and the last element.

    Args:
        share: weight of the element itself, per channel.
        x: the elements.
        before: the element before the first one.
    """
    seen = jnp.concatenate([before.astype(x.dtype), x], axis=1)
    share = share.astype(x.dtype)
    return x * share + seen[:, :-1] * (1 - share), seen[:, -1:]


def weighted_mean(
    k: Float[Array, 'b t d'],
    v: Float[Array, 'b t d'],
    decay: Float[Array, ' d'],
    bonus: Float[Array, ' d'],
    initial: Sums,
) -> tuple[Float[Array, 'b t d'], Sums]:
    """Returns ``wkv``, and the sums after the last element.

    Args:
        k, v: keys and values.
        decay: w, at most 0.
        bonus: u, the bonus of the current element.
        initial: the sums before the first element.
    """
    decay = decay[None, None]
    places = 1 + jnp.arange(k.shape[1], dtype=jnp.float32)[None, :, None]
    here = _shown(Sums(k, v, jnp.ones_like(v)))

    def join(left: tuple[Array, Sums], right: tuple[Array, Sums]) -> tuple[Array, Sums]:
        return left[0] + right[0], _added(_faded(left[1], right[0] * decay), right[1])

    _, read = lax.associative_scan(join, (jnp.ones_like(places), here), axis=1)
    sums = _added(_faded(initial, places * decay), read)
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first, rest[:, :-1]], axis=1), initial, sums)
    total = _added(before, _faded(here, bonus[None, None]))
    return total.values / total.ones, jax.tree.map(lambda part: part[:, -1:], sums)


def _shown(sums: Sums) -> Sums:
    """Returns equal sums whose scale has no gradient; they do not depend on how the scale is chosen."""
    scale = lax.stop_gradient(sums.scale)
    factor = jnp.exp(sums.scale - scale)
    return Sums(scale, sums.values * factor, sums.ones * factor)


def _faded(sums: Sums, log: Float[Array, 'b t d']) -> Sums:
    return _shown(sums._replace(scale=sums.scale + log))


def _added(one: Sums, two: Sums) -> Sums:
    scale = jnp.maximum(one.scale, two.scale)
    first, second = jnp.exp(one.scale - scale), jnp.exp(two.scale - scale)
    return Sums(scale, one.values * first + two.values * second, one.ones * first + two.ones * second)


def rising(power: float, more: float = 0.0) -> Callable[..., Array]:
    """Initial shares that rise from 0 for the first channel towards 1, plus `more`."""
    return lambda key, shape: ((jnp.arange(shape[-1]) / shape[-1]) ** power + more).reshape(shape)


def _bonus(key: Array, shape: Sequence[int]) -> Array:
    del key
    return math.log(0.3) + 0.5 * ((jnp.arange(shape[0]) + 1) % 3 - 1)


# Published names of the parameters of the two mixers, and ours; see weights.py.
NAMES = (
    ('time_decay', 'decay'),
    ('time_first', 'bonus'),
    *((f'time_mix_{name}', f'mix_{name}') for name in 'kvr'),
    ('key.weight', 'k/kernel'),
    ('value.weight', 'v/kernel'),
    ('receptance.weight', 'r/kernel'),
    ('output.weight', 'out/kernel'),
)
CHANNEL_NAMES = (
    *((f'time_mix_{name}', f'mix_{name}') for name in 'kr'),
    ('key.weight', 'up/kernel'),
    ('receptance.weight', 'r/kernel'),
    ('value.weight', 'down/kernel'),
)
