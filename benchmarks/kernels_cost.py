"""Ops at the sizes of networks, compiled for a TPU: the bytes that they move against the fewest that they could.

For `benchmarks.kernels cost`, and the programs of `benchmarks.kernels cycles`. The floor of an op is its inputs once
and its outputs once; with gradients it is three times the inputs (read forwards, read backwards, their cotangents) and
twice the outputs. Arrays have the shape in which a layer produces them, (B, T, H K) from a projection; those of gated
linear attention and of the linear scan lie in memory as there, with channels in lanes. XLA counts the bytes of a loop's
body once, those of a Pallas kernel are by its CostEstimate.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from longview.kernels.causal_conv1d import causal_conv1d
from longview.kernels.depthwise_conv import depthwise_conv
from longview.kernels.gla import bidirectional_gla, gla
from longview.kernels.linear_scan import linear_scan
from longview.kernels.long_conv import long_conv
from longview.kernels.long_conv2d import global_filter
from longview.kernels.selective_scan import selective_scan
from tests.kernels import tpu as chips


class Program(NamedTuple):
    """A function and the types of its inputs.

    in_layers: whether arrays lie as projections make them, with channels in lanes; otherwise as XLA chooses.
    """

    run: Callable[..., jax.Array]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    in_layers: bool = False

    def with_gradients(self) -> 'Program':
        """Returns the program of the output and all gradients; the cotangent is its first input."""

        def run(dy: jax.Array, *inputs: jax.Array) -> Any:
            y, pull = jax.vjp(self.run, *inputs)
            return y, pull(dy)

        return Program(run, (jax.eval_shape(self.run, *self.inputs), *self.inputs), self.in_layers)

    def compile(self, gradients: bool, chip: str = 'v5e') -> chips.Compiled:
        """Compiles the program, with or without gradients."""
        run, inputs, in_layers = self.with_gradients() if gradients else self
        return chips.compile_for(run, *inputs, chip=chip, as_in_layers=in_layers)

    def floor(self, gradients: bool) -> int:
        """Returns the fewest bytes that the program moves, with or without gradients."""
        inputs, output = _bytes(self.inputs), _bytes(jax.eval_shape(self.run, *self.inputs))
        return 3 * inputs + 2 * output if gradients else inputs + output


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _narrow(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def _wide(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def attention(batch: int, tokens: int, heads: int, keys: int, values: int, per_head: bool = False) -> Program:
    """Gated linear attention, with a decay per channel or per head."""
    split = lambda x: x.reshape(batch, tokens, heads, -1)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
        return gla(split(q), split(k), split(v), g if per_head else split(g))[0].reshape(v.shape)

    row, gate = partial(_narrow, batch, tokens), heads if per_head else heads * keys
    inputs = row(heads * keys), row(heads * keys), row(heads * values), _wide(batch, tokens, gate)
    return Program(run, inputs, in_layers=not per_head)  # a gate of few heads does not fill lanes: XLA places it


def both_ways(batch: int, tokens: int, heads: int, keys: int, values: int) -> Program:
    """Gated linear attention in both directions, with the same gates."""
    split = lambda x: x.reshape(batch, tokens, heads, -1)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
        return bidirectional_gla(split(q), split(k), split(v), split(g), split(g)).reshape(v.shape)

    row = partial(_narrow, batch, tokens)
    inputs = row(heads * keys), row(heads * keys), row(heads * values), _wide(batch, tokens, heads * keys)
    return Program(run, inputs, in_layers=True)


def mamba(batch: int, tokens: int, channels: int, states: int) -> Program:
    """The selective scan with everything that Mamba has around it."""

    def run(u: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, *rest: jax.Array) -> jax.Array:
        D, z, bias = rest
        return selective_scan(u, delta, A, B, C, D, z=z, delta_bias=bias, softplus=True)[0]

    row, weight = _narrow(batch, tokens, channels), _narrow(batch, tokens, states)
    return Program(run, (row, row, _wide(channels, states), weight, weight, _wide(channels), row, _wide(channels)))


def recurrence(batch: int, tokens: int, channels: int) -> Program:
    """The linear scan with a decay per token."""
    row = _narrow(batch, tokens, channels)
    return Program(lambda a, x: linear_scan(a, x)[0], (row, row), in_layers=True)


def convolution(batch: int, tokens: int, channels: int) -> Program:
    """The long convolution with a kernel as long as the sequence."""
    return Program(
        lambda u, kernel: long_conv(u, kernel), (_narrow(batch, tokens, channels), _narrow(tokens, channels))
    )


def short_convolution(batch: int, tokens: int, channels: int) -> Program:
    """The causal convolution of four taps, with a bias."""
    run = lambda x, kernel, bias: causal_conv1d(x, kernel, bias=bias)[0]
    return Program(run, (_narrow(batch, tokens, channels), _wide(4, channels), _wide(channels)))


def depthwise(batch: int, side: int, channels: int, taps: int) -> Program:
    """The depthwise convolution with a square kernel."""
    images, kernel = _narrow(batch, side, side, channels), _narrow(taps, taps, 1, channels)
    return Program(lambda x, kernel: depthwise_conv(x, kernel), (images, kernel))


def spectral(batch: int, side: int, channels: int) -> Program:
    """The global filter."""
    spectrum = _wide(side // 2 + 1, 2, side, channels)
    return Program(lambda u, spectrum: global_filter(u, spectrum), (_narrow(batch, side, side, channels), spectrum))


PROGRAMS: dict[str, Callable[[], Program]] = {
    'gla 8x4096 H4 K64 V128': partial(attention, 8, 4096, 4, 64, 128),
    'gla 8x2048 H4 K128 V256': partial(attention, 8, 2048, 4, 128, 256),
    'gla, a decay a head, 8x2048 H24 K128 V64': partial(attention, 8, 2048, 24, 128, 64, True),
    'gla 8x2048 H12 K80 V80': partial(attention, 8, 2048, 12, 80, 80),
    'bidirectional gla 64x196 H6 K32 V64': partial(both_ways, 64, 196, 6, 32, 64),
    'mamba 8x2048 D2048 N16': partial(mamba, 8, 2048, 2048, 16),
    'mamba 64x196 D384 N16': partial(mamba, 64, 196, 384, 16),
    'linear scan 8x2048 D2560': partial(recurrence, 8, 2048, 2560),
    'linear scan 8x2048 D1000': partial(recurrence, 8, 2048, 1000),
    'long convolution 8x4096 D768': partial(convolution, 8, 4096, 768),
    'long convolution 2x16384 D768': partial(convolution, 2, 16384, 768),
    'long convolution 1x131072 D256': partial(convolution, 1, 131072, 256),
    'causal convolution 8x2048 D2048': partial(short_convolution, 8, 2048, 2048),
    'depthwise 7x7 64x56x56x96': partial(depthwise, 64, 56, 96, 7),
    'depthwise 3x3 64x112x112x128': partial(depthwise, 64, 112, 128, 3),
    'global filter 64x14x14x384': partial(spectral, 64, 14, 384),
}


def table(match: str, chip: str) -> Iterator[str]:
    """Yields the lines of a table of the programs whose name contains `match`."""
    yield '| program | | HBM bytes, MB | floor, MB | ratio | GFLOP | peak, MiB | temporaries, MiB |'
    yield '|---|---|---|---|---|---|---|---|'
    for name, make in PROGRAMS.items():
        for gradients in (False, True) if match in name else ():
            program = make()
            found = program.compile(gradients, chip)
            floor, flops = program.floor(gradients), found.program.cost_analysis()['flops']
            kind = 'forward and gradients' if gradients else 'forward'
            moved = f'{found.bytes / 1e6:,.1f} | {floor / 1e6:,.1f} | {found.bytes / floor:.2f}'
            memory = f'{found.peak / 2**20:,.0f} | {found.temp / 2**20:,.1f}'
            yield f'| {name} | {kind} | {moved} | {flops / 1e9:,.1f} | {memory} |'
