"""Inputs of the long convolution, and its outputs and gradients by an implementation and as a direct sum in float64."""

import functools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.long_conv import api, long_conv, pallas_tpu
from longview.kernels.long_conv.shapes import SHAPES, Shape
from tests import goldens
from tests.kernels import close, pull

jit = partial(jax.jit, compiler_options=goldens.QUICK)
BARS = {'float32': 1e-5, 'bfloat16': 1e-2, 'float64': 1e-12}


class Case(NamedTuple):
    """A call of the op; `apart`: whether each sequence has its own kernel."""

    shape: str
    apart: bool = False
    gates: bool = False
    skip: bool = False
    backward: bool = False
    circular: bool = False
    frequencies: float = 1.0
    dtype: str = 'float32'


def inputs(case: Case, batch: int | None = None) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` is the cotangent."""
    shape: Shape = SHAPES[case.shape]
    shape = shape._replace(batch=batch or shape.batch)
    random = np.random.default_rng(sum(shape))
    tokens = shape[:3]
    taps = (*[shape.batch] * case.apart, shape.taps, shape.channels)
    sizes = {'u': tokens, 'kernel': taps, 'dy': tokens}
    sizes |= {'pre_gate': tokens, 'post_gate': tokens} if case.gates else {}
    sizes |= {'skip': (shape.channels,)} if case.skip else {}
    sizes |= {'backward_kernel': (*taps[:-2], max(1, shape.taps // 2), shape.channels)} if case.backward else {}
    found = {name: random.standard_normal(size) for name, size in sizes.items()}
    return {name: x.astype(jnp.dtype(case.dtype)).astype(np.float64) for name, x in found.items()}


def op(case: Case, implementation: str | None, x: dict[str, jax.Array]) -> jax.Array:
    """Returns the outputs; 'kernels ..' calls the functions of the TPU kernels, to be interpreted."""
    if implementation and implementation.startswith('kernels'):
        taps, before = api._joined(x['u'].shape[1], x['kernel'], x.get('backward_kernel'), case.circular)
        gates = (x.get(name) for name in ('pre_gate', 'post_gate', 'skip'))
        return pallas_tpu.convolve(x['u'], taps, *gates, before=before, keep=case.frequencies)
    others = {name: array for name, array in x.items() if name not in ('u', 'kernel')}
    others |= {'circular': case.circular, 'frequencies': case.frequencies}
    return long_conv(x['u'], x['kernel'], **others, implementation=implementation)


@partial(jit, static_argnums=(0, 1))
def run(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the output and all gradients by name."""
    return pull.results(partial(op, case, implementation), arrays)


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(case.dtype))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, summed directly in float64, lag by lag."""
    u, kernel, dy = (arrays[name] for name in ('u', 'kernel', 'dy'))
    pre, post = (arrays.get(name, np.ones_like(u)) for name in ('pre_gate', 'post_gate'))
    skip = arrays.get('skip', np.zeros(u.shape[-1]))
    x, dc = pre * u, post * dy
    if case.frequencies < 1:
        last = len(x[0]) - 1
        low_pass = _low_pass(last + 1, len(kernel), case.frequencies)
        c, dx, dkernel = _both(x, dc, low_pass @ kernel, lambda j: j - last, False)
        dkernel = low_pass.T @ dkernel
    else:
        c, dx, dkernel = _both(x, dc, kernel, lambda j: j, case.circular)
    found = {'dkernel': dkernel}
    if case.backward:
        more, dmore, found['dbackward_kernel'] = _both(
            x, dc, arrays['backward_kernel'], lambda j: -1 - j, case.circular
        )
        c, dx = c + more, dx + dmore
    dx += skip * dc
    found |= {'y': post * (c + skip * x), 'du': pre * dx}
    if case.gates:
        found |= {'dpre_gate': u * dx, 'dpost_gate': dy * (c + skip * x)}
    return found | ({'dskip': (x * dc).sum((0, 1))} if case.skip else {})


def _both(x, dc, kernel, lag_of, circular):
    """Returns the convolution, and the cotangents of sequence and kernel."""
    c, dx, dkernel = np.zeros_like(x), np.zeros_like(x), np.zeros_like(kernel)
    for j in range(kernel.shape[-2]):
        tap = kernel[..., j, :][..., None, :] if kernel.ndim == 3 else kernel[j]
        read = _shift(x, lag_of(j), circular)
        c += tap * read
        dx += tap * _shift(dc, -lag_of(j), circular)
        dkernel[..., j, :] = (dc * read).sum(1 if kernel.ndim == 3 else (0, 1))
    return c, dx, dkernel


def _low_pass(tokens: int, taps: int, share: float) -> np.ndarray:
    """Returns the low-pass filter (lags from 1 - tokens on, taps), by a transform with every second number 0.

    A sequence that changes its sign after 2 N tokens has the period 4 N, and odd frequencies only.
    """
    size = max(256, 2 ** (-(-(tokens + taps - 1) // 2) - 1).bit_length())
    delta = np.zeros((4 * size, taps))
    delta[np.arange(taps), np.arange(taps)], delta[2 * size + np.arange(taps), np.arange(taps)] = 1, -1
    spectrum = np.fft.fft(delta, axis=0)
    spectrum[np.abs(np.fft.fftfreq(4 * size)) >= share / 2] = 0
    return np.fft.ifft(spectrum, axis=0).real[np.arange(1 - tokens, tokens)]


def _shift(x: np.ndarray, lag: int, circular: bool) -> np.ndarray:
    if circular:
        return np.roll(x, lag, axis=1)
    out = np.zeros_like(x)
    if lag >= 0:
        out[:, lag:] = x[:, : x.shape[1] - lag] if lag < x.shape[1] else 0
    else:
        out[:, :lag] = x[:, -lag:]
    return out


@functools.cache
def inputs_and_results(case: Case, batch: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns `inputs` and `wanted`; the direct sum of thousands of tokens takes as long as all else."""
    arrays = inputs(case, batch)
    return arrays, wanted(case, arrays)


def check(case: Case, implementation: str | None = 'xla', batch: int | None = None) -> None:
    """Runs the case and compares every output and gradient with the direct sum."""
    arrays, target = inputs_and_results(case, batch)
    found = run(case, implementation, device(case, arrays))
    close.assert_close(found, target, dict.fromkeys(target, BARS[case.dtype]))
