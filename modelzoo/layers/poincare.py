"""The Poincaré ball: a model of hyperbolic space, in which vectors of the last axis are points or tangents.

Ungar, 2008, "Analytic Hyperbolic Geometry and Albert Einstein's Special Theory of Relativity", for gyrovector spaces;
Ganea et al., 2018, "Hyperbolic Neural Networks", https://arxiv.org/abs/1805.09112, for the maps; Shimizu et al., 2020,
"Hyperbolic Neural Networks++", https://arxiv.org/abs/2006.08210, for linear layers. Reference:
https://github.com/maxvanspengler/poincare-resnet (Apache-2.0), commit fbbbbf8, models/manifolds.

A ball of curvature -c has the radius 1 / sqrt(c). Everything is in float32; what could leave the ball by rounding is
pulled back to 0.996 of the radius, as in the reference, whose gradients by hand are those of these formulas. `c` is a
positive number in all functions.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Points = Float[Array, '*n d']

RIM = 1 - 4e-3
_TINY = 1e-15


def length(x: Points) -> Float[Array, '*n 1']:
    """Returns the Euclidean norm, at least 1e-15; a vector of zeros has no gradient."""
    return jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), _TINY**2))


def conformal(x: Points, c: float) -> Float[Array, '*n 1']:
    """Returns ``2 / (1 - c |x|^2)``, the scale of the metric at a point."""
    return 2 / jnp.maximum(1 - c * jnp.sum(x * x, axis=-1, keepdims=True), _TINY)


def project(x: Points, c: float) -> Points:
    """Returns the points, those beyond 0.996 of the radius pulled back to it."""
    limit, size = RIM * c**-0.5, length(x)
    return jnp.where(size > limit, x / size * limit, x)


def from_origin(v: Points, c: float) -> Points:
    """Returns the points where geodesics from the origin with these tangents end (the exponential map at 0)."""
    size = length(v) * c**0.5
    return project(jnp.tanh(size) * v / size, c)


def to_origin(x: Points, c: float) -> Points:
    """Returns the tangents at the origin of geodesics to these points (the logarithmic map at 0)."""
    size = length(x) * c**0.5
    return jnp.arctanh(size) * x / size


def add(x: Points, y: Points, c: float) -> Points:
    """Returns the Möbius sum ``x + y``, which does not commute; ``-x + (x + y) = y``."""
    xx, yy, xy = (jnp.sum(a * b, axis=-1, keepdims=True) for a, b in ((x, x), (y, y), (x, y)))
    whole = 1 + 2 * c * xy + c * c * xx * yy
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / jnp.maximum(whole, _TINY)


def gyrate(u: Points, v: Points, w: Points, c: float) -> Points:
    """Returns ``-(u + v) + (u + (v + w))``: what keeps Möbius sums from being associative, a rotation of `w`."""
    uu, vv, uv, uw, vw = (jnp.sum(a * b, axis=-1, keepdims=True) for a, b in ((u, u), (v, v), (u, v), (u, w), (v, w)))
    a = -c * c * uw * vv + c * vw + 2 * c * c * uv * vw
    b = -c * c * vw * uu - c * uw
    return w + 2 * (a * u + b * v) / jnp.maximum(1 + 2 * c * uv + c * c * uu * vv, _TINY)


def shoot(x: Points, v: Points, c: float) -> Points:
    """Returns the points where geodesics from `x` with tangents `v` end (the exponential map at x)."""
    size = length(v)
    step = jnp.tanh(c**0.5 * conformal(x, c) * size / 2) * v / (c**0.5 * size)
    return project(add(x, step, c), c)


def aim(x: Points, y: Points, c: float) -> Points:
    """Returns the tangents at `x` of geodesics to `y` (the logarithmic map at x)."""
    apart = add(-x, y, c)
    size = length(apart)
    return 2 / (c**0.5 * conformal(x, c)) * _arctanh(c**0.5 * size) * apart / size


def transport(x: Points, y: Points, v: Points, c: float) -> Points:
    """Returns tangents `v` at `x` moved in parallel along geodesics to `y`."""
    return gyrate(y, -x, v, c) * conformal(x, c) / conformal(y, c)


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
) -> Float[Array, '*n o']:
    """Returns points whose signed distances to the axes' hyperplanes are those of `x` to hyperplanes of its own.

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
    y = jnp.sinh(2 * sizes * jnp.arcsinh(inside)) * c**-0.5
    return project(y / (1 + jnp.sqrt(1 + c * jnp.sum(y * y, axis=-1, keepdims=True))), c)


def _arctanh(x: Array) -> Array:
    # Two points near the rim may be infinitely far apart in float32.
    return jnp.arctanh(jnp.minimum(x, 1 - 1e-6))
