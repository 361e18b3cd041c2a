"""The long convolution for `benchmarks.kernels`: the programs compared, and the calls that are timed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.long_conv import long_conv
from longview.kernels.long_conv.shapes import SHAPES
from tests.kernels import tpu as chips

FACTS = (8, 4096, 64)  # B T D, the shape on which forms are compared
# "own" differs on PyTorch's side only, which then has arrays in the layout that suits it.
CPU = [
    f'{layout}:{",".join(map(str, shape[:3]))}'
    for shape in SHAPES.values()
    if shape.timed
    for layout in ('long_conv', 'own')
]
PEER = 'benchmarks.peer_long_conv'


class Program(NamedTuple):
    """A causal convolution of one shape with a kernel as long as the sequence, with or without gradients."""

    shape: tuple[int, int, int]
    dtype: Any = jnp.float32
    implementation: str | None = None
    gradients: bool = False

    def __call__(self, dy: jax.Array, *inputs: jax.Array) -> Any:
        y, pull = jax.vjp(partial(long_conv, implementation=self.implementation), *inputs)
        return (y, pull(dy)) if self.gradients else y

    def compile(self, chip: str = 'v5e') -> chips.Compiled:
        token, kernel = (jax.ShapeDtypeStruct(size, self.dtype) for size in (self.shape, self.shape[1:]))
        return chips.compile_for(partial(self), token, token, kernel, chip=chip)


def tpu(chip: str) -> Iterator[tuple[str, Any]]:
    """Yields names and what the compiler says; the first program of a group is the reference for the others.

    XLA's own form, by FFTs, is left out: it takes minutes to compile.
    """
    for gradients in (False, True):
        yield '', None
        for name in ('monarch', 'pallas_tpu'):
            what = f'{name}, B T D of {FACTS}' + ', with gradients' * gradients
            yield what, Program(FACTS, implementation=name, gradients=gradients).compile(chip)
    for shape in ((8, 2**16, 128), (1, 2**20, 128), (1, 2**22, 128)):
        yield '', None
        for gradients in (False, True):
            what = f'B T D of {shape}, bfloat16' + ', with gradients' * gradients
            yield what, Program(shape, jnp.bfloat16, gradients=gradients).compile(chip)


def calls(case: str) -> dict[str, Callable[[], Any]]:
    """The calls to time of a case, compiled and run once; with gradients both they and the outputs are returned."""
    shape = tuple(map(int, case.split(':')[1].split(',')))
    random = np.random.default_rng(0)
    inputs = [jnp.asarray(random.standard_normal(size), jnp.float32) for size in (shape, shape, shape[1:])]
    forward, both = (jax.jit(partial(Program(shape, gradients=gradients))) for gradients in (False, True))
    found = {
        'forward': lambda: jax.block_until_ready(forward(*inputs)),
        'forward and gradients': lambda: jax.block_until_ready(both(*inputs)),
    }
    for call in found.values():
        call()
    return found
