"""Inputs of the depthwise convolution; its output and gradients by an implementation and as a direct sum in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from longview.kernels.depthwise_conv import depthwise_conv
from longview.kernels.depthwise_conv.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close, pull

BARS = {'float32': 1e-5, 'bfloat16': 1e-2, 'float64': 1e-12}

jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op; `multiplier` is the number of kernels per channel."""

    shape: str
    stride: int | tuple[int, int] = 1
    dilation: int | tuple[int, int] = 1
    padding: str | int | tuple[tuple[int, int], tuple[int, int]] = 'SAME'
    multiplier: int = 1
    dtype: str = 'float32'

    @property
    def how(self) -> dict:
        return {name: getattr(self, name) for name in ('stride', 'dilation', 'padding')}


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` is the cotangent."""
    shape: Shape = SHAPES[case.shape]
    random = np.random.default_rng(sum(shape))
    sizes = {'x': shape[:4], 'kernel': (*shape[4:6], 1, case.multiplier * shape.channels)}
    op = lambda x, kernel: depthwise_conv(x, kernel, **case.how, implementation='conv')
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
    return outputs(partial(depthwise_conv, **case.how, implementation=implementation), arrays)


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(case.dtype))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, summed directly in float64, tap by tap."""
    kernel, dy = arrays['kernel'], arrays['dy']
    pair = lambda value: (value, value) if isinstance(value, int) else value
    stride, dilation = pair(case.stride), pair(case.dilation)
    x = np.repeat(arrays['x'], case.multiplier, axis=3)
    spans = [(side - 1) * step + 1 for side, step in zip(kernel.shape, dilation)]
    pads = case.padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:3], spans, stride, pads)
    pads = [pair(pad) for pad in pair(pads)]
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    y, dpadded, dkernel = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(*kernel.shape[:2]):
        place = tuple(
            slice(tap * far, tap * far + (n - 1) * step + 1, step)
            for tap, far, n, step in zip((i, j), dilation, dy.shape[1:3], stride)
        )
        place = (slice(None), *place)
        y += padded[place] * kernel[i, j]
        dkernel[i, j] = (padded[place] * dy).sum((0, 1, 2))
        dpadded[place] += dy * kernel[i, j]
    (top, _), (left, _) = pads
    dx = dpadded[:, top : top + x.shape[1], left : left + x.shape[2]]
    dx = dx.reshape(*arrays['x'].shape, case.multiplier).sum(-1)
    return {'y': y, 'dx': dx, 'dkernel': dkernel}


def check(case: Case, implementation: str | None) -> None:
    """Runs the case and compares the output and the gradients with the direct sum."""
    arrays = inputs(case)
    target = wanted(case, arrays)
    close.assert_close(run(case, implementation, device(case, arrays)), target, dict.fromkeys(target, BARS[case.dtype]))
