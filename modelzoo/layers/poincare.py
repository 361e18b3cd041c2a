"""The Poincaré ball: a model of hyperbolic space, in which vectors of the last axis are points or tangents.

Ungar, 2008, "Analytic Hyperbolic Geometry and Albert Einstein's Special Theory of Relativity", for gyrovector spaces;
Ganea et al., 2018, "Hyperbolic Neural Networks", https://arxiv.org/abs/1805.09112, for the maps; Shimizu et al., 2020,
"Hyperbolic Neural Networks++", https://arxiv.org/abs/2006.08210, for linear layers. Reference:
https://github.com/maxvanspengler/poincare-resnet (Apache-2.0), commit fbbbbf8, models/manifolds.

A ball of curvature -c has the radius 1 / sqrt(c). Everything is in float32; what could leave the ball by rounding is
pulled back to 0.996 of the radius, as in the reference, whose gradients by hand are those of these formulas. `c` is a
positive number in all functions.

These functions make sums of their vectors, whose factors depend on inner products alone. `span` makes vectors that are
known by their factors: a chain of functions then works on a few numbers for each point, and the vectors themselves are
read twice, for their inner products and for the last sum, instead of once in every function.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """A sum of basis vectors, for each point one.

    Attributes:
        basis: the vectors, (*n, d); dimensions of 1 are broadcast.
        products: their inner products (*n, 1), by the places of both.
        factors: a number (*n, 1) for each of them.
    """

    basis: tuple[Array, ...]
    products: dict[tuple[int, int], Array]
    factors: tuple[Array | float, ...]

    def __add__(self, other: 'Span') -> 'Span':
        return self._with(a + b for a, b in zip(self.factors, other.factors))

    def __mul__(self, number: Array | float) -> 'Span':
        return self._with(number * a for a in self.factors)

    __rmul__ = __mul__

    def __truediv__(self, number: Array | float) -> 'Span':
        return self._with(a / number for a in self.factors)

    def __neg__(self) -> 'Span':
        return self * -1.0

    def value(self) -> Float[Array, '*n d']:
        """Returns the sum."""
        first, *others = (factor * vector for factor, vector in zip(self.factors, self.basis))
        return sum(others, first)

    def _with(self, factors: Iterable[Array | float]) -> 'Span':
        return dataclasses.replace(self, factors=tuple(factors))


Points = Float[Array, '*n d'] | Span


def span(*vectors: Float[Array, '... d']) -> list[Span]:
    """Returns each of the vectors as a sum of them all."""
    places = range(len(vectors))
    products = {(i, j): dot(vectors[i], vectors[j]) for i in places for j in range(i, len(vectors))}
    products |= {(j, i): product for (i, j), product in products.items()}
    return [Span(vectors, products, tuple(float(i == place) for i in places)) for place in places]


def dot(x: Float[Array, '... d'] | Span, y: Float[Array, '... d'] | Span) -> Float[Array, '... 1']:
    """Returns inner products of vectors; of two of a span, by those of its basis."""
    if not isinstance(x, Span):
        return jnp.sum(x * y, axis=-1, keepdims=True)
    terms = [x.factors[i] * y.factors[j] * product for (i, j), product in x.products.items()]
    return sum(terms[1:], terms[0])


RIM = 1 - 4e-3
_TINY = 1e-15


def length(x: Points) -> Float[Array, '*n 1']:
    """Returns the Euclidean norm, at least 1e-15; a vector of zeros has no gradient."""
    return jnp.sqrt(jnp.maximum(dot(x, x), _TINY**2))


def conformal(x: Points, c: float) -> Float[Array, '*n 1']:
    """Returns ``2 / (1 - c |x|^2)``, the scale of the metric at a point."""
    return 2 / jnp.maximum(1 - c * dot(x, x), _TINY)


def project(x: Points, c: float) -> Points:
    """Returns the points, those beyond 0.996 of the radius pulled back to it."""
    limit, size = RIM * c**-0.5, length(x)
    return jnp.where(size > limit, limit / size, 1.0) * x


def from_origin(v: Points, c: float) -> Points:
    """Returns the points where geodesics from the origin with these tangents end (the exponential map at 0)."""
    size = length(v) * c**0.5
    return project(jnp.tanh(size) / size * v, c)


def to_origin(x: Points, c: float) -> Points:
    """Returns the tangents at the origin of geodesics to these points (the logarithmic map at 0)."""
    size = length(x) * c**0.5
    return jnp.arctanh(size) / size * x


def add(x: Points, y: Points, c: float) -> Points:
    """Returns the Möbius sum ``x + y``, which does not commute; ``-x + (x + y) = y``."""
    xx, yy, xy = (dot(a, b) for a, b in ((x, x), (y, y), (x, y)))
    whole = 1 + 2 * c * xy + c * c * xx * yy
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / jnp.maximum(whole, _TINY)


def gyrate(u: Points, v: Points, w: Points, c: float) -> Points:
    """Returns ``-(u + v) + (u + (v + w))``: what keeps Möbius sums from being associative, a rotation of `w`."""
    uu, vv, uv, uw, vw = (dot(a, b) for a, b in ((u, u), (v, v), (u, v), (u, w), (v, w)))
    a = -c * c * uw * vv + c * vw + 2 * c * c * uv * vw
    b = -c * c * vw * uu - c * uw
    return w + 2 * (a * u + b * v) / jnp.maximum(1 + 2 * c * uv + c * c * uu * vv, _TINY)


def shoot(x: Points, v: Points, c: float) -> Points:
    """Returns the points where geodesics from `x` with tangents `v` end (the exponential map at x)."""
    size = length(v)
    step = jnp.tanh(c**0.5 * conformal(x, c) * size / 2) / (c**0.5 * size) * v
    return project(add(x, step, c), c)


def aim(x: Points, y: Points, c: float) -> Points:
    """Returns the tangents at `x` of geodesics to `y` (the logarithmic map at x)."""
    apart = add(-x, y, c)
    size = length(apart)
    return 2 / (c**0.5 * conformal(x, c)) * _arctanh(c**0.5 * size) / size * apart


def transport(x: Points, y: Points, v: Points, c: float) -> Points:
    """Returns tangents `v` at `x` moved in parallel along geodesics to `y`."""
    return conformal(x, c) / conformal(y, c) * gyrate(y, -x, v, c)


def distance(x: Points, y: Points, c: float) -> Float[Array, '*n']:
    """Returns the lengths of geodesics from `x` to `y`."""
    return (2 * c**-0.5 * _arctanh(c**0.5 * length(add(-x, y, c))))[..., 0]


def midpoint(x: Float[Array, '*n d'], c: float) -> Float[Array, ' d']:
    """Returns the midpoint of all points: their Einstein midpoint in the Klein model, which has a closed form."""
    x = x.reshape(-1, x.shape[-1])
    weight = conformal(x, c) / 2
    klein = jnp.sum(weight * x, axis=0) / (jnp.sum(weight) - x.shape[0] / 2)
    return klein / (1 + jnp.sqrt(jnp.maximum(1 - c * jnp.sum(klein * klein), _TINY)))


def fully_connected(
    products: Float[Array, '*n o'],
    squares: Float[Array, '*n 1'],
    sizes: Float[Array, ' o'],
    offsets: Float[Array, ' o'],
    c: float,
    *,
    published: bool = False,
) -> Span:
    """Returns points whose signed distances to the axes' hyperplanes are those of `x` to hyperplanes of its own.

    They are the span of one vector each, whose `value` are the points (*n, o).

    Args:
        products: ``x @ z``, with a hyperplane's orientation z for each output.
        squares: ``|x|^2`` of the points.
        sizes: ``|z|``, at least 1e-15.
        offsets: geodesic distances of the hyperplanes from the origin.
        c: curvature.
        published: whether the scale of the metric is ``2 (1 - c |x|^2)``, as in the reference's code, and not its
            paper's ``2 / (1 - c |x|^2)``.
    """
    left = 1 - c * squares
    scale = 2 * left if published else 2 / jnp.maximum(left, _TINY)
    row = lambda vector: vector.reshape((1,) * (products.ndim - 1) + (-1,))
    sizes, offsets = row(sizes), row(2 * c**0.5 * offsets)
    inside = c**0.5 * scale / sizes * products * jnp.cosh(offsets) - (scale - 1) * jnp.sinh(offsets)
    (y,) = span(_sinh_of_multiple(inside, sizes) * c**-0.5)
    return project(y / (1 + jnp.sqrt(1 + c * dot(y, y))), c)


@jax.custom_jvp
def _sinh_of_multiple(x: Float[Array, '*n o'], factor: Float[Array, '... o']) -> Float[Array, '*n o']:
    """Returns ``sinh(2 factor arcsinh(x))``; the slope is written out, for JAX would keep six arrays for it."""
    return jnp.sinh(2 * factor * jnp.arcsinh(x))


@_sinh_of_multiple.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, factor), (dx, dfactor) = primals, tangents
    y = _sinh_of_multiple(x, factor)
    return y, 2 * jnp.sqrt(1 + y * y) * (factor * jax.lax.rsqrt(1 + x * x) * dx + jnp.arcsinh(x) * dfactor)


def _arctanh(x: Array) -> Array:
    # Two points near the rim may be infinitely far apart in float32.
    return jnp.arctanh(jnp.minimum(x, 1 - 1e-6))
