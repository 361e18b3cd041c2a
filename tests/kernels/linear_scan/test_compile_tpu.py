"""The TPU kernels of the linear scan, compiled for real chips: they fit, move few bytes and need little memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from benchmarks import kernels_cycles
from benchmarks.kernels_cost import recurrence
from longview.kernels.linear_scan import linear_scan
from tests.kernels import tpu


class Program(NamedTuple):
    """The op and the shapes of its inputs, one `a` for all tokens where `constant`; with or without gradients."""

    shape: tuple[int, int, int]  # B T D
    dtype: object = jnp.float32
    constant: bool = False
    gradients: bool = False

    def inputs(self):
        token = jax.ShapeDtypeStruct(self.shape, self.dtype)
        a = jax.ShapeDtypeStruct(self.shape[2:], self.dtype) if self.constant else token
        return [a, token] + [token] * self.gradients

    def __call__(self, a, x, *dh):
        op = lambda a, x: linear_scan(a, x)[0]
        if not dh:
            return op(a, x)
        h, pull = jax.vjp(op, a, x)
        return h, pull(*dh)

    def compile(self, chip='v5e'):
        return tpu.compile_for(partial(self), *self.inputs(), chip=chip)


@tpu.on_chips('v5e')
@pytest.mark.parametrize(
    'program',
    [
        Program((1, 1000, 768), jnp.bfloat16, gradients=True),
        Program((2, 197, 384), jnp.complex64, constant=True, gradients=True),
    ],
    ids=lambda program: str(program.shape),
)
def test_compiles_for_every_chip(program, chip):
    assert 'tpu_custom_call' in program.compile(chip).program.as_text()


@pytest.mark.parametrize(
    'program',
    [
        Program((1, 2, 20), gradients=True),
        Program((1, 300, 1100), gradients=True),
        Program((2, 300, 512), jnp.complex64, gradients=True),
    ],
    ids=lambda program: str(program.shape),
)
def test_compiles_for_every_width(program):
    assert 'tpu_custom_call' in program.compile('v4').program.as_text()


def test_bytes_are_those_of_inputs_and_outputs():
    """Forward a, x, h; backward a, x, dh, da, dx; one state of 256 twice."""
    forward, both = (Program((1, 4096, 1536), gradients=g).compile() for g in (False, True))
    token = 4096 * 1536 * 4
    assert forward.bytes <= 1.02 * 3 * token and both.bytes <= 1.02 * 8 * token
    assert both.temp <= 0.05 * both.arguments


@pytest.mark.parametrize('gradients, most', [(False, 1.03), (True, 1.06)])
def test_channels_that_do_not_fill_lanes_are_filled_in_vmem(gradients, most):
    """1,000 channels are stored as 1,024 and nothing is copied, if channels are in lanes as a layer has them."""
    assert recurrence(8, 2048, 1000).compile(gradients).bytes <= most * (8 if gradients else 3) * 8 * 2048 * 1024 * 2


@pytest.mark.heavy
def test_schedule(tmp_path):
    """Bundles of the loops over two tiles, 32 tokens of 896 channels: outputs, then the two of the gradients."""
    kernels_cycles.compile_apart('linear scan 8x2048 D2560', True, 'v5e', str(tmp_path))
    loops = [found for name, loop, found in kernels_cycles.schedules(tmp_path) if 'scan' in name and loop.depth == 2]
    assert len(loops) == 3 and all(found.spills == 0 for found in loops)
    assert [found.bundles <= most for found, most in zip(loops, (145, 132, 183))] == [True] * 3, loops


def test_a_million_tokens_fit_into_one_chip():
    assert Program((1, 2**20, 512), jnp.bfloat16, gradients=True).compile().peak <= 15.75 * 2**30


@pytest.mark.parametrize(
    'program, text',
    [
        (Program((1, 8, 64), jnp.float16), 'an input is float16; wanted float32, bfloat16 or complex64'),
        (Program((2, 1, 128)), 'it is for sequences, and this one has 1 token'),
    ],
    ids=lambda x: str(x)[:20],
)
def test_what_cannot_be_served_is_said(program, text):
    with pytest.raises(NotImplementedError, match=text):
        jax.eval_shape(partial(linear_scan, implementation='pallas_tpu'), *program.inputs())
