"""What stands around the goldens of bounded networks: a network with its bound, and functions called as there."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from longview.methods.robust import gloro
from longview.modelzoo.heads.unit import UnitLinear
from longview.modelzoo.layers import lipschitz
from longview.modelzoo.layers.norms.norm import l2_normalize
from longview.modelzoo.vision import liresnet

# The functions are one program each: operations compiled one by one take longer than all else.
Outputs = dict[str, Any]


class Start(nn.Module):
    """What a power iteration starts from, as a parameter: an image is stored as a kernel to one output channel."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        kernel = self.param('kernel', jax.nn.initializers.zeros, (*self.shape[1:], 1))
        return jnp.moveaxis(kernel, -1, 0)


class LogitsAndBound(nn.Module):
    """LiResNet's logits and, last, the bound of its Lipschitz constant from starts that are parameters."""

    depth: int = 3
    width: int = 8

    @nn.compact
    def __call__(self, x):
        backbone = liresnet.LiResNet(self.depth, self.width, name='backbone')
        logits = UnitLinear(5, name='head')(backbone(x))
        shapes = backbone.iterates(x.shape[1:])
        _, *block = shapes.pop('blocks')
        blocks = [Start(tuple(block), name=f'start_block{index:02d}')() for index in range(self.depth)]
        starts = {name: Start(shape, name=f'start_{name}')() for name, shape in shapes.items()}
        starts['blocks'] = jnp.stack(blocks)
        bound, _ = backbone.lipschitz(starts, iterations=10)
        return jnp.concatenate([logits, jnp.broadcast_to(bound, (x.shape[0], 1))], axis=1)


# The starts, which files of weights pass over, are wanted here.
NAMES = (
    *((f'{name}.init_x', f'start_{here}/kernel') for name, here in (('stem.0', 'stem'), ('neck.0', 'neck'))),
    *((f'backbone.{2 * index}.init_x', f'start_block{index:02d}/kernel') for index in range(3)),
    ('neck.3.init_x', 'start_vector/kernel'),
    *(pair for pair in liresnet.NAMES['LiResNet'] if 'init_x' not in pair[0]),
)


@functools.partial(jax.jit, static_argnames=('depth', 'iterations'))
def power_of_residual(start: jax.Array, weight: jax.Array, affine: jax.Array, depth: int, iterations: int) -> Outputs:
    """The norm of a linear residual block, channels first."""
    block = lipschitz.LinearResidual(depth)
    params = {'kernel': _kernel(weight), 'scale': jnp.asarray(affine), 'bias': jnp.zeros(affine.shape)}
    power = lambda linear, x: lipschitz.spectral_norm(linear, x, iterations=iterations)
    norm, iterate = block.apply({'params': params}, _last(start), power, method='bound')
    return {'lipschitz': norm, 'iterate': jax.lax.stop_gradient(jnp.moveaxis(iterate, -1, 1))}


@functools.partial(jax.jit, static_argnames=('stride', 'padding', 'iterations'))
def power_of_strided(start: jax.Array, weight: jax.Array, stride: int, padding: int, iterations: int) -> Outputs:
    """The norm of a strided convolution with the gradient at a fixed iterate, channels first."""
    layer = lipschitz.BoundedConv(weight.shape[0], weight.shape[2], stride, padding)
    params = {'kernel': _kernel(weight), 'bias': jnp.zeros(weight.shape[0])}
    power = lambda linear, x: lipschitz.spectral_norm(linear, x, iterations=iterations, through=False)
    norm, iterate = layer.apply({'params': params}, _last(start), power, method='bound')
    return {'lipschitz': norm, 'iterate': jnp.moveaxis(iterate, -1, 1)}


@functools.partial(jax.jit, static_argnames=('kind',))
def robust_loss(
    features: jax.Array,
    head: jax.Array,
    bias: jax.Array,
    lipschitz: jax.Array,
    labels: np.ndarray,
    epsilon: float,
    kind: str,
) -> Outputs:
    """A loss of certified training from features, its mean, and the attacked logits without a gradient."""
    columns = l2_normalize(jnp.asarray(head).T, axis=0)
    logits = jnp.asarray(features) @ columns + jnp.asarray(bias)[None]
    labels, reach = jnp.asarray(labels), jnp.broadcast_to(epsilon * lipschitz, labels.shape)
    robust = {
        'emma_loss': lambda: gloro.emma(logits, labels, columns, reach),
        'margin_loss': lambda: gloro.attacked(logits, labels, columns, reach),
        'trades_loss': lambda: gloro.with_bottom(logits, columns, reach),
    }
    loss = getattr(gloro, kind)(logits, labels, columns, reach).mean()
    return {'loss': loss, 'robust_logits': jax.lax.stop_gradient(robust[kind]())}


@jax.jit
def orthogonal_rows(matrix: jax.Array) -> Outputs:
    """The rows of a stack of matrices made orthogonal by Cholesky."""
    return {'orthogonal': lipschitz.cholesky_orthogonal(matrix)}


def _kernel(weight: jax.Array) -> jax.Array:
    return jnp.transpose(jnp.asarray(weight), (2, 3, 1, 0))


def _last(start: jax.Array) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(start), 1, -1)
