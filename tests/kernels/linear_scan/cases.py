"""Inputs of the linear scan, and its outputs and gradients computed by an implementation and in double precision."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.linear_scan import linear_scan
from longview.kernels.linear_scan.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close
from tests.kernels.linear_scan import sequential

jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op; `complex` names the inputs that are complex."""

    shape: str
    reverse: bool = False
    state: bool = False
    constant: bool = False
    complex: tuple[str, ...] = ()
    dtype: str = 'float32'


BOTH = ('a', 'x', 'state')


def inputs(case: Case, batch: int | None = None) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dh` and `dlast` are cotangents."""
    shape: Shape = SHAPES[case.shape]
    if batch:
        shape = shape._replace(batch=batch)
    random = np.random.default_rng(sum(shape))
    tokens, state = shape[:3], (shape.batch, shape.channels)
    sizes = {'a': (shape.channels,) if case.constant else tokens, 'x': tokens, 'dh': tokens, 'dlast': state}
    if case.state:
        sizes['state'] = state
    found = {name: random.standard_normal(size) for name, size in sizes.items()}
    found['a'] = 1 / (1 + np.exp(-found['a'] - 2))
    for name in found:
        if is_complex(case, name):
            turn = np.exp(1j * random.uniform(0, 6, found[name].shape))
            found[name] = found[name] * turn
    wide = lambda name: 'complex128' if is_complex(case, name) else 'float64'
    return {name: x.astype(jnp.dtype(dtype(case, name))).astype(wide(name)) for name, x in found.items()}


def is_complex(case: Case, name: str) -> bool:
    return name in case.complex or (name in ('dh', 'dlast') and bool(case.complex))


def dtype(case: Case, name: str) -> str:
    """Returns the dtype of an input; states are not narrowed, as in models."""
    if is_complex(case, name):
        return 'complex128' if case.dtype == 'float64' else 'complex64'
    return case.dtype if name in ('a', 'x', 'dh') or case.dtype == 'float64' else 'float32'


def op(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the outputs by name."""
    state = arrays.get('state')
    how = {'initial_state': state, 'reverse': case.reverse, 'implementation': implementation}
    h, last = linear_scan(arrays['a'], arrays['x'], **how)
    return {'h': h, 'last': last}


def traced(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns outputs and all gradients by name."""
    wrt = {name: x for name, x in arrays.items() if name not in ('dh', 'dlast')}
    outputs, pull = jax.vjp(lambda wrt: op(case, implementation, wrt), wrt)
    return outputs | {f'd{name}': x for name, x in pull({'h': arrays['dh'], 'last': arrays['dlast']})[0].items()}


run = jit(traced, static_argnums=(0, 1))


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(dtype(case, name)))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, in double precision and token by token."""
    return sequential.linear_scan(arrays, case.reverse)


def parts(arrays: dict[str, object]) -> dict[str, np.ndarray]:
    """Returns complex arrays as real ones with an axis for the two parts, for comparison."""
    split = lambda x: np.stack([x.real, x.imag]) if np.iscomplexobj(x) else x
    return {name: split(np.asarray(x)) for name, x in arrays.items()}


def bars(case: Case, names: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns a bar per name, by whether the array is rounded to bfloat16."""
    narrow = {'h', 'da', 'dx'} if case.dtype == 'bfloat16' and not case.complex else set()
    base = 'float64' if case.dtype == 'float64' else 'float32'
    return {name: close.BARS['bfloat16' if name in narrow else base] for name in names}


def check(case: Case, implementation: str | None = 'xla', batch: int | None = None) -> None:
    """Runs the case and compares every output and gradient with double precision."""
    arrays = inputs(case, batch)
    target = wanted(case, arrays)
    found = run(case, implementation, device(case, arrays))
    close.assert_close(parts(found), parts(target), bars(case, target))
