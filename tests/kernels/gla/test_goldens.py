"""Gated linear attention against flash-linear-attention's own numbers; its layer: tests/modelzoo/sequence."""

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.gla import gla
from tests import goldens
from tests.kernels.gla import cases


def op(x):
    """Inputs side by side: queries, keys, values, raw gates; values are as wide as the output."""
    values = 2 * x.shape[-1] // 5
    keys = (x.shape[-1] - values) // 3
    q, k, v, gate = jnp.split(x, (keys, 2 * keys, 2 * keys + values), axis=-1)
    return gla(q, k, v, jax.nn.log_sigmoid(gate) / 16)[0]


def test_output_and_gradient():
    golden = goldens.read(goldens.FOLDER / 'gla_op.json.gz')
    x, cotangent = (
        goldens.fill(*what) for what in (('input', golden['input_shape']), ('cotangent', golden['output']['shape']))
    )

    @cases.jit
    def run(x):
        output, pull = jax.vjp(op, x)
        return output, pull(cotangent)[0]

    with jax.default_matmul_precision('highest'):
        output, gradient = map(np.asarray, run(jnp.asarray(x)))
    assert goldens._output_error(golden['output'], output) < 1e-5
    assert goldens._gradient_error(golden['input_gradient'], gradient) < 1e-5
