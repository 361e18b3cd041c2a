"""Fixup: residual branches without norms, made trainable by their initial values and a few learned scalars.

Zhang et al., 2019, "Fixup Initialization: Residual Learning Without Normalization", https://arxiv.org/abs/1901.09321.
Reference: https://github.com/hongyi-zhang/Fixup (BSD-3-Clause), read for facts. In a network of L branches of m
matrices, the last matrix of each branch and the classifier are initialized to 0, the other matrices by He's rule times
``L^(-1/(2m-2))``. A scalar bias precedes every convolution and activation, and a scalar multiplies the output of each
branch. In blocks of other parts, such as transformers', only the scalars around the branch exist; ResNets have all of
them, see vision/fixup_resnet.py. The reference trains the scalars with a tenth of the learning rate.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.residuals.residual import Residual, SetsInitialValues


class Offset(nn.Module):
    """``x + bias`` with one scalar, initially 0."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
        """Returns ``x + bias``, of the same shape and type."""
        return x + self.param('bias', jax.nn.initializers.zeros, (1,))[0].astype(x.dtype)


class Fixup(Residual, SetsInitialValues):
    """``s + scale * branch(s + before) + after`` with three scalars; initially scale is 1, the others are 0."""

    def open(self, x: Float[Array, 'b *n']) -> Array:
        """Returns `x`."""
        return x

    def read(self, s: Array) -> Float[Array, 'b *n']:
        """Returns ``s + before``."""
        return s + self._numbers()[0].astype(s.dtype)

    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns ``s + scale * y + after``."""
        _, scale, after = self._numbers()
        return s + y * scale.astype(y.dtype) + after.astype(y.dtype)

    def carry(self, s: Array, f: Callable[[Array], Array]) -> Array:
        """Returns ``f(s)``."""
        return f(s)

    def close(self, s: Array) -> Float[Array, 'b *n']:
        """Returns `s`."""
        return s

    def initialized(self, part: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Returns the factory of a branch of two matrices, with Fixup's initial values.

        Raises:
            NotImplementedError: the branch has no fields `kernel_init` and `out_init` for them.
        """
        fields = {field.name for field in dataclasses.fields(_class(part))}
        if not {'kernel_init', 'out_init'} <= fields:
            raise NotImplementedError(
                f'Fixup sets how a branch starts, and {_class(part).__name__} has no kernel_init and out_init to set: '
                'choose another mixer, feed-forward layer or residual.'
            )
        return functools.partial(
            part, kernel_init=kernel_init(self.blocks * self.branches), out_init=jax.nn.initializers.zeros
        )

    @nn.compact
    def _numbers(self) -> tuple[Array, Array, Array]:
        zeros, ones = jax.nn.initializers.zeros, jax.nn.initializers.ones
        named = (('before', zeros), ('scale', ones), ('after', zeros))
        return tuple(self.param(name, initial, (1,))[0] for name, initial in named)


def kernel_init(branches: int, matrices: int = 2, mode: str = 'fan_in') -> init.Initializer:
    """Returns the initializer of all but the last matrix of a branch: He's normal values, scaled as in Fixup.

    Args:
        branches: number of branches in the network.
        matrices: number of matrices in a branch.
        mode: 'fan_in', or 'fan_out' as in ResNets.
    """
    return jax.nn.initializers.variance_scaling(2.0 * branches ** (-1 / (matrices - 1)), mode, 'normal')


def _class(part: Callable[..., nn.Module]) -> type[nn.Module]:
    """Returns the class that a factory makes."""
    return _class(part.func) if isinstance(part, functools.partial) else part
