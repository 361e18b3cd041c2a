"""Inputs of the convolution of images, and its results by an implementation and as a direct sum in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.long_conv2d import global_filter, long_conv2d, pallas_tpu
from longview.kernels.long_conv2d.shapes import SHAPES
from longview.kernels.long_conv2d.transforms import Grid
from tests import goldens
from tests.kernels import close, pull

BARS = {'float32': 1e-5, 'bfloat16': 1e-2, 'float64': 1e-12}
jit = partial(jax.jit, compiler_options=goldens.QUICK)


class Case(NamedTuple):
    """A call of the op; `apart`: whether each image has its own kernel; `spectral`: a global filter."""

    shape: str
    apart: bool = False
    gates: bool = False
    origin: tuple[int, int] = (0, 0)
    circular: bool = False
    spectral: bool = False
    dtype: str = 'float32'


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Returns the inputs by name, rounded to their dtype; `dy` is the cotangent."""
    shape = SHAPES[case.shape]
    random = np.random.default_rng(sum(shape[:4]))
    image, channels = shape[:4], shape.channels
    if case.spectral:
        sizes = {'u': image, 'kernel': (shape.width // 2 + 1, 2, shape.height, channels), 'dy': image}
    else:
        sizes = {'u': image, 'kernel': (*[shape.batch] * case.apart, *shape.kernel, channels), 'dy': image}
    sizes |= {'pre_gate': image, 'post_gate': image, 'skip': (channels,)} if case.gates else {}
    found = {name: random.standard_normal(size) for name, size in sizes.items()}
    return {name: x.astype(jnp.dtype(case.dtype)).astype(np.float64) for name, x in found.items()}


def op(case: Case, implementation: str | None, x: dict[str, jax.Array]) -> jax.Array:
    """Returns the outputs; 'kernels' calls the functions of the TPU kernels, to be interpreted."""
    if implementation == 'kernels':
        size = x['u'].shape[1:3]
        if case.spectral:
            return pallas_tpu.filtered(x['u'], x['kernel'], grid=Grid(size, size))
        reach = zip(size, x['kernel'].shape[-3:-1], case.origin)
        period = size if case.circular else tuple(n + max(k - 1 - o, o) for n, k, o in reach)
        return pallas_tpu.convolve(x['u'], x['kernel'], grid=Grid(size, period, case.origin))
    if case.spectral:
        return global_filter(x['u'], x['kernel'], implementation=implementation)
    others = {name: array for name, array in x.items() if name not in ('u', 'kernel')}
    others |= {'origin': case.origin, 'circular': case.circular}
    return long_conv2d(x['u'], x['kernel'], **others, implementation=implementation)


@partial(jit, static_argnums=(0, 1))
def run(case: Case, implementation: str | None, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the output and all gradients by name."""
    return pull.results(partial(op, case, implementation), arrays)


def device(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jax.device_put(x.astype(jnp.dtype(case.dtype))) for name, x in arrays.items()}


def wanted(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same as `run`, summed directly in float64, tap by tap."""
    u, kernel, dy = (arrays[name] for name in ('u', 'kernel', 'dy'))
    if case.spectral:
        return _spectral(u, kernel, dy)
    pre, post = (arrays.get(name, np.ones_like(u)) for name in ('pre_gate', 'post_gate'))
    skip = arrays.get('skip', np.zeros(u.shape[-1]))
    x, dc = pre * u, post * dy
    c, dx, dkernel = np.zeros_like(x), skip * dc, np.zeros_like(kernel)
    for i, j in np.ndindex(kernel.shape[-3:-1]):
        lag = i - case.origin[0], j - case.origin[1]
        tap = kernel[..., i, j, :].reshape(-1, 1, 1, u.shape[-1])
        read = _shift(x, lag, case.circular)
        c += tap * read
        dx += tap * _shift(dc, (-lag[0], -lag[1]), case.circular)
        dkernel[..., i, j, :] = (dc * read).sum((1, 2) if case.apart else (0, 1, 2))
    found = {'y': post * (c + skip * x), 'du': pre * dx, 'dkernel': dkernel}
    if case.gates:
        found |= {'dpre_gate': u * dx, 'dpost_gate': dy * (c + skip * x), 'dskip': (x * dc).sum((0, 1, 2))}
    return found


def _spectral(u: np.ndarray, kernel: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """Returns results by NumPy's FFT; the derivative by a frequency is the inner product with its inverse transform."""
    size, axes = u.shape[1:3], (1, 2)
    numbers = np.moveaxis(kernel[:, 0] + 1j * kernel[:, 1], 0, 1)[None]
    spectrum = np.fft.rfft2(u, axes=axes)
    back = lambda z: np.fft.irfft2(z, size, axes=axes)
    found = {'y': back(spectrum * numbers), 'dkernel': np.zeros_like(kernel)}
    for q, k in np.ndindex(kernel.shape[0], kernel.shape[2]):
        for part, unit in enumerate((1, 1j)):
            alone = np.zeros_like(spectrum)
            alone[:, k, q] = unit * spectrum[:, k, q]
            found['dkernel'][q, part, k] = (back(alone) * dy).sum((0, 1, 2))
    taps = back(numbers)
    found['du'] = sum(taps[:, i, j][:, None, None] * np.roll(dy, (-i, -j), axes) for i, j in np.ndindex(size))
    return found


def _shift(x: np.ndarray, lag: tuple[int, int], circular: bool) -> np.ndarray:
    if circular:
        return np.roll(x, lag, axis=(1, 2))
    out = np.zeros_like(x)
    into, outof = [], []
    for n, by in zip(x.shape[1:3], lag):
        into.append(slice(max(by, 0), max(0, min(n, n + by))))
        outof.append(slice(max(-by, 0), max(0, min(n, n - by))))
    out[:, *into] = x[:, *outof]
    return out


def check(case: Case, implementation: str | None = 'xla') -> None:
    """Runs the case and compares every output and gradient with the direct sum."""
    arrays = inputs(case)
    target = wanted(case, arrays)
    found = jax.block_until_ready(run(case, implementation, device(case, arrays)))
    close.assert_close(found, target, dict.fromkeys(target, BARS[case.dtype]))
