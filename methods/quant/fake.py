"""Quantisation-aware training of weights: symmetric integers with one scale for each output channel.

Krishnamoorthi, 2018, "Quantizing deep convolutional networks for efficient inference: A whitepaper",
https://arxiv.org/abs/1806.08342, sections 2.2 and 3: the forward pass sees ``scale * round(w / scale)``, with the scale
``max |w| / (2^(bits-1) - 1)`` of each output channel, so that the integers of 8 bits are -127..127 and nothing is cut
off; the backward pass takes the rounding for the identity (Bengio et al., 2013, https://arxiv.org/abs/1308.3432).
Reference: TensorFlow's fake_quant_with_min_max_vars_per_channel (Apache-2.0).

Where we differ: activations keep their type (the paper quantises them too, by layer), and ranges follow the weights
from the first step, without an average.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, Key

from longview.methods.reparam import Reparam, on_selected, select
from longview.methods.task import Batch, Given, Variables
from longview.trees import by_path

Quantized = tuple[Int8[Array, '...'], Float[Array, '...']]


@dataclasses.dataclass(frozen=True)
class FakeQuant(Reparam):
    """Trains `inner` with rounded weights; gradients pass the rounding as if it were not there.

    Attributes:
        bits: of the integers, 2 to 8.
        pattern: regular expression of the paths of the weights concerned; their last axis is the output channel.
    """

    bits: int = 8
    pattern: str = '.*kernel'

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f'FakeQuant.bits is {self.bits}: integers of 2 to 8 bits are supported.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        select(v.params, self.pattern, 'FakeQuant')
        return Variables(v.params, {'inner': v.state}, {'inner': v.fixed})

    def view(self, v: Variables) -> Variables:
        paths = select(v.params, self.pattern, 'FakeQuant')
        params = on_selected(lambda path, w: w + jax.lax.stop_gradient(self._rounded(w) - w), paths, v.params)
        return Variables(params, v.state['inner'], v.fixed['inner'])

    def integers(self, params: Any) -> dict[str, Quantized]:
        """Returns what is deployed: by path, int8 weights and their scales, whose product the network computes with."""
        leaves = by_path(params)
        return {path: quantize(leaves[path], self.bits) for path in select(params, self.pattern, 'FakeQuant')}

    def _rounded(self, weight: Float[Array, '...']) -> Float[Array, '...']:
        values, scale = quantize(weight, self.bits)
        return (values * scale).astype(weight.dtype)


def quantize(weight: Float[Array, '*n o'], bits: int) -> tuple[Int8[Array, '*n o'], Float[Array, '*one o']]:
    """Returns ``round(w / scale)`` and the scale of each output channel, float32, as broad as the weight."""
    most = 2 ** (bits - 1) - 1
    weight = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(weight), axis=tuple(range(weight.ndim - 1)), keepdims=True)
    scale = jnp.maximum(largest, jnp.finfo(jnp.float32).tiny * most) / most
    return jnp.clip(jnp.round(weight / scale), -most, most).astype(jnp.int8), scale
