"""What the tests of networks share: a quick jit, and parameters without structure."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

import modelzoo
from tests import goldens

jit = functools.partial(jax.jit, compiler_options=goldens.QUICK)


def filled(module: nn.Module, x: jax.Array) -> dict:
    """Returns parameters with no structure in their values, and no zeros or ones."""
    shapes = traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), x)['params'], sep='.')
    return traverse_util.unflatten_dict(
        {path: jnp.asarray(goldens.fill(path, leaf.shape)) for path, leaf in shapes.items()}, sep='.')


@functools.cache
def shapes(name: str) -> tuple[dict, dict]:
    """Returns the shapes of a published network's features for two images of 64x96, and of its parameters."""
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    features, variables = jax.eval_shape(modelzoo.create_model(name).init_with_output, jax.random.key(0), x)
    return features, variables['params']
