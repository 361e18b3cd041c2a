"""Every op at its edges, the same for all of them: 64-bit numbers, dtypes, second derivatives, NaN, empty batches."""

import jax
import jax.numpy as jnp
import pytest

from longview.kernels import dispatch
from tests.kernels.close import assert_close
from tests.kernels.ops import OPS
from tests.modelzoo import tiny

EVERY = pytest.mark.parametrize('name', OPS)


def _slope(op, **how):
    """Returns the outputs and the gradients of a loss that is not linear in them, by name."""

    def loss(arrays):
        found = op(arrays, **how)
        return sum(jnp.sum(jnp.sin(y)) for y in found), found

    def run(arrays):
        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
        return {f'output {n}': y for n, y in enumerate(found)} | gradients

    return run


def test_no_op_is_left_out():
    assert set(OPS) == set(dispatch.OPS)


@EVERY
def test_numbers_of_64_bits_change_nothing_for_those_of_32(name):
    """On a CPU, and the kernel is lowered for a TPU all the same."""
    op = OPS[name]
    arrays, run = op.arrays(), tiny.jit(_slope(op))
    wanted = jax.device_get(run(arrays))
    with jax.enable_x64(True):
        traced = tiny.jit(_slope(op)).trace(arrays)
        found = jax.device_get(traced.lower().compile()(arrays))
        text = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert {x.dtype.name for x in found.values()} == {'float32'}
    assert_close(found, wanted, dict.fromkeys(wanted, 1e-6))
    assert ('tpu_custom_call' in text) == op.kernel
