"""Depthwise and causal convolutions for `benchmarks.kernels`: the programs compared, and the calls that are timed."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.causal_conv1d import causal_conv1d
from longview.kernels.causal_conv1d.shapes import SHAPES as CAUSAL
from longview.kernels.depthwise_conv import depthwise_conv, inception_conv
from longview.kernels.depthwise_conv.shapes import SHAPES as DEPTHWISE
from tests.kernels import tpu as chips

CPU = [
    *(f'depthwise:{",".join(map(str, shape[:6]))}' for shape in DEPTHWISE.values() if shape.timed),
    'inception:8,56,56,96,12',
    'inception:8,14,14,384,48',
    *(f'causal:{",".join(map(str, shape[:4]))}' for shape in CAUSAL.values() if shape.timed),
]
PEER = 'benchmarks.peer_depthwise'
TPU = {'7x7, 64x56x56x96': (64, 56, 56, 96, 7, 7), '7x7, 64x14x14x384': (64, 14, 14, 384, 7, 7)}


def tpu(chip: str) -> Iterator[tuple[str, Any]]:
    """Yields names and what the compiler says; the first program of a group is the reference for the others.

    Each of XLA's convolutions takes a minute or more to compile.
    """
    for name, (batch, height, width, channels, *sides) in TPU.items():
        x = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.bfloat16)
        kernel = jax.ShapeDtypeStruct((*sides, 1, channels), jnp.bfloat16)
        for gradients in (False, True):
            yield '', None
            for form in ('conv', 'pallas_tpu'):
                function, arrays = _program(form, gradients), (x, kernel) + (x,) * gradients
                title = f'{name}, {form}{", with gradients" * gradients}'
                yield title, chips.compile_for(function, *arrays, chip=chip)


def _program(form: str, gradients: bool) -> Callable[..., Any]:
    def op(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise_conv(x, kernel, implementation=form)

    def both(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
        y, pull = jax.vjp(op, x, kernel)
        return y, pull(dy)

    return both if gradients else op


def calls(case: str) -> dict[str, Callable[[], Any]]:
    """Returns the functions to time for a case, already compiled and run once."""
    kind, shape = case.split(':')
    op, shapes = _op(kind, list(map(int, shape.split(','))))
    random = np.random.default_rng(0)
    inputs = [jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes]
    forward = jax.jit(op)
    both = jax.jit(lambda dy, *inputs: (op(*inputs), jax.vjp(op, *inputs)[1](dy)))
    found = {
        'forward': lambda: jax.block_until_ready(forward(*inputs)),
        'forward and gradients': lambda: jax.block_until_ready(both(inputs[0], *inputs)),
    }
    for call in found.values():
        call()
    return found


def _op(kind: str, shape: list[int]) -> tuple[Callable[..., jax.Array], list[tuple[int, ...]]]:
    """Returns the function and the shapes of its inputs, the first of which is also that of the output."""
    if kind == 'causal':
        return lambda x, kernel: causal_conv1d(x, kernel)[0], [tuple(shape[:3]), (shape[3], shape[2])]
    x, rest = tuple(shape[:4]), shape[4:]
    if kind == 'depthwise':
        return depthwise_conv, [x, (*rest, 1, x[3])]
    return inception_conv, [x, *((*sides, 1, rest[0]) for sides in ((3, 3), (1, 11), (11, 1)))]
