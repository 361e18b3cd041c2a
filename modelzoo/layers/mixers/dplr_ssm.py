"""A time-invariant state space whose matrix is diagonal plus rank 1: a convolution, or a recurrence from a state.

Gu, Goel and Ré, 2021, "Efficiently Modeling Long Sequences with Structured State Spaces",
https://arxiv.org/abs/2111.00396, with the low-rank term of Goel et al., 2022, https://arxiv.org/abs/2202.09729:

    A = diag(poles) - P P*    dA = (1 - dt A / 2)^-1 (1 + dt A / 2)    dB = (1 - dt A / 2)^-1 dt B
    h_t = dA h_{t-1} + dB u_t    y_t = 2 Re(C h_t)

One half of the N states is kept, for the others are their conjugates. All is computed with real vectors of real and
imaginary parts, on which A is ``D - 2 p p^T``: its symmetric part is negative wherever the poles have negative real
parts, so dA lengthens no vector, and neither does any power of it. The taps ``C dA^t dB`` of any number are therefore
products of two tables of powers, each doubled from the one before; no step divides by what may be small, as the
reference's sums over the roots of unity do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from longview.kernels.long_conv import long_conv

State = Float[Array, 'b d n']

# Elements that are read at once from a state; the tables for them are made once.
_CHUNK = 64


class Space(NamedTuple):
    """D discrete state spaces of N real states, with S outputs each.

    Attributes:
        step: dA.
        enter: dB.
        leave: C, for the outputs.
    """

    step: Float[Array, 'd n n']
    enter: Float[Array, 'd n']
    leave: Float[Array, 's d n']


def discrete(
    poles: Complex[Array, 'd m'],
    P: Complex[Array, 'd m'],
    B: Complex[Array, 'd m'],
    C: Complex[Array, 's d m'],
    dt: Float[Array, ' d'],
) -> Space:
    """Returns the state spaces at steps `dt`, by the bilinear rule; each of the M states stands for itself and a
    conjugate."""
    inverse = 1 / (1 - dt[:, None] / 2 * poles)
    p, after, before = _real(P), _real(inverse * P), _real(inverse.conj() * P)
    real, imaginary = (jax.vmap(jnp.diag)(part) for part in (inverse.real, inverse.imag))
    diagonal = jnp.block([[real, -imaginary], [imaginary, real]])
    # 1 - dt A / 2 is what `diagonal` inverts, plus dt p p^T: Sherman and Morrison's formula.
    weight = dt / (1 + dt * jnp.sum(p * after, axis=-1))
    solved = diagonal - weight[:, None, None] * after[:, :, None] * before[:, None]
    enter = dt[:, None] * _times(solved, _real(B)[..., None])[..., 0]
    return Space(2 * solved - jnp.eye(p.shape[-1])[None], enter, 2 * _real(C.conj()))


def read(u: Float[Array, 'b t d'], space: Space, state: State | None) -> tuple[Float[Array, 'b t s d'], State | None]:
    """Returns the outputs and, if a state was given, the state after the last element.

    Args:
        u: the sequence in float32.
        space: the state space of each channel.
        state: after the elements read before; None for a whole sequence.
    """
    if state is None:
        kernels = taps(space, u.shape[1])
        return jnp.stack([long_conv(u, kernel) for kernel in kernels], axis=2), None
    size = min(_CHUNK, u.shape[1])
    chunks, rest = divmod(u.shape[1], size)
    whole = u[:, : chunks * size].reshape(u.shape[0], chunks, size, -1).swapaxes(0, 1)
    state, y = jax.lax.scan(_reader(space, size), state, whole)
    y = y.swapaxes(0, 1).reshape(u.shape[0], chunks * size, *y.shape[3:])
    if rest:
        state, last = _reader(space, rest)(state, u[:, -rest:])
        y = jnp.concatenate([y, last], axis=1)
    return y, state


def _reader(space: Space, size: int):
    """Returns the function (state, the next elements) -> (the state after them, their outputs)."""
    columns = _columns(space, size)
    with jax.default_matmul_precision('highest'):
        power = jnp.linalg.matrix_power(space.step, size)
    rows = _rows(space._replace(leave=_times(space.leave[:, :, None], space.step[None])[:, :, 0]), space.step, size)
    inner = jnp.einsum('sdn,dnt->std', space.leave, columns, precision='highest')

    def reader(state: State, u: Float[Array, 'b t d']) -> tuple[State, Float[Array, 'b t s d']]:
        if size == 1:
            y = u[:, :, None] * inner.swapaxes(0, 1)[None]
        else:
            y = jnp.stack([long_conv(u, kernel) for kernel in inner], axis=2)
        y = y + jnp.einsum('sdtn,bdn->btsd', rows, state, precision='highest')
        state = jnp.einsum('dnm,bdm->bdn', power, state, precision='highest')
        return state + jnp.einsum('btd,dnt->bdn', u, columns[..., ::-1], precision='highest'), y

    return reader


def taps(space: Space, length: int) -> Float[Array, 's t d']:
    """Returns ``C dA^t dB`` for t = 0, 1, ..., `length` - 1."""
    side = 1
    while side * side < length:
        side *= 2
    count = -(-length // side)
    columns = _columns(space, side)
    rows = _rows(space, _power_of_two(space.step, side), count)
    found = jnp.einsum('sdan,dnb->sabd', rows, columns, precision='highest')
    return found.reshape(len(found), count * side, -1)[:, :length]


def _columns(space: Space, count: int) -> Float[Array, 'd n t']:
    """Returns ``dA^t dB`` for t = 0, 1, ..., `count` - 1."""
    columns, power = space.enter[..., None], space.step
    while columns.shape[-1] < count:
        power = _times(power, power) if columns.shape[-1] > 1 else power
        columns = jnp.concatenate([columns, _times(power, columns)], axis=-1)
    return columns[..., :count]


def _rows(space: Space, step: Float[Array, 'd n n'], count: int) -> Float[Array, 's d t n']:
    """Returns ``C step^t`` for t = 0, 1, ..., `count` - 1."""
    rows, power = space.leave[:, :, None], step
    while rows.shape[2] < count:
        power = _times(power, power) if rows.shape[2] > 1 else power
        rows = jnp.concatenate([rows, _times(rows, power[None])], axis=2)
    return rows[:, :, :count]


def _power_of_two(step: Float[Array, 'd n n'], exponent: int) -> Float[Array, 'd n n']:
    while exponent > 1:
        step, exponent = _times(step, step), exponent // 2
    return step


def _times(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision='highest')


def _real(x: Complex[Array, '*d m']) -> Float[Array, '*d n']:
    return jnp.concatenate([x.real, x.imag], axis=-1)


def hippo(states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns poles, P and B of HiPPO-LegS, whose states remember the past as Legendre polynomials.

    Half of the `states` are returned, those whose poles have negative imaginary parts. Gu et al., 2020,
    https://arxiv.org/abs/2008.07669.
    """
    order = np.arange(states, dtype=np.float64)
    root = np.sqrt(2 * order + 1)
    A = -np.tril(np.outer(root, root), -1) - np.diag(order + 1)
    P = np.sqrt(order + 0.5)
    # With P P^T the matrix is -1/2 plus a skew-symmetric one, which has orthogonal eigenvectors.
    imaginary, vectors = np.linalg.eigh(-1j * (A + np.outer(P, P) + 0.5 * np.eye(states)))
    half = vectors[:, : states // 2].conj().T
    return -0.5 + 1j * imaginary[: states // 2], half @ P, half @ root
