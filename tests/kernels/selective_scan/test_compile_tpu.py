"""The TPU kernels of the selective scan, compiled for real chips: they fit, move few bytes and need little memory."""

import operator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from benchmarks import kernels_cycles
from longview.kernels.selective_scan import selective_scan
from tests.kernels import tpu


class Program(NamedTuple):
    """The op and the shapes of its inputs, with or without gradients; `full`: as in Mamba."""

    shape: tuple[int, int, int, int]  # B T D N
    dtype: object = jnp.float32
    full: bool = False
    gradients: bool = False
    groups: int | None = None

    def inputs(self):
        batch, length, channels, states = self.shape
        shape = lambda *size, dtype=jnp.float32: jax.ShapeDtypeStruct(size, dtype)
        token = shape(batch, length, channels, dtype=self.dtype)
        groups = (self.groups,) if self.groups else ()
        weight = shape(batch, length, *groups, states, dtype=self.dtype)
        found = {'u': token, 'delta': token, 'A': shape(channels, states), 'B': weight, 'C': weight}
        if self.full:
            found |= {'D': shape(channels), 'z': token, 'delta_bias': shape(channels)}
        return found | ({'dy': token} if self.gradients else {})

    def __call__(self, inputs, run=None):
        dy = inputs.get('dy')
        op = lambda inputs: (run or partial(selective_scan, softplus=self.full))(**inputs)[0]
        if dy is None:
            return op(inputs)
        y, pull = jax.vjp(op, {name: x for name, x in inputs.items() if name != 'dy'})
        return y, pull(dy)[0]

    def compile(self, chip='v5e', run=None):
        return tpu.compile_for(partial(self, run=run), self.inputs(), chip=chip)


def _bytes(arrays):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


FACTS = (1, 4096, 1536, 16)  # the shape on which forms are compared


def associative(u, delta, A, B, C):
    """The associative scan over all tokens, whose states are written to HBM: the reference for the kernels."""
    added = (delta * u)[..., None] * B[:, :, None]
    join = lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1])
    decay = jnp.exp(delta[..., None] * A[None, None])
    states = jax.lax.associative_scan(join, (decay, added), axis=1)[1]
    return jnp.einsum('btdn,btn->btd', states, C), states[:, -1]


@tpu.on_chips('v5e')
@pytest.mark.parametrize(
    'program',
    [
        Program((2, 197, 384, 16), jnp.bfloat16, full=True, gradients=True),
    ],
    ids=lambda program: str(program.shape),
)
def test_compiles_for_every_chip(program, chip):
    assert 'tpu_custom_call' in program.compile(chip).program.as_text()


@pytest.mark.parametrize(
    'program',
    [
        Program((1, 1, 20, 4), gradients=True),
        Program((2, 63, 128, 64), gradients=True),
        Program((2, 130, 512, 5), jnp.bfloat16, gradients=True, groups=2),
    ],
    ids=lambda program: str(program.shape),
)
def test_compiles_for_every_width(program):
    assert 'tpu_custom_call' in program.compile('v4').program.as_text()


def test_memory_and_bytes_are_those_of_inputs_and_outputs():
    forward, both = (Program(FACTS, gradients=g).compile() for g in (False, True))
    token = 4096 * 1536 * 4
    assert forward.peak <= 1.1 * 3 * token and both.peak <= 1.1 * 6 * token, (forward[:4], both[:4])
    assert forward.bytes <= 1.1 * 3 * token  # u, delta, y
    assert both.bytes <= 1.1 * (3 + 5 + 2 / 8) * token  # and u, delta, dy, du, ddelta; the states at edges, twice


@pytest.mark.parametrize(
    'program, forward, both',
    [
        (Program((8, 2048, 2048, 16), jnp.bfloat16, full=True), 1.03, 1.1),
        # Of 2,048 tokens XLA puts the tokens into lanes, which 1,000 channels fill less well.
        pytest.param(Program((8, 2000, 1000, 16), jnp.bfloat16, full=True), 1.05, 1.12, marks=pytest.mark.heavy),
    ],
    ids=lambda x: str(x)[:40],
)
def test_bytes_are_near_their_floor(program, forward, both):
    """Every array is read and written once, in its own dtype; with gradients the inputs are read a second time."""
    gradients = program._replace(gradients=True)
    inputs, output = map(_bytes, (program.inputs(), program.inputs()['u']))
    assert program.compile().bytes <= forward * (inputs + output)
    assert gradients.compile().bytes <= both * (3 * inputs + 2 * output)


@pytest.mark.heavy
def test_schedule(tmp_path):
    """Bundles of the loops over tiles, 16 tokens of 512 channels: outputs, then the two of the gradients."""
    kernels_cycles.compile_apart('mamba 8x2048 D2048 N16', True, 'v5e', str(tmp_path))
    loops = [found for name, loop, found in kernels_cycles.schedules(tmp_path) if 'scan' in name and loop.depth == 2]
    bundles, spills = zip(*((found.bundles, found.spills) for found in loops))
    assert len(loops) == 3 and all(map(operator.le, bundles, (520, 850, 850))), bundles
    assert sum(spills[1:]) <= 150, spills


@pytest.mark.heavy
def test_memory_against_an_associative_scan():
    """The associative scan takes 1.5 GB, and 2.9 GB with gradients (9 s to compile, so only its forward pass is)."""
    forward, both = Program(FACTS), Program(FACTS, gradients=True)
    wanted = forward.compile(run=associative)
    forward, both = forward.compile(), both.compile()
    assert forward.peak <= 0.055 * wanted.peak and both.peak <= 0.1 * wanted.peak, (forward[:4], both[:4], wanted[:4])


@pytest.mark.heavy
def test_memory_of_gradients_is_linear():
    short, long = (Program((1, n, 384, 16), full=True, gradients=True).compile() for n in (4096, 16384))
    assert long.temp <= 1.5 * long.arguments and long.temp <= 4.1 * short.temp, (long[:4], short[:4])


def test_a_million_tokens_fit_into_one_chip():
    program = Program((1, 2**20, 384, 16), jnp.bfloat16, gradients=True)
    assert program.compile().peak <= 15.75 * 2**30


@pytest.mark.parametrize(
    'program, text',
    [
        (Program((1, 8, 64, 4), jnp.float16), 'an input is float16; wanted float32 or bfloat16'),
        (
            Program((1, 8, 64, 4), groups=2),
            '2 groups of 32 channels of 4 states; wanted one group, or groups of a multiple of 128 channels',
        ),
        (Program((1, 8, 128, 65)), '1 groups of 128 channels of 65 states; wanted .*, and at most 64 states'),
    ],
    ids=lambda x: str(x)[:20],
)
def test_what_cannot_be_served_is_said(program, text):
    with pytest.raises(NotImplementedError, match=text):
        jax.eval_shape(partial(program, run=partial(selective_scan, implementation='pallas_tpu')), program.inputs())
