"""A block whose output is the solution of a differential equation that starts at its input.

Chen et al., 2018, "Neural Ordinary Differential Equations", https://arxiv.org/abs/1806.07366: ``dy/dt = f(t, y)`` from
t = 0, with a network f of its own, whose parameters do not depend on t. The equation is solved by diffrax
(https://github.com/patrick-kidger/diffrax, Apache-2.0), which is asked for where a block is made. Reference:
https://github.com/rtqichen/torchdiffeq (MIT), whose fixed-step ``rk4`` is Kutta's 3/8 rule, as is ours.

Gradients are those of the steps that were taken (``checkpoints``, which recomputes and keeps a few states), or of a
second equation that is solved backwards (``backsolve``), as in the paper: memory does not grow with the number of
steps, and gradients are as exact as the tolerances.

With steps of free length the error of a whole batch decides, as in the reference: another batch, or another split of
one, has other steps, and other numbers within the tolerances. A fixed number of steps has none of this.
"""

import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.norm import GroupNorm

# (params, t, y) -> dy/dt
Field = Callable[[Any, Any, Array], Array]

SOLVERS = ('rk4', 'euler', 'midpoint', 'heun', 'tsit5', 'dopri5', 'dopri8')
ADJOINTS = ('checkpoints', 'backsolve')


class ODEBlock(nn.Module):
    """``y(end)`` where ``y(0)`` is the input.

    Attributes:
        func: factory of f, a module (t, y) -> dy/dt in the shape of y, without state.
        end: the time of the output.
        solver: one of `SOLVERS`; 'rk4' is the 3/8 rule.
        steps: number of equal steps; None for as many as the tolerances need.
        rtol, atol: tolerances of a step's error, relative and absolute.
        adjoint: where gradients come from, see above: 'checkpoints' or 'backsolve'.
        most: largest number of steps; where it does not suffice the output is NaN.
        dtype: compute type of f; the solution is float32.
    """

    func: Callable[..., nn.Module]
    end: float = 1.0
    solver: str = 'dopri5'
    steps: int | None = None
    rtol: float = 1e-3
    atol: float = 1e-3
    adjoint: str = 'checkpoints'
    most: int = 4096
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, y: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
        """Returns the solution.

        Raises:
            ValueError: an unknown solver or adjoint, or free steps for a solver that knows no error.
            ImportError: diffrax is not installed.
        """
        self._check()
        func, y = self.func(dtype=self.dtype, name='func'), y.astype(jnp.float32)
        if self.is_initializing():
            return y + func(jnp.zeros(()), y)  # any step shows f the shapes
        alone = func.clone(parent=None, name=None)
        field = lambda params, t, y: alone.apply({'params': params}, t, y).astype(jnp.float32)
        how = {name: getattr(self, name) for name in ('end', 'solver', 'steps', 'rtol', 'atol', 'adjoint', 'most')}
        return solved(field, func.variables['params'], y, **how)[0]

    def _check(self) -> None:
        _diffrax()
        if self.solver not in SOLVERS or self.adjoint not in ADJOINTS:
            raise ValueError(
                f'ODEBlock has solver={self.solver!r} and adjoint={self.adjoint!r}: use one of {", ".join(SOLVERS)}, '
                f'and one of {", ".join(ADJOINTS)}.'
            )
        if self.steps is not None and not 1 <= self.steps <= self.most:
            raise ValueError(f'ODEBlock has steps={self.steps} and most={self.most}: use from 1 to most steps.')
        if self.steps is None and self.solver in ('rk4', 'euler'):
            raise ValueError(f'{self.solver} does not know its error, which free steps need: set steps.')


def solved(
    field: Field,
    params: Any,
    y: Float[Array, '*n'],
    *,
    end: float = 1.0,
    solver: str = 'dopri5',
    steps: int | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    adjoint: str = 'checkpoints',
    most: int = 4096,
) -> tuple[Float[Array, '*n'], Int[Array, '']]:
    """Returns y(end) for ``dy/dt = field(params, t, y)`` from t = 0, and the number of steps that were taken.

    Arguments are those of `ODEBlock`.

    Raises:
        ImportError: diffrax is not installed.
    """
    diffrax = _diffrax()
    free = diffrax.PIDController(rtol=rtol, atol=atol)
    adjoints = {'checkpoints': diffrax.RecursiveCheckpointAdjoint, 'backsolve': diffrax.BacksolveAdjoint}
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, params: field(params, t, y)),
        _solver(solver),
        0.0,
        end,
        None if steps is None else end / steps,
        y,
        params,
        stepsize_controller=free if steps is None else diffrax.ConstantStepSize(),
        adjoint=adjoints[adjoint](),
        max_steps=most,
        throw=False,  # an error from inside of a compiled program would need a call to the host
    )
    found = jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], jnp.nan)
    return found, solution.stats['num_steps']


def _diffrax() -> types.ModuleType:
    try:
        import diffrax
    except ModuleNotFoundError as error:
        raise ImportError(
            'differential equations are solved by diffrax, which is not installed: pip install longview[ode].'
        ) from error
    return diffrax


def _solver(name: str) -> Any:
    diffrax = _diffrax()
    if name == 'rk4':
        return _three_eighths()()
    names = ('Euler', 'Midpoint', 'Heun', 'Tsit5', 'Dopri5', 'Dopri8')
    return {found.lower(): getattr(diffrax, found) for found in names}[name]()


@functools.cache
def _three_eighths() -> type:
    """Returns Kutta's 3/8 rule as a solver of diffrax."""
    diffrax = _diffrax()
    rule = diffrax.ButcherTableau(
        c=np.array([1 / 3, 2 / 3, 1]),
        a_lower=(np.array([1 / 3]), np.array([-1 / 3, 1]), np.array([1, -1, 1.0])),
        b_sol=np.array([1, 3, 3, 1]) / 8,
        b_error=np.zeros(4),
    )

    class ThreeEighths(diffrax.AbstractERK):
        tableau: ClassVar[Any] = rule
        interpolation_cls: ClassVar[Any] = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms: Any) -> int:
            del terms
            return 4

    return ThreeEighths


class TimeMlp(nn.Module):
    """``fc2(tanh(fc1([t, y])))``.

    Attributes:
        hidden: hidden width.
        dtype: compute type.
    """

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, t: Float[Array, ''], y: Float[Array, 'b d']) -> Float[Array, 'b d']:
        """Returns dy/dt."""
        z = jnp.concatenate([jnp.full((len(y), 1), t, y.dtype), y], axis=1)
        z = jnp.tanh(Dense(self.hidden, dtype=self.dtype, name='fc1')(z))
        return Dense(y.shape[-1], dtype=self.dtype, name='fc2')(z)


class TimeConvs(nn.Module):
    """Two 3x3 convolutions, each of which reads t as a channel before the others; norms before, between and after.

    Attributes:
        groups: of the norms, at most; not more than there are channels.
        dtype: compute type.
    """

    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, t: Float[Array, ''], y: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns dy/dt."""
        norm = functools.partial(GroupNorm, min(self.groups, y.shape[-1]), dtype=self.dtype)
        z = nn.relu(norm(name='norm1')(y))
        z = nn.relu(norm(name='norm2')(self._conv(z, t, 'conv1')))
        return norm(name='norm3')(self._conv(z, t, 'conv2'))

    def _conv(self, z: Float[Array, 'b h w c'], t: Float[Array, ''], name: str) -> Float[Array, 'b h w c']:
        timed = jnp.concatenate([jnp.full((*z.shape[:3], 1), t, z.dtype), z], axis=-1)
        return Conv(z.shape[-1], 3, 1, 1, self.dtype, name=name)(timed)


def names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    """Returns the names of f's parameters in the reference's example, and ours, at these places; see weights.py."""
    affine = (('weight', 'kernel'), ('bias', 'bias'))
    return (
        *((f'{there}norm{{k}}.{a}', f'{here}norm{{k}}/{b}') for a, b in (('weight', 'scale'), ('bias', 'bias'))),
        *(
            (f'{there}{name}{{k}}{inner}.{a}', f'{here}{name}{{k}}/{b}')
            for name, inner in (('conv', '._layer'), ('conv', ''), ('fc', ''))
            for a, b in affine
        ),
    )
