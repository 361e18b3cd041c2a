"""Inputs of the causal convolution; its outputs and gradients by an implementation and as a direct sum in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.causal_conv1d import causal_conv1d
from longview.kernels.causal_conv1d.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close

jit = partial(jax.jit, compiler_options=goldens.QUICK)
BARS = {'float32': 1e-5, 'bfloat16': 1e-2, 'float64': 1e-12}


class Case(NamedTuple):
    """A call of the op."""

    shape: str
    bias: bool = False
    state: bool = False
    dtype: str = 'float32'


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` and `dlast` are cotangents."""
    shape: Shape = SHAPES[case.shape]
    random = np.random.default_rng(sum(shape))
    tokens, last = shape[:3], (shape.batch, shape.taps - 1, shape.channels)
    sizes = {'x': tokens, 'kernel': (shape.taps, shape.channels), 'dy': tokens, 'dlast': last}
    sizes |= {'bias': (shape.channels,)} if case.bias else {}
    sizes |= {'state': last} if case.state else {}
    return {
        name: random.standard_normal(size).astype(jnp.dtype(case.dtype)).astype(np.float64)
        for name, size in sizes.items()
    }


def traced(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns outputs and all gradients by name."""
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'dlast')}

    def op(wrt):
        how = {'bias': wrt.get('bias'), 'initial_state': wrt.get('state')}
        y, last = causal_conv1d(wrt['x'], wrt['kernel'], **how, implementation=implementation)
        return {'y': y, 'last': last}

    outputs, pull = jax.vjp(op, wrt)
    return outputs | {f'd{name}': x for name, x in pull({'y': arrays['dy'], 'last': arrays['dlast']})[0].items()}


run = jit(traced, static_argnums=(0, 1))


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(case.dtype))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, summed directly in float64."""
    x, kernel, dy = (arrays[name] for name in ('x', 'kernel', 'dy'))
    (batch, tokens, channels), taps = x.shape, len(kernel)
    before = arrays.get('state', np.zeros((batch, taps - 1, channels)))
    seen = np.concatenate([before, x], axis=1)
    y, dkernel, dseen = np.zeros_like(x), np.zeros_like(kernel), np.zeros_like(seen)
    for j, tap in enumerate(kernel):
        y += seen[:, j : j + tokens] * tap
        dkernel[j] = (seen[:, j : j + tokens] * dy).sum((0, 1))
        dseen[:, j : j + tokens] += dy * tap
    dseen[:, tokens:] += arrays['dlast']
    found = {'y': y + arrays.get('bias', 0), 'last': seen[:, tokens:], 'dkernel': dkernel, 'dx': dseen[:, taps - 1 :]}
    found |= {'dbias': dy.sum((0, 1))} if case.bias else {}
    return found | ({'dstate': dseen[:, : taps - 1]} if case.state else {})


def check(case: Case, implementation: str | None = 'xla') -> None:
    """Runs the case and compares every output and gradient with the direct sum."""
    arrays = inputs(case)
    target = wanted(case, arrays)
    close.assert_close(run(case, implementation, device(case, arrays)), target, dict.fromkeys(target, BARS[case.dtype]))
