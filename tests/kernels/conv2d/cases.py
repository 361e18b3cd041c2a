"""Inputs of the convolution; its output and gradients by an implementation and as a direct sum in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from longview.kernels.conv2d import conv2d
from longview.kernels.conv2d.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close, pull

BARS = {'float32': 1e-5, 'bfloat16': 1e-2, 'float64': 1e-12}

jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op."""

    shape: str
    padding: str | int | tuple[tuple[int, int], tuple[int, int]] = 'SAME'
    groups: int = 1
    dtype: str = 'float32'

    @property
    def how(self) -> dict:
        return {'stride': SHAPES[self.shape].stride, 'padding': self.padding}


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` is the cotangent."""
    shape: Shape = SHAPES[case.shape]
    random = np.random.default_rng(sum(shape[:8]))
    sizes = {'x': shape[:4], 'kernel': (*shape[5:7], shape.channels // case.groups, shape.outputs)}
    op = lambda x, kernel: conv2d(x, kernel, **case.how)
    sizes['dy'] = jax.eval_shape(op, *(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes.values())).shape
    return {
        name: random.standard_normal(size).astype(jnp.dtype(case.dtype)).astype(np.float64)
        for name, size in sizes.items()
    }


def outputs(function, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the output of a function of x and kernel, and its gradients, by name."""
    return pull.results(lambda arrays: function(arrays['x'], arrays['kernel']), arrays)


@partial(jit, static_argnums=(0, 1))
def run(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the output and all gradients by name."""
    return outputs(partial(conv2d, **case.how, implementation=implementation), arrays)


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(case.dtype))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, summed directly in float64, tap by tap and group by group."""
    x, kernel, dy = (arrays[name] for name in ('x', 'kernel', 'dy'))
    stride, pads = SHAPES[case.shape].stride, case.padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), pads)
    (top, bottom), (left, right) = ((pads, pads),) * 2 if isinstance(pads, int) else pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y, dpadded, dkernel = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    ins, outs = kernel.shape[2], kernel.shape[3] // case.groups
    for i, j, group in np.ndindex(*kernel.shape[:2], case.groups):
        place = tuple(slice(tap, tap + (n - 1) * stride + 1, stride) for tap, n in zip((i, j), dy.shape[1:3]))
        place = (slice(None), *place, slice(group * ins, (group + 1) * ins))
        out = (..., slice(group * outs, (group + 1) * outs))
        weights = kernel[i, j][out]
        y[out] += padded[place] @ weights
        dkernel[i, j][out] = np.tensordot(padded[place], dy[out], ((0, 1, 2),) * 2)
        dpadded[place] += dy[out] @ weights.T
    return {'y': y, 'dx': dpadded[:, top : top + x.shape[1], left : left + x.shape[2]], 'dkernel': dkernel}


def check(case: Case, implementation: str | None) -> None:
    """Runs the case and compares the output and the gradients with the direct sum."""
    arrays = inputs(case)
    target = wanted(case, arrays)
    close.assert_close(run(case, implementation, device(case, arrays)), target, dict.fromkeys(target, BARS[case.dtype]))
