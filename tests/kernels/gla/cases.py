"""Inputs of gated linear attention, and its outputs and gradients computed by an implementation and in float64."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.gla import bidirectional_gla, gla
from longview.kernels.gla.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close
from tests.kernels.gla import sequential

jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op. `gates` is one letter per direction: 'k' per key channel, 'h' per head."""

    shape: str
    reverse: bool = False
    state: bool = False
    gates: str = 'k'
    shared: bool = False
    dtype: str = 'float32'

    @property
    def bidirectional(self) -> bool:
        return len(self.gates) == 2


def mild(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The log decays of the paper: logsigmoid of noise over 16."""
    return -np.log1p(np.exp(-random.standard_normal(shape))) / 16


def inputs(case: Case, decay: Callable = mild, batch: int | None = None) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `do` and `dlast` are cotangents."""
    shape: Shape = SHAPES[case.shape]
    if batch:
        shape = shape._replace(batch=batch)
    random = np.random.default_rng(sum(shape))
    keys, values = (*shape[:3], shape.keys), (*shape[:3], shape.values)
    found = {'q': keys, 'k': keys, 'v': values}
    found = {name: random.standard_normal(size) for name, size in found.items()}
    gates = case.gates[:1] if case.shared else case.gates
    for n, kind in enumerate(gates):
        found[f'g{n}'] = decay(random, keys if kind == 'k' else keys[:3])
    state = (shape.batch, shape.heads, shape.keys, shape.values)
    if case.state:
        found['state'] = random.standard_normal(state)
    found['do'] = random.standard_normal(values)
    if not case.bidirectional:
        found['dlast'] = random.standard_normal(state)
    return {name: x.astype(jnp.dtype(_dtype(case, name))).astype(np.float64) for name, x in found.items()}


def _dtype(case: Case, name: str) -> str:
    """Returns the dtype of an input; gates and states are not narrowed, as in models."""
    return case.dtype if name in ('q', 'k', 'v', 'do') or case.dtype == 'float64' else 'float32'


def op(case: Case, implementation: str, arrays: dict[str, jax.Array], chunk: int | None = None) -> dict[str, jax.Array]:
    """Returns the outputs by name."""
    qkv = [arrays[name] for name in 'qkv']
    how = {'implementation': implementation, 'chunk': chunk}
    if case.bidirectional:
        gates = (arrays['g0'], arrays['g0' if case.shared else 'g1'])
        return {'o': bidirectional_gla(*qkv, *gates, **how)}
    o, last = gla(*qkv, arrays['g0'], initial_state=arrays.get('state'), reverse=case.reverse, **how)
    return {'o': o, 'last': last}


def traced(
    case: Case, implementation: str, arrays: dict[str, jax.Array], chunk: int | None = None
) -> dict[str, jax.Array]:
    """Returns outputs and all gradients by name."""
    cotangents = {'o': arrays['do']} if case.bidirectional else {'o': arrays['do'], 'last': arrays['dlast']}
    wrt = {name: x for name, x in arrays.items() if name not in ('do', 'dlast')}
    outputs, pull = jax.vjp(lambda wrt: op(case, implementation, wrt, chunk), wrt)
    return outputs | {f'd{name}': x for name, x in pull(cotangents)[0].items()}


run = jit(traced, static_argnums=(0, 1, 3), static_argnames='chunk')


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(_dtype(case, name)))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, in float64 and token by token."""
    q, k, v = (arrays[name] for name in 'qkv')
    scale = q.shape[-1] ** -0.5
    zero = np.zeros((q.shape[0], *q.shape[2:], v.shape[-1]))
    dlast, first = arrays.get('dlast', zero), arrays.get('state', zero)
    found: dict[str, np.ndarray] = {}
    for n in range(len(case.gates)):
        gate = 'g0' if case.shared else f'g{n}'
        common = (q, k, v, arrays[gate], scale, first, case.reverse or n == 1)
        o, last, _ = sequential.gla(*common)
        new = {'o': o, 'last': last} | sequential.gradients(*common, arrays['do'], dlast)
        new[f'd{gate}'] = new.pop('dg')
        found = {name: found.get(name, 0) + new.get(name, 0) for name in found | new}
    drop = {'last'} if case.bidirectional else set()
    drop |= set() if case.state else {'dstate'}
    return {name: x for name, x in found.items() if name not in drop}


def check(case: Case, arrays: dict[str, np.ndarray], implementation: str = 'xla', chunk: int | None = None) -> None:
    """Runs the case and compares every output and gradient with float64."""
    found = run(case, implementation, device(case, arrays), chunk)
    target = wanted(case, arrays)
    narrow = {'o', 'dq', 'dk', 'dv'} if case.dtype == 'bfloat16' else set()
    base = 'float64' if case.dtype == 'float64' else 'float32'
    bars = {name: close.BARS['bfloat16' if name in narrow else base] for name in target}
    close.assert_close(found, target, bars)
