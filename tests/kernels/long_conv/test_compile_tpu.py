"""The TPU kernels of the long convolution, compiled for real chips: they fit, move few bytes and need little memory."""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from longview.kernels.long_conv import long_conv, xla
from tests.kernels import tpu

# XLA's own form for 8 sequences of 4,096 tokens and 64 channels: real FFTs twice as long, which take minutes to
# compile.
FFT_BYTES = 1.32e9


class Program(NamedTuple):
    """The op and the shapes of its inputs; with or without gradients."""

    shape: tuple[int, int, int]  # B T D
    dtype: object = jnp.float32
    gates: bool = False
    gradients: bool = False
    frequencies: float = 1.0

    def inputs(self):
        token, (_, tokens, channels) = jax.ShapeDtypeStruct(self.shape, self.dtype), self.shape
        kernel = jax.ShapeDtypeStruct((tokens, channels), self.dtype)
        gates = [token, token, jax.ShapeDtypeStruct((channels,), self.dtype)] * self.gates
        return [token, token, kernel, *gates]

    def __call__(self, dy, u, kernel, *gates):
        names = ('pre_gate', 'post_gate', 'skip')
        call = partial(long_conv, frequencies=self.frequencies)
        op = lambda u, kernel, *gates: call(u, kernel, **dict(zip(names, gates)))
        y, pull = jax.vjp(op, u, kernel, *gates)
        return (y, pull(dy)) if self.gradients else y

    def compile(self, chip='v5e'):
        return tpu.compile_for(partial(self), *self.inputs(), chip=chip)


@tpu.on_chips('v5e')
def test_compiles_for_every_chip(chip):
    program = Program((1, 1000, 72), jnp.bfloat16, gates=True, gradients=True)
    assert 'tpu_custom_call' in program.compile(chip).program.as_text()


def test_the_largest_fits_into_the_smallest_vector_memory():
    assert 'tpu_custom_call' in Program((2, 8192, 128)).compile('v4').program.as_text()


def _ceiling(ratio, *shape, gradients=False, heavy=False, **how):
    program = Program(shape, jnp.bfloat16, gradients=gradients, **how)
    return pytest.param(program, ratio, marks=[pytest.mark.heavy] * heavy)


@pytest.mark.parametrize(
    'program, ratio',
    [
        _ceiling(1.02, 8, 4096, 768),
        _ceiling(1.03, 8, 4096, 768, gradients=True),
        _ceiling(1.6, 8, 2048, 768, gates=True, gradients=True, heavy=True),
        _ceiling(1.02, 8, 8192, 768, heavy=True),
        _ceiling(1.03, 8, 8192, 768, gradients=True, heavy=True),
        _ceiling(1.03, 2, 16384, 768, heavy=True),
        _ceiling(1.05, 2, 16384, 768, gradients=True, heavy=True),
        _ceiling(5.1, 1, 131072, 256, heavy=True),
        _ceiling(5.1, 1, 131072, 256, gradients=True, heavy=True),
    ],
    ids=str,
)
def test_bytes_are_those_of_inputs_and_outputs(program, ratio):
    """With gradients the inputs are read twice and their cotangents written. Levels outside of VMEM take five times."""
    found, size = program.compile(), lambda tree: sum(x.size * x.dtype.itemsize for x in tree)
    dy, *inputs = program.inputs()
    floor = 3 * size(inputs) + 2 * size([dy]) if program.gradients else size([dy, *inputs])
    assert found.bytes <= ratio * floor, found.bytes / floor


@pytest.mark.heavy
@pytest.mark.parametrize('shape, gibibytes', [((8, 2**16, 128), 3), ((1, 2**20, 128), 8)])
def test_long_sequences_fit_into_one_chip(shape, gibibytes):
    """With gradients; a v5e has 15.75."""
    assert Program(shape, jnp.bfloat16, gradients=True).compile().peak <= gibibytes * 2**30


def test_of_a_long_sequence_higher_orders_do_fewer_operations():
    token = jax.ShapeDtypeStruct((1, 2**16, 8), jnp.float32)
    lower = lambda order: jax.jit(partial(xla.convolve, before=0, way='monarch', order=order)).lower(token, token)
    flops = [lower(order).cost_analysis()['flops'] for order in (2, 3, 4)]
    assert flops[0] > 2 * flops[1] and flops[1] > 1.3 * flops[2], flops


@pytest.mark.heavy
def test_blocks_of_frequencies_that_do_not_count_are_left_out():
    """A quarter is left of the products of the second level; those of the first level stay."""
    whole, sparse = (Program((1, 4096, 128), frequencies=share).compile() for share in (1.0, 0.25))
    flops = [found.program.cost_analysis()['flops'] for found in (whole, sparse)]
    assert flops[1] <= 0.6 * flops[0], flops


def test_bytes_are_a_fraction_of_those_of_ffts():
    start = time.process_time()
    program = Program((8, 4096, 64)).compile()
    assert time.process_time() - start < 30
    assert program.bytes <= 0.11 * FFT_BYTES and program.temp <= 16 * 2**20, (program.bytes, program.temp)


@pytest.mark.parametrize(
    'program, text',
    [
        (Program((1, 8, 64), jnp.float16), 'an input is float16; wanted float32 or bfloat16'),
    ],
    ids=lambda x: str(x)[:20],
)
def test_what_cannot_be_served_is_said(program, text):
    with pytest.raises(NotImplementedError, match=text):
        jax.eval_shape(partial(long_conv, implementation='pallas_tpu'), *program.inputs()[1:])
