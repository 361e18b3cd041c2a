"""Inputs of the selective scan, and its outputs and gradients computed by an implementation and in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.selective_scan import selective_scan
from longview.kernels.selective_scan.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close
from tests.kernels.selective_scan import sequential

jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op; `full`: with D, z, delta_bias and softplus, as in Mamba."""

    shape: str
    reverse: bool = False
    state: bool = False
    full: bool = True
    dtype: str = 'float32'


def inputs(case: Case, batch: int | None = None) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` and `dlast` are cotangents."""
    shape: Shape = SHAPES[case.shape]
    if batch:
        shape = shape._replace(batch=batch)
    random = np.random.default_rng(sum(shape))
    tokens, channels = shape[:3], shape.channels
    groups = () if shape.groups == 1 else (shape.groups,)
    weights, state = (*tokens[:2], *groups, shape.states), (shape.batch, channels, shape.states)
    sizes = {'u': tokens, 'B': weights, 'C': weights, 'dy': tokens, 'dlast': state}
    if case.full:
        sizes |= {'D': (channels,), 'z': tokens, 'delta_bias': (channels,)}
    if case.state:
        sizes['state'] = state
    found = {name: random.standard_normal(size) for name, size in sizes.items()}
    found['delta'] = random.standard_normal(tokens) - 3
    if not case.full:
        found['delta'] = np.exp(found['delta'])
    found['A'] = -np.arange(1, shape.states + 1) * np.exp(0.3 * random.standard_normal((channels, shape.states)))
    return {name: x.astype(jnp.dtype(dtype(case, name))).astype(np.float64) for name, x in found.items()}


def dtype(case: Case, name: str) -> str:
    """Returns the dtype of an input; shared weights and states are not narrowed, as in models."""
    return case.dtype if name in ('u', 'delta', 'B', 'C', 'z', 'dy') or case.dtype == 'float64' else 'float32'


def op(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the outputs by name."""
    positional = [arrays.get(name) for name in ('u', 'delta', 'A', 'B', 'C', 'D')]
    y, last = selective_scan(
        *positional,
        z=arrays.get('z'),
        delta_bias=arrays.get('delta_bias'),
        softplus=case.full,
        initial_state=arrays.get('state'),
        reverse=case.reverse,
        implementation=implementation,
    )
    return {'y': y, 'last': last}


def traced(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns outputs and all gradients by name."""
    wrt = {name: x for name, x in arrays.items() if name not in ('dy', 'dlast')}
    outputs, pull = jax.vjp(lambda wrt: op(case, implementation, wrt), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'y': arrays['dy'], 'last': arrays['dlast']})[0].items()}


run = jit(traced, static_argnums=(0, 1))


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(dtype(case, name)))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, in float64 and token by token."""
    return sequential.selective_scan(arrays, case.full, case.reverse)


def bars(case: Case, names: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns a bar per name, by whether the array is rounded to bfloat16."""
    narrow = {'y', 'du', 'ddelta', 'dB', 'dC', 'dz'} if case.dtype == 'bfloat16' else set()
    base = 'float64' if case.dtype == 'float64' else 'float32'
    return {name: close.BARS['bfloat16' if name in narrow else base] for name in names}


def check(case: Case, implementation: str | None = 'xla', batch: int | None = None) -> None:
    """Runs the case and compares every output and gradient with float64."""
    arrays = inputs(case, batch)
    target = wanted(case, arrays)
    close.assert_close(run(case, implementation, device(case, arrays)), target, bars(case, target))
