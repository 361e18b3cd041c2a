"""Gated linear attention against flash-linear-attention's own numbers: the op alone, and the layer around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.gla import gla
from tests import goldens
from tests.kernels.gla import cases

HEADS = 2  # of the layer


def op(x, parameters):
    """Inputs side by side: queries, keys, values, raw gates; values are as wide as the output."""
    values = 2 * x.shape[-1] // 5
    keys = (x.shape[-1] - values) // 3
    q, k, v, gate = jnp.split(x, (keys, 2 * keys, 2 * keys + values), axis=-1)
    return gla(q, k, v, jax.nn.log_sigmoid(gate) / 16)[0]


def layer(x, parameters):
    """GatedLinearAttention of the paper (section 4.4): decays of low rank, and an output normalised per head and gated."""
    project = lambda name, x: x @ parameters[f'{name}.weight'].T
    split = lambda x: x.reshape(*x.shape[:2], HEADS, -1)
    decay = project('gk_proj.1', project('gk_proj.0', x)) + parameters['gk_proj.1.bias'][None, None]
    q, k, v = (split(project(f'{name}_proj', x)) for name in 'qkv')
    o, _ = gla(q, k, v, split(jax.nn.log_sigmoid(decay) / 16))
    o *= jax.lax.rsqrt(jnp.mean(o**2, -1, keepdims=True) + 1e-5)
    o *= parameters['g_norm_swish_gate.weight'][None, None, None]
    return project('o_proj', o.reshape(*x.shape[:2], -1) * jax.nn.silu(project('g_proj', x)))


@pytest.mark.parametrize('name, function', [('gla_op', op), ('gla_layer', layer)])
def test_output_and_gradient(name, function):
    golden = goldens.read(goldens.FOLDER / f'{name}.json.gz')
    parameters = {key: jnp.asarray(goldens.fill(key, shape)) for key, shape, _ in golden['state']}
    assert sum(x.size for x in parameters.values()) == golden['parameters']
    x, cotangent = (goldens.fill(*what) for what in (
        ('input', golden['input_shape']), ('cotangent', golden['output']['shape'])))

    @cases.jit
    def run(x):
        output, pull = jax.vjp(lambda x: function(x, parameters), x)
        return output, pull(cotangent)[0]

    with jax.default_matmul_precision('highest'):
        output, gradient = map(np.asarray, run(jnp.asarray(x)))
    assert goldens._output_error(golden['output'], output) < 1e-5
    assert goldens._gradient_error(golden['input_gradient'], gradient) < 1e-5
