"""Hyper-connections: several copies of the stream; branches read from, write to and mix them with learned weights.

Zhu et al., 2024, "Hyper-Connections", https://arxiv.org/abs/2409.19606. The authors published pseudo-code only. The
dynamic form agrees with https://github.com/lucidrains/hyper-connections (MIT), release 0.4.11, whose norm is RMSNorm
with ``1 + scale``; that code also has the form without the tanh. With initial weights the network computes the plain
residual network: branch k reads copy k modulo the number of copies, every output is added to every copy, and the copies
are summed at the end, a multiple that the last norm takes away. In the paper the static weights have no weight decay,
for which an optimizer here needs ``decay_rules=(('static_alpha', 0.0),)``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Residual


class HyperConnections(Residual):
    """``x_t <- sum_s alpha_{s,t} x_s + beta_t y``, the branch reading ``sum_s alpha_{s,0} x_s``.

    The stream is (B, streams, ..., D).

    Attributes:
        streams: number of copies.
        dynamic: whether alpha and beta depend on the copies.
        tanh: whether what depends on them goes through a tanh, as in the paper; without it, it is linear.
    """

    streams: int = 4
    dynamic: bool = True
    tanh: bool = True

    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns copies of `x`."""
        if self.streams < 1:
            raise ValueError(f'HyperConnections.streams is {self.streams}: use at least 1.')
        return jnp.repeat(x[:, None], self.streams, axis=1)

    def read(self, s: Float[Array, 'b s *n']) -> Float[Array, 'b *n']:
        """Returns the mixture that the branch reads."""
        alpha, _ = self._weights(s)
        return _mixed(alpha[..., :1], s)[:, 0]

    def write(self, s: Float[Array, 'b s *n'], y: Float[Array, 'b *n']) -> Array:
        """Returns the mixed copies, with the branch's output added to each."""
        alpha, beta = self._weights(s)
        y = y.reshape(y.shape[0], 1, -1, y.shape[-1])
        out = (beta[..., None] * y.astype(jnp.float32)).reshape(s.shape)
        return _mixed(alpha[..., 1:], s) + out.astype(s.dtype)

    def carry(self, s: Float[Array, 'b s *n'], f: Callable[[Array], Array]) -> Array:
        """Returns ``f`` of every copy; the copies are passed to it as a larger batch."""
        x = f(s.reshape(-1, *s.shape[2:]))
        return x.reshape(-1, self.streams, *x.shape[1:])

    def close(self, s: Float[Array, 'b s *n']) -> Float[Array, 'b *n']:
        """Returns the sum of the copies."""
        return jnp.sum(s, axis=1)

    @nn.compact
    def _weights(self, s: Float[Array, 'b s *n']) -> tuple[Float[Array, 'b2 s m t'], Float[Array, 'b2 s m']]:
        """Returns alpha, whose first column is the branch's, and beta, per position; b2 and m are 1 if static."""
        alpha = self.param('static_alpha', self._initial_alpha, (self.streams, 1 + self.streams))[None, :, None]
        beta = self.param('static_beta', jax.nn.initializers.ones, (self.streams,))[None, :, None]
        if not self.dynamic:
            return alpha, beta
        x = unit_norm(self, s.reshape(*s.shape[:2], -1, s.shape[-1]))
        bend = jnp.tanh if self.tanh else lambda y: y
        zeros, small = jax.nn.initializers.zeros, jax.nn.initializers.constant(0.01)
        kernel = self.param('dynamic_alpha_kernel', zeros, (s.shape[-1], 1 + self.streams))
        alpha = alpha + bend(x @ kernel) * self.param('dynamic_alpha_scale', small, ())
        kernel = self.param('dynamic_beta_kernel', zeros, (s.shape[-1],))
        return alpha, beta + bend(x @ kernel) * self.param('dynamic_beta_scale', small, ())

    def _initial_alpha(self, key: Array, shape: tuple[int, int]) -> Array:
        """Returns the alpha with which the branch reads one copy and every copy stays as it is."""
        del key
        place = (self.block * self.branches + self.branch) % self.streams
        return jnp.eye(self.streams)[:, jnp.array([place, *range(self.streams)])]


def unit_norm(module: nn.Module, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """Returns `x` in float32 divided by its root mean square, times 1 + the parameter `norm_scale` of `module`."""
    scale = module.param('norm_scale', jax.nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-24)
    return x * (x.shape[-1] ** 0.5 * (1 + scale)).reshape((1,) * (x.ndim - 1) + (-1,))


def _mixed(alpha: Float[Array, 'b2 s m t'], s: Float[Array, 'b s *n']) -> Float[Array, 'b t *n']:
    """Returns the weighted sums of the copies."""
    flat = s.reshape(*s.shape[:2], -1, s.shape[-1]).astype(jnp.float32)
    alpha = jnp.broadcast_to(alpha, (*flat.shape[:3], alpha.shape[-1]))
    mixed = jnp.einsum('bsmt,bsmd->btmd', alpha, flat)
    return mixed.reshape(s.shape[0], -1, *s.shape[2:]).astype(s.dtype)
