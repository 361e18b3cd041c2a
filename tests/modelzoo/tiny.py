"""What the tests of networks share: a quick jit, and parameters without structure."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo import __main__ as table
from longview.modelzoo.features import SequenceBackbone
from tests import goldens

jit = functools.partial(jax.jit, compiler_options=goldens.QUICK)


def filled(module: nn.Module, x: jax.Array) -> dict:
    """Returns variables with no structure in their values, and no zeros or ones."""
    wanted = jax.eval_shape(module.init, jax.random.key(0), x)
    statistics = {'mean': 'running_mean', 'var': 'running_var'}  # what the rule of the goldens knows them as
    return {kind: _filled(tree, statistics if kind == 'batch_stats' else {}) for kind, tree in wanted.items()}


def _filled(tree: dict, names: dict[str, str]) -> dict:
    flat = traverse_util.flatten_dict(tree, sep='.')

    def fill(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        *above, last = path.split('.')
        return jnp.asarray(goldens.fill('.'.join([*above, names.get(last, last)]), leaf.shape))

    return traverse_util.unflatten_dict({path: fill(path, leaf) for path, leaf in flat.items()}, sep='.')


@functools.cache
def shapes(name: str) -> tuple[dict, dict]:
    """Returns the shapes of a published network's features for two images of 64x96, and of its parameters.

    Sequences are 64 words or numbers, and of their networks' blocks, which are alike, at most two are counted.
    """
    model, size = modelzoo.create_model(name), (64, 96)
    if isinstance(model.backbone, SequenceBackbone):
        model, size = model.clone(backbone=model.backbone.clone(depth=min(model.backbone.depth, 2))), (1, 64)
    x = table.example(model.backbone, size, batch=2)
    features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    return features, variables['params']


def images(pattern: str = '*') -> list[str]:
    """Returns the names of the networks that read images and nothing else."""
    return [name for name in modelzoo.list_models(pattern) if not isinstance(modelzoo.find(name)[1], SequenceBackbone)]
