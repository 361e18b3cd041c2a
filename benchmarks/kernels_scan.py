"""The selective and the linear scan for `benchmarks.kernels`: the programs compared, and the calls that are timed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels import linear_scan as linear
from longview.kernels import selective_scan as selective
from longview.kernels.linear_scan.shapes import SHAPES as LINEAR
from longview.kernels.selective_scan.shapes import SHAPES as SELECTIVE
from tests.kernels import tpu as chips

FACTS = (1, 4096, 1536, 16)  # B T D N, the shape on which forms are compared
CPU = [
    *(f'selective:{",".join(map(str, shape[:4]))}' for shape in SELECTIVE.values() if shape.timed),
    *(f'linear:{",".join(map(str, shape[:3]))}' for shape in LINEAR.values() if shape.timed),
]
PEER = 'benchmarks.peer_scan'


class Program(NamedTuple):
    """An op of u, delta, A, B, C and the shapes of its inputs, with or without gradients."""

    op: Callable
    shape: tuple[int, int, int, int]
    dtype: Any = jnp.float32
    gradients: bool = False

    def compile(self, chip: str = 'v5e') -> chips.Compiled:
        batch, tokens, channels, states = self.shape
        token, weight = (jax.ShapeDtypeStruct((batch, tokens, n), self.dtype) for n in (channels, states))
        inputs = [token, token, jax.ShapeDtypeStruct((channels, states), jnp.float32), weight, weight]
        return chips.compile_for(partial(_run, self.op), *inputs, *[token] * self.gradients, chip=chip)


def _run(op: Callable, *arrays: jax.Array) -> Any:
    """Returns the outputs and, if a cotangent follows the five inputs, all gradients."""
    if len(arrays) == 5:
        return op(*arrays)
    y, pull = jax.vjp(op, *arrays[:5])
    return y, pull(arrays[5])


def outputs(*inputs: jax.Array) -> jax.Array:
    """Returns the outputs without the last state."""
    return selective.selective_scan(*inputs)[0]


def associative(u: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array) -> jax.Array:
    """The associative scan over all tokens, whose states are written to HBM: the reference for the kernels."""
    added = (delta * u)[..., None] * B[:, :, None]
    join = lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1])
    decay = jnp.exp(delta[..., None] * A[None, None])
    states = jax.lax.associative_scan(join, (decay, added), axis=1)[1]
    return jnp.einsum('btdn,btn->btd', states, C)


def tpu(chip: str) -> Iterator[tuple[str, Any]]:
    """Yields names and what the compiler says; the first program of a group is the reference for the others."""
    for gradients in (False, True):
        what = ', with gradients' * gradients
        yield '', None
        for name, op in (('XLA, associative scan', associative), ('Pallas', outputs)):
            yield f'selective scan, {name}{what}', Program(op, FACTS, gradients=gradients).compile(chip)
    yield '', None
    program = Program(outputs, (1, 2**20, 384, 16), jnp.bfloat16, True)
    yield 'selective scan, Pallas, 1,048,576 tokens of 384 channels, with gradients', program.compile(chip)


def calls(case: str) -> dict[str, Callable[[], Any]]:
    """Returns the functions to time for a case, already compiled and run once."""
    kind, shape = case.split(':')
    shape = tuple(map(int, shape.split(',')))
    op, inputs = (_selective if kind == 'selective' else _linear)(shape)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(shape[:3]), jnp.float32)
    forward = jax.jit(op)
    gradients = jax.jit(lambda dy, *inputs: jax.vjp(op, *inputs)[1](dy))
    found = {
        'forward': lambda: jax.block_until_ready(forward(*inputs)),
        'forward and gradients': lambda: jax.block_until_ready(gradients(cotangent, *inputs)),
    }
    for call in found.values():
        call()
    return found


def _selective(shape: tuple[int, ...]) -> tuple[Callable, list[jax.Array]]:
    """Returns the selective scan as Mamba calls it, without gate and skip, and its inputs."""
    batch, tokens, channels, states = shape
    random = np.random.default_rng(0)
    row = lambda width: jnp.asarray(random.standard_normal((batch, tokens, width)), jnp.float32)
    A = -jnp.broadcast_to(jnp.arange(1.0, states + 1)[None], (channels, states))
    return outputs, [row(channels), jax.nn.softplus(row(channels) - 3), A, row(states), row(states)]


def _linear(shape: tuple[int, ...]) -> tuple[Callable, list[jax.Array]]:
    random = np.random.default_rng(0)
    row = lambda: jnp.asarray(random.standard_normal(shape), jnp.float32)
    return lambda a, x: linear.linear_scan(a, x)[0], [jax.nn.sigmoid(row() + 2), row()]
