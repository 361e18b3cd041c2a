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

    With several `streams` they are between the fractions of several copies, as release 0.4.11 also has them: the stream
    is (B, streams, ..., D), and the network that begins is that of hyper-connections: branch k reads copy k modulo
    their number, writes to all, and the copies are summed at the end.

    Attributes:
        fractions: number of fractions; divides the width.
        dynamic: whether the weights depend on the features.
        across: whether each fraction of the output is written to every fraction of the stream.
        streams: number of copies of the stream; with one it has no axis for them.
        tanh: whether what depends on the features goes through a tanh, as in the paper; without it, it is linear.
    """

    fractions: int = 4
    dynamic: bool = True
    across: bool = False
    streams: int = 1
    tanh: bool = True

    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns `x`, or copies of it.

        Raises:
            ValueError: the fractions do not divide the width.
        """
        if min(self.fractions, self.streams) < 1:
            raise ValueError(
                f'FracConnections has fractions={self.fractions} and streams={self.streams}: use at least 1 of each.'
            )
        if x.shape[-1] % self.fractions:
            raise ValueError(
                f'width {x.shape[-1]} does not divide into {self.fractions} fractions: change width or fractions.'
            )
        return x if self.streams == 1 else jnp.repeat(x[:, None], self.streams, axis=1)

    def read(self, s: Float[Array, 'b *s']) -> Float[Array, 'b *n']:
        """Returns the mixtures of the fractions that the branch reads."""
        alpha, _, _ = self._weights(s)
        return _merged(_sums(alpha, self._parts(s))).astype(s.dtype)

    def write(self, s: Float[Array, 'b *s'], y: Float[Array, 'b *n']) -> Array:
        """Returns the mixtures that remain in the stream, plus the fractions of the output."""
        _, alpha, beta = self._weights(s)
        kept, written = _sums(alpha, self._parts(s)), _sums(beta, self._split(y))
        return self._stream(kept).astype(s.dtype) + self._stream(written).astype(y.dtype).astype(s.dtype)

    def carry(self, s: Float[Array, 'b *s'], f: Callable[[Array], Array]) -> Array:
        """Returns ``f(s)``; copies are passed to it as a larger batch."""
        if self.streams == 1:
            return f(s)
        x = f(s.reshape(-1, *s.shape[2:]))
        return x.reshape(-1, self.streams, *x.shape[1:])

    def close(self, s: Float[Array, 'b *s']) -> Float[Array, 'b *n']:
        """Returns `s`, or the sum of the copies."""
        return s if self.streams == 1 else jnp.sum(s, axis=1)

    @nn.compact
    def _weights(self, s: Float[Array, 'b *s']) -> list[Float[Array, '*m f g']]:
        """Returns the weights of what the branch reads, of what remains and of what is written, from part f to g.

        The parts of the stream are counted fraction by fraction, and in each copy by copy.
        """
        parts, streams, zeros = self.fractions, self.streams, jax.nn.initializers.zeros
        alpha = self.param('static_alpha', self._initial_alpha, (parts * streams, parts * (1 + streams)))
        beta = self.param('static_beta', jax.nn.initializers.ones, (streams * parts,))
        beta = jnp.broadcast_to(beta.reshape(1, streams, parts), (parts, streams, parts))
        if self.dynamic:
            x, small = unit_norm(self, self._parts(s)), jax.nn.initializers.constant(0.01)
            bend = jnp.tanh if self.tanh else lambda y: y
            everywhere = lambda weights: weights.reshape((1,) * (x.ndim - 2) + weights.shape)
            kernel = self.param('dynamic_alpha_kernel', zeros, (x.shape[-1], parts * (1 + streams)))
            scale = self.param('dynamic_alpha_scale', small, ())
            alpha = everywhere(alpha) + bend(x @ kernel) * scale
            kernel = self.param('dynamic_beta_kernel', zeros, (x.shape[-1], parts))
            scale = self.param('dynamic_beta_scale', small, ())
            dynamic = bend(x @ kernel) * scale
            beta = everywhere(beta) + dynamic.reshape(*x.shape[:-2], parts, streams, parts)
        beta = jnp.swapaxes(beta, -1, -2)  # from part of the output to fraction and copy
        if not self.across:
            same = jnp.eye(parts, dtype=bool)[:, :, None]
            beta = jnp.where(jnp.broadcast_to(same, beta.shape), beta, 0)
        alpha = alpha.reshape(*alpha.shape[:-1], parts, 1 + streams)
        kept = alpha[..., 1:].reshape(*alpha.shape[:-2], parts * streams)
        return [alpha[..., 0], kept, beta.reshape(*beta.shape[:-2], parts * streams)]

    def _initial_alpha(self, key: Array, shape: tuple[int, int]) -> Array:
        """Returns the alpha with which the branch reads one copy and every part stays as it is."""
        del key
        copies, place = jnp.eye(self.streams), (self.block * self.branches + self.branch) % self.streams
        one = copies[:, jnp.array([place, *range(self.streams)])]
        return jnp.kron(jnp.eye(self.fractions), one).reshape(shape)

    def _split(self, x: Float[Array, 'b *n']) -> Float[Array, 'b *m f d']:
        return x.reshape(*x.shape[:-1], self.fractions, -1)

    def _parts(self, s: Float[Array, 'b *s']) -> Float[Array, 'b *m f d']:
        """Returns the fractions of all copies, in the order of `_weights`."""
        x = self._split(s)
        if self.streams == 1:
            return x
        x = jnp.moveaxis(x, 1, -2)
        return x.reshape(*x.shape[:-3], -1, x.shape[-1])

    def _stream(self, parts: Float[Array, 'b *m f d']) -> Float[Array, 'b *s']:
        """Returns the stream of these parts."""
        if self.streams == 1:
            return _merged(parts)
        x = parts.reshape(*parts.shape[:-2], self.fractions, self.streams, parts.shape[-1])
        return _merged(jnp.moveaxis(x, -2, 1))


def _merged(parts: Float[Array, 'b *m f d']) -> Float[Array, 'b *n']:
    return parts.reshape(*parts.shape[:-2], -1)


def _sums(weights: Float[Array, '*m f g'], parts: Float[Array, 'b *n f d']) -> Float[Array, 'b *n g d']:
    """Returns the mixtures in float32."""
    weights = jnp.broadcast_to(weights, (*parts.shape[:-1], weights.shape[-1]))
    return jnp.einsum('...fg,...fd->...gd', weights, parts.astype(jnp.float32))
