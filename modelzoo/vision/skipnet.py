"""SkipNet: a residual network for CIFAR that decides for each image which blocks to run.

Wang et al., 2017, "SkipNet: Learning Dynamic Routing in Convolutional Networks", https://arxiv.org/abs/1711.09485.
Reference: https://github.com/ucbdrive/skipnet at 4825e53 (no licence stated), cifar/models.py, read for facts; `NAMES`
maps its parameter names. After each block a gate reads the map x and computes how much of the next block is used:

    x <- g block(x) + (1 - g) shortcut(x),

where the shortcut is the identity, or the projection of the block where the shape changes. The first block always runs.
Feed-forward gates have one or two convolutions and are independent (`ConvGate`, `Apart`); recurrent gates have a matrix
each and share a small LSTM (`MeanGate`, `Recurrent`). A function maps the logit of a gate to g: `hard`, `soft` or
`sampled`.

Details of the published code that are not in the paper, kept here:
  * there is a gate after the last block, whose output is not used;
  * every block is computed for every image, also in evaluation, and multiplied by g. The feature `gates` shows which
    blocks a program that really skips would not have run;
  * the scales of the norms at the ends of branches are initially 1.
Where we differ: a projection is computed once; there it is computed twice with the same weights, and its running
averages are updated twice per step. A gate averages its whole last map, which at the published size is the window of
the reference. Biases of gates are initially 0; a head has the initial values of modelzoo/heads.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, Stem, projection
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path, example_keys, path_masks
from longview.modelzoo.layers.frame.pool import global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_HE = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
Logit = Float[Array, ' b']
Draw = Callable[[], Float[Array, ' b']]


def hard(logit: Logit, draw: Draw, *, train: bool) -> Float[Array, ' b']:
    """Returns 1 where the gate is open, else 0, with the gradient of the probability (straight-through)."""
    del draw, train
    probability = jax.nn.sigmoid(logit)
    return (probability > 0.5).astype(jnp.float32) + (probability - jax.lax.stop_gradient(probability))


def soft(logit: Logit, draw: Draw, *, train: bool) -> Float[Array, ' b']:
    """Returns the probability that the gate is open in training, and `hard` in evaluation."""
    return jax.nn.sigmoid(logit) if train else hard(logit, draw, train=train)


def sampled(logit: Logit, draw: Draw, *, train: bool) -> Float[Array, ' b']:
    """Returns a sample of 0 or 1 by the probability of the gate in training, and `hard` in evaluation.

    It has no gradient, for training by REINFORCE: the task reads the logits and the samples, see methods/exits/skip.py.
    """
    if not train:
        return hard(logit, draw, train=train)
    return jax.lax.stop_gradient((draw() < jax.nn.sigmoid(logit)).astype(jnp.float32))


class ConvGate(nn.Module):
    """From a map to two logits, closed and open: 3x3 convolutions, the last one of stride 2, global mean, a matrix.

    Attributes:
        features: channels of the map and of the convolutions.
        pooled: FFGate-I, with 2x2 max-pooling and a second convolution; else FFGate-II.
        dtype: compute type; the logits are float32.
    """

    features: int
    pooled: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b 2']:
        """Returns the logits.

        Raises:
            ValueError: the map is too small for the pooling.
        """
        conv = functools.partial(ConvNorm, self.features, 3, dtype=self.dtype)
        strides = (1, 2) if self.pooled else (2,)
        if self.pooled:
            if min(x.shape[1:3]) < 2:
                raise ValueError(
                    f'a gate of SkipNet pools 2x2 pixels and got a map of {x.shape[1]}x{x.shape[2]}: use '
                    'a larger image, fewer stages, or gates with pooled=False.'
                )
            x = max_pool(x, 2, 2, 0)
        for index, stride in enumerate(strides):
            x = nn.relu(conv(stride=stride, name=f'conv{index + 1}')(x, train=train))
        return Dense(2, kernel_init=_HE, name='linear')(global_mean(x))


class MeanGate(nn.Module):
    """From the global mean of a map to the input of the recurrent gate.

    Attributes:
        features: channels of the map; unused.
        size: channels of the result.
        dtype: unused; the result is float32.
    """

    features: int
    size: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b k']:
        """Returns the input of the recurrent gate; `train` is ignored."""
        del train
        return Dense(self.size, kernel_init=_HE, name='embed')(global_mean(x))


class Apart(nn.Module):
    """Independent gates: the logit is that of being open minus that of being closed."""

    def init_state(self, batch: int) -> tuple[()]:
        """Returns the empty state."""
        del batch
        return ()

    def __call__(self, state: tuple[()], y: Float[Array, 'b 2']) -> tuple[tuple[()], Logit]:
        """Returns the state and the logit."""
        return state, y[:, 1] - y[:, 0]


class Recurrent(nn.Module):
    """An LSTM over the blocks, in torch's form, and a matrix to one logit.

    Attributes:
        size: size of the state.
    """

    size: int = 10

    def init_state(self, batch: int) -> tuple[Array, Array]:
        """Returns the zero state: output and cell."""
        return jnp.zeros((batch, self.size)), jnp.zeros((batch, self.size))

    @nn.compact
    def __call__(self, state: tuple[Array, Array], y: Float[Array, 'b k']) -> tuple[tuple[Array, Array], Logit]:
        """Returns the next state and the logit."""
        output, cell = state
        part = functools.partial(Dense, 4 * self.size, kernel_init=init.uniform_fan_in(self.size))
        entered, forgot, new, left = jnp.split(part(name='input')(y) + part(name='hidden')(output), 4, axis=-1)
        cell = jax.nn.sigmoid(forgot) * cell + jax.nn.sigmoid(entered) * jnp.tanh(new)
        output = jax.nn.sigmoid(left) * jnp.tanh(cell)
        project = Dense(1, kernel_init=jax.nn.initializers.normal(math.sqrt(2 / self.size)), name='linear')
        return (output, cell), project(output)[:, 0]


class Block(nn.Module):
    """``g relu(shortcut(x) + branch(x)) + (1 - g) shortcut(x)`` with two 3x3 convolutions.

    Attributes:
        features: output channels.
        stride: of the first convolution.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        gate: Float[Array, ' b'],
        mask: Float[Array, ' b'] | None,
        *,
        train: bool = False,
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `gate` is g, and `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, self.features, 3, dtype=self.dtype)
        y = nn.relu(conv(stride=self.stride, name='conv1')(x, train=train))
        y = drop_path(conv(name='conv2')(y, train=train), mask)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = projection(self.features, self.stride, BatchNorm, self.dtype, 'shortcut')(x, train=train)
        x, gate = x.astype(y.dtype), gate.astype(y.dtype)[:, None, None, None]
        return gate * nn.relu(x + y) + (1 - gate) * x


class SkipNet(ft.PyramidBackbone):
    """The network: a 3x3 convolution and stages of gated blocks; each stage but the first halves the resolution.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        gate: factory of the module that reads the map after a block.
        control: factory of the module that turns the outputs of the gates into logits.
        decide: logit -> g; see `hard`.
        stem_width: channels after the stem.
        drop_path: stochastic depth of the last block's branch; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (6, 6, 6)
    widths: Sequence[int] = (16, 32, 64)
    gate: Callable[..., nn.Module] = ConvGate
    control: Callable[..., nn.Module] = Apart
    decide: Callable[..., Array] = hard
    stem_width: int = 16
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4."""
        return tuple(2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block with the gate after it, and the module that the gates share."""
        blocks = [(f'{stage}_block{index:02d}', f'{stage}_gate{index:02d}') for stage, index, _, _ in self._blocks()]
        return (('stem',), *blocks, ('control',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map``, ``pooled``, ``gates`` and ``gate_logits``.

        Raises:
            ValueError: there is only one block, or a map is too small for its gate.
        """
        stem = x = Stem(self.stem_width, 1, dtype=self.dtype, name='stem')(x, train=train)
        blocks = self._blocks()
        if len(blocks) < 2:
            raise ValueError(
                f'SkipNet never skips its first block, and depths are {tuple(self.depths)}: use 2 or more.'
            )
        masks = path_masks(self, self.drop_path, len(blocks), x.shape[0], branches=1, train=train)
        run = lambda block, x, gate, mask: block(x, gate, mask, train=train)
        run = nn.remat(run) if self.remat else run
        control = self.control(name='control')
        state, g = control.init_state(x.shape[0]), jnp.ones(x.shape[0])
        features, gates, logits = {ft.STEM: stem}, [], []
        for number, (stage, index, width, stride) in enumerate(blocks):
            block = Block(width, stride, self.dtype, name=f'{stage}_block{index:02d}')
            x = run(block, x, g, None if masks is None else masks[number, 0])
            seen = self.gate(features=width, dtype=self.dtype, name=f'{stage}_gate{index:02d}')(x, train=train)
            state, logit = control(state, seen)
            g = self.decide(logit, functools.partial(self._draw, x.shape[0]), train=train)
            features[stage], gates, logits = x, [*gates, g], [*logits, logit]
        said = {ft.GATES: gates, ft.GATE_LOGITS: logits}
        said = {key: jnp.stack(values[:-1], axis=1).astype(self.dtype) for key, values in said.items()}
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x), **said}

    def _blocks(self) -> list[tuple[str, int, int, int]]:
        """Returns (stage, index in the stage, width, stride) of each block."""
        return [
            (ft.stage(stage), index, width, 2 if stage and not index else 1)
            for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True))
            for index in range(depth)
        ]

    def _draw(self, batch: int) -> Float[Array, ' b']:
        """Returns a random number from 0 to 1 for each example."""
        return jax.vmap(jax.random.uniform)(example_keys(self, batch))


_SINGLE = functools.partial(ConvGate, pooled=False)

# Section 4.1: ResNets for CIFAR with 6 n + 2 layers; in the code those with 110 layers have the smaller gates.
# Recurrent gates were also published for 74 and 110 layers: depths of 12 and 18.
VARIANTS = {
    'skipnet_ffgate1_38': SkipNet((6, 6, 6)),
    'skipnet_ffgate1_74': SkipNet((12, 12, 12)),
    'skipnet_ffgate2_110': SkipNet((18, 18, 18), gate=_SINGLE),
    'skipnet_rnn_38': SkipNet((6, 6, 6), gate=MeanGate, control=Recurrent),
    'skipnet_test': SkipNet((2, 1), (8, 16), decide=soft, stem_width=8),
}

PUBLISHED = {name: ft.Published('https://arxiv.org/abs/1711.09485', (32, 32)) for name in list(VARIANTS)[:-1]}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_LSTM = (
    ('rnn.weight_ih_l0', 'input/kernel'),
    ('rnn.bias_ih_l0', 'input/bias'),
    ('rnn.weight_hh_l0', 'hidden/kernel'),
    ('rnn.bias_hh_l0', 'hidden/bias'),
    ('proj.weight', 'linear/kernel'),
    ('proj.bias', 'linear/bias'),
)


def _conv_names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    return (
        (f'{there}.conv{{k}}.weight', f'{here}/conv{{k}}/conv/kernel'),
        *((f'{there}.bn{{k}}.{a}', f'{here}/conv{{k}}/norm/{b}') for a, b in _NORM),
    )


def _stage_names(stage: int) -> tuple[tuple, ...]:
    there, here = f'group{stage + 1}_', f'backbone/stage{stage}_'
    gate, block = here + 'gate{i:02d}', here + 'block{i:02d}'
    # The files hold each projection twice: by itself and as a part of its block.
    shortcuts = [there + 'ds{i}', there + 'layer{i}.downsample']
    return (
        *_conv_names(there + 'layer{i}', block),
        *_conv_names(there + 'gate{i}', gate),
        *((f'{name}.0.weight', f'{block}/shortcut/conv/kernel') for name in shortcuts),
        *((f'{name}.1.{a}', f'{block}/shortcut/norm/{b}') for name in shortcuts for a, b in _NORM),
        *(
            (f'{there}gate{{i}}.{layer}.{a}', f'{gate}/{ours}/{b}', axes)
            for layer, ours in (('linear_layer', 'linear'), ('1', 'embed'))
            for a, b, axes in (('weight', 'kernel', 2), ('bias', 'bias', 0))
        ),
    )


NAMES = {
    'SkipNet': (
        ('conv1.weight', 'backbone/stem/conv/kernel'),
        *((f'bn1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *(pair for stage in range(3) for pair in _stage_names(stage)),
        *((f'control.{a}', f'backbone/control/{b}') for a, b in _LSTM),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
