"""Frac-connections: hyper-connections between fractions of one stream instead of copies of it.

Zhu et al., 2025, "Frac-Connections: Fractional Extension of Hyper-Connections", https://arxiv.org/abs/2503.14125.
The authors published pseudo-code only. With `across` this agrees with
https://github.com/lucidrains/hyper-connections (MIT), release 0.4.11, where each fraction of the output is written to
every fraction of the stream with a weight of its own, and the initial network is not the plain residual network. By
default it is, as in the paper: a fraction of the output is written to the same fraction of the stream only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.hyper_connections import unit_norm
from longview.modelzoo.layers.residuals.residual import Residual


class FracConnections(Residual):
    """Hyper-connections between fractions of the last axis; the branch reads and writes all of them.

    Attributes:
        fractions: number of fractions; divides the width.
        dynamic: whether the weights depend on the features, through a tanh.
        across: whether each fraction of the output is written to every fraction of the stream.
    """

    fractions: int = 4
    dynamic: bool = True
    across: bool = False

    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns `x`.

        Raises:
            ValueError: the fractions do not divide the width.
        """
        if x.shape[-1] % self.fractions:
            raise ValueError(
                f'width {x.shape[-1]} does not divide into {self.fractions} fractions: change width or fractions.'
            )
        return x

    def read(self, s: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
        """Returns the mixtures of the fractions that the branch reads."""
        return self._sums(self._weights(s)[0], s)

    def write(self, s: Float[Array, 'b *n'], y: Float[Array, 'b *n']) -> Array:
        """Returns the mixtures that remain in the stream, plus the fractions of the output."""
        _, alpha, beta = self._weights(s)
        return self._sums(alpha, s) + self._sums(beta, y).astype(s.dtype)

    def carry(self, s: Float[Array, 'b *n'], f: Callable[[Array], Array]) -> Array:
        """Returns ``f(s)``."""
        return f(s)

    def close(self, s: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
        """Returns `s`."""
        return s

    @nn.compact
    def _weights(self, s: Float[Array, 'b *n']) -> list[Float[Array, '*m f g']]:
        """Returns the weights of what the branch reads, of what remains and of what is written, from part f to g."""
        parts, zeros = self.fractions, jax.nn.initializers.zeros
        initial = lambda key, shape: jnp.repeat(jnp.eye(parts), 2, axis=1)  # read and kept, part by part
        alpha = self.param('static_alpha', initial, (parts, 2 * parts))
        beta = self.param('static_beta', jax.nn.initializers.ones, (parts,))
        beta = jnp.broadcast_to(beta[None], (parts, parts))
        if self.dynamic:
            x, small = unit_norm(self, self._split(s)), jax.nn.initializers.constant(0.01)
            everywhere = lambda weights: weights.reshape((1,) * (x.ndim - 2) + weights.shape)
            kernel = self.param('dynamic_alpha_kernel', zeros, (x.shape[-1], 2 * parts))
            scale = self.param('dynamic_alpha_scale', small, ())
            alpha = everywhere(alpha) + jnp.tanh(x @ kernel) * scale
            kernel = self.param('dynamic_beta_kernel', zeros, (x.shape[-1], parts))
            scale = self.param('dynamic_beta_scale', small, ())
            beta = everywhere(beta) + jnp.tanh(x @ kernel) * scale
        if not self.across:
            beta = jnp.where(jnp.broadcast_to(jnp.eye(parts, dtype=bool), beta.shape), beta, 0)
        return [alpha[..., ::2], alpha[..., 1::2], beta]

    def _split(self, x: Float[Array, 'b *n']) -> Float[Array, 'b *m f d']:
        return x.reshape(*x.shape[:-1], self.fractions, -1)

    def _sums(self, weights: Float[Array, '*m f g'], x: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
        parts = self._split(x).astype(jnp.float32)
        weights = jnp.broadcast_to(weights, (*parts.shape[:-1], self.fractions))
        return jnp.einsum('...fg,...fd->...gd', weights, parts).reshape(x.shape).astype(x.dtype)
