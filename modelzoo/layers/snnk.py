"""Scalable neural network kernels: layers that see their input and their weights through random features alone.

Sehanobish et al., 2023, "Scalable Neural Network Kernels", https://arxiv.org/abs/2310.13225, ICLR 2024. Reference:
https://github.com/arijitthegame/neural-network-kernels (Apache-2.0) at 45129f5, src/nnk/nnk.py, read for facts. A layer
``f(w . x + b)`` becomes a plain product ``psi(w, b) . phi(x)``. What is trained is psi itself, a kernel (m, features)
in the place of (d, features), and a linear layer that follows folds into it (`methods.prune.bundle`):

- `UrfDense`: universal random features. With ``f(z) = integral F(xi) exp(2 pi i xi z)`` and rows g of a normal
  projection, ``phi(x) = exp(a g . x - a^2 |x|^2 / 2) / sqrt(m)`` with ``a^2 = 2 pi i xi``, and psi likewise of w. The
  mean of ``psi . phi`` over projections is f.
- `ReluSnnk`: ``phi(x) = max(G x, floor) / sqrt(m)`` for both sides, an arc-cosine kernel: another layer than the one
  that it replaces, not an estimate of it.
- `AdaptedMlp`: a feed-forward layer with a trained ReluSnnk behind, for a network that is otherwise frozen.

Projections are parameters that get no gradient; their name does not end in ``kernel``, so they do not decay.

Where we differ: the reference normalises inputs over the sequence, here over channels; its class for general f cannot
be constructed, its complex one starts from other scales than the paper's and so estimates nothing, and for a sequence
of inputs its features lack the half before ``|x|^2``. Here they are the paper's for any number of axes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Key

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.mlp import Mlp

# f(z) is the real part of amplitude * exp(slope^2 * z): the one frequency of each function, and its amplitude.
FUNCTIONS = {'exp': (1.0, 1.0), 'cos': (1j**0.5, 1.0), 'sin': (1j**0.5, -1j)}

# Published names of a `ReluSnnk`'s parameters and ours; see weights.py.
NAMES = (('weights', 'kernel'), ('projection_matrix', 'projection'))


def normal_rows(key: Key[Array, ''], rows: int, width: int, *, orthogonal: bool = True) -> Float[Array, 'm d']:
    """Returns standard normal rows, independent or in blocks of at most `width` that are orthogonal to each other.

    Each row alone has the same distribution in both cases; estimates from orthogonal rows vary less.
    """
    directions, lengths = jax.random.split(key)
    normal = jax.random.normal(directions, (-(-rows // width), width, width))
    if not orthogonal:
        return normal.reshape(-1, width)[:rows]
    q, r = jnp.linalg.qr(normal)
    # With the signs of the diagonal the matrix is uniformly distributed over all rotations and reflections.
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None]
    norms = jnp.linalg.norm(jax.random.normal(lengths, (rows, width)), axis=-1, keepdims=True)
    return q.reshape(-1, width)[:rows] * norms


def relu_features(x: Float[Array, '*n d'], projection: Float[Array, 'm d'], floor: float = 0.0) -> Float[Array, '*n m']:
    """Returns ``max(G x, floor) / sqrt(m)``, for inputs and for rows of weights alike."""
    return jnp.maximum(x @ projection.T, floor) / math.sqrt(projection.shape[0])


def urf_features(
    x: Float[Array, '*n d'],
    projection: Float[Array, 'm d'],
    slope: complex | Float[Array, ' m'] | Complex[Array, ' m'] = 1.0,
    spread: float = 0.0,
) -> Float[Array, '*n m'] | Complex[Array, '*n m']:
    """Returns universal random features of inputs, or of rows of weights without a bias.

    For standard normal rows of the projection the mean over them of ``features(x) . features(w)`` is
    ``exp(slope^2 x . w)``.

    Args:
        x: inputs.
        projection: m rows.
        slope: a above, one for all rows or one for each.
        spread: M of the paper, at least 0; it changes the variance and not the mean.
    """
    rows, width = projection.shape
    slope = jnp.broadcast_to(jnp.asarray(slope), (rows,)).reshape((1,) * (x.ndim - 1) + (-1,))
    scale = (1 + 4 * spread) ** (width / 4) / math.sqrt(rows)
    lengths = (spread * jnp.sum(projection**2, axis=-1)).reshape(slope.shape)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    along = math.sqrt(1 + 4 * spread) * slope * (x @ projection.T)
    return scale * jnp.exp(along - slope**2 * square / 2 - lengths)


def urf_kernel(
    weight: Float[Array, 'd o'],
    bias: Float[Array, ' o'],
    projection: Float[Array, 'm d'],
    activation: str = 'cos',
    spread: float = 0.0,
) -> Float[Array, 'k o']:
    """Returns the kernel with which `UrfDense` estimates ``activation(x @ weight + bias)``.

    Args:
        weight, bias: of a dense layer.
        projection: the layer's.
        activation: one of `FUNCTIONS`.
        spread: the layer's.
    """
    slope, amplitude = FUNCTIONS[activation]
    psi = amplitude * jnp.exp(slope**2 * bias)[:, None] * urf_features(weight.T, projection, slope, spread)
    return _as_real(psi, -1).T


def _as_real(features: Array, sign: int = 1) -> Float[Array, '*n k']:
    """Returns complex features as twice as many real ones: real parts, then imaginary parts times a sign.

    With opposite signs on the two sides the real product is the real part of the complex one.
    """
    if not jnp.iscomplexobj(features):
        return features
    return jnp.concatenate([features.real, sign * features.imag], axis=-1)


class UrfDense(nn.Module):
    """An estimate of ``activation(x @ w + b)`` from random features, whose kernel is trained.

    Attributes:
        features: size of the last axis of the result.
        random_features: m; the kernel has m rows for 'exp' and 2 m, real and imaginary parts, for the others.
        activation: 'cos', 'sin' or 'exp'.
        spread: M of `urf_features`.
        orthogonal: whether rows of the projection are orthogonal in blocks.
        kernel_init: initial values of the weights (d, features) that the kernel first stands for; their bias is 0.
        dtype: type of the result and of the last product; features are computed in float32.
    """

    features: int
    random_features: int = 16
    activation: str = 'cos'
    spread: float = 0.0
    orthogonal: bool = True
    kernel_init: init.Initializer = jax.nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n o']:
        """Acts on the last axis, whose vectors have lengths of about 1: the variance grows as exp of their squares.

        Raises:
            ValueError: there is no such activation, or no random features.
        """
        _check_count(self)
        if self.activation not in FUNCTIONS:
            raise ValueError(f'UrfDense.activation is {self.activation!r}: use one of {", ".join(FUNCTIONS)}.')
        projection = _projection(self, x.shape[-1])

        def first(key: Key[Array, '']) -> Array:
            weight = self.kernel_init(key, (x.shape[-1], self.features))
            return urf_kernel(weight, jnp.zeros(self.features), projection, self.activation, self.spread)

        kernel = self.param('kernel', first)
        slope, _ = FUNCTIONS[self.activation]
        phi = _as_real(urf_features(x.astype(jnp.float32), projection, slope, self.spread))
        return phi.astype(self.dtype) @ kernel.astype(self.dtype)


class ReluSnnk(nn.Module):
    """``phi(x) @ kernel`` with ``phi(x) = max(G x, floor) / sqrt(m)``; the kernel starts as phi of a layer's weights.

    In the place of a whole feed-forward layer it is one whose two matrices are bundled. Published settings: for the
    latter 16 random features with a floor of -5 on normalised inputs; in adapters 8 with a floor of 0.

    Attributes:
        features: size of the last axis of the result; None for that of the input.
        random_features: m.
        floor: what G x is cut at, 0 for a rectifier.
        normalize: whether inputs are vectors of length ``d^(1/4)`` at first.
        orthogonal: whether rows of the projection are orthogonal in blocks.
        kernel_init: initial values of the weights (d, features) that the kernel starts as the features of.
        dtype: compute type.
    """

    features: int | None = None
    random_features: int = 16
    floor: float = 0.0
    normalize: bool = False
    orthogonal: bool = True
    kernel_init: init.Initializer = jax.nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n o']:
        """Acts on the last axis.

        Raises:
            ValueError: there are no random features.
        """
        _check_count(self)
        width = x.shape[-1]
        projection = _projection(self, width)

        def first(key: Key[Array, '']) -> Array:
            weight = self.kernel_init(key, (width, self.features or width))
            return relu_features(weight.T, projection, self.floor).T

        kernel = self.param('kernel', first)
        if self.normalize:
            wide = x.astype(jnp.float32)
            # The root's slope at 0 is infinite.
            x = wide * (width**0.25 * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + 1e-12))
        phi = relu_features(x.astype(self.dtype), projection.astype(self.dtype), self.floor)
        return phi @ kernel.astype(self.dtype)


class AdaptedMlp(Mlp):
    """An `Mlp` with an adapter behind: ``y + scale * snnk(y)`` with y its output and a scale per channel, 0 at first.

    Parameters of the Mlp keep their paths, so weights of the network without adapters fit. With
    `methods.freeze.Freeze` and ``'(?!head/|.*adapter_(scale|snnk/kernel)).*'`` adapters and head train alone.

    Attributes:
        random_features: of the adapter.
        floor: of the adapter.
    """

    random_features: int = 8
    floor: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
        """Acts on the last axis."""
        y = super().__call__(x)
        # BERT's initial values, as in the reference.
        start = jax.nn.initializers.normal(0.02)
        adapter = ReluSnnk(None, self.random_features, self.floor, False, True, start, self.dtype, name='adapter_snnk')
        scale = self.param('adapter_scale', jax.nn.initializers.zeros, (y.shape[-1],)).astype(self.dtype)
        return y + adapter(y) * scale.reshape((1,) * (y.ndim - 1) + (-1,))


def _projection(layer: UrfDense | ReluSnnk, width: int) -> Float[Array, 'm d']:
    draw = functools.partial(normal_rows, rows=layer.random_features, width=width, orthogonal=layer.orthogonal)
    return jax.lax.stop_gradient(layer.param('projection', draw))


def _check_count(layer: UrfDense | ReluSnnk) -> None:
    if layer.random_features < 1:
        raise ValueError(
            f'{type(layer).__name__}.random_features is {layer.random_features}: a layer needs at least 1.'
        )
