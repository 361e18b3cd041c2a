"""The arithmetic inside a tile of tokens of the selective scan's TPU kernels.

A number of a token and channel is the sum over the states of the channel, which are in sublanes. Sums within a register
cost shuffles, so that partial sums of each token (SUBLANES, channels) are held in VMEM, from where loads with a stride
bring those of all tokens into the same registers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import scan_tpu

TILE = scan_tpu.TILE
SUBLANES = 8
LOG2_E = math.log2(math.e)  # exponentials are powers of 2, which the chip computes


def fold(x: jax.Array) -> jax.Array:
    """Partial sums (SUBLANES, channels) of the rows of `x`, whose number SUBLANES divides."""
    return sum((x[n : n + SUBLANES] for n in range(SUBLANES, x.shape[0], SUBLANES)), x[:SUBLANES])


def hold(held: Any, column: int, i: int, x: jax.Array) -> None:
    """Writes the partial sums of `x` (states, LANES), of token `i` of a tile and of a column of registers."""
    held[column, i * SUBLANES : (i + 1) * SUBLANES, :] = fold(x)


def summed(held: Any) -> jax.Array:
    """The sums (tokens, channels) of what was held (columns, tokens SUBLANES, LANES) for every token of a tile."""

    def column(n: int) -> jax.Array:
        first, *rows = (held[n, pl.ds(row, TILE, stride=SUBLANES), :] for row in range(SUBLANES))
        return sum(rows, first)

    return jnp.concatenate([column(n) for n in range(held.shape[0])], axis=1)


def put(out: jax.Array, token: Any, columns: list[jax.Array]) -> jax.Array:
    """`out` (states, tokens) with the numbers of a token set to the sums of `columns` over all their channels."""
    lane = lax.broadcasted_iota(jnp.int32, out.shape, 1)
    return jnp.where(lane == token, jnp.sum(sum(columns[1:], columns[0]), axis=1, keepdims=True), out)


def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)) with a small relative error also where it is small.

    log(1 + e) = 2 artanh(e / (2 + e)) by its series: the argument is at most 1/3.
    """
    e = jnp.exp(-jnp.abs(x))
    s = e / (2.0 + e)
    squared, series = s * s, 1.0 / 15
    for n in range(13, 0, -2):
        series = series * squared + 1.0 / n
    return jnp.maximum(x, 0.0) + 2.0 * s * series


def silu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(x)


def silu_slope(x: jax.Array) -> jax.Array:
    """The derivative of `silu`."""
    gate = jax.nn.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))
