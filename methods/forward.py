"""How every method runs a module: parameters apart from what else it holds, and the rows of the batch handed on.

Random numbers in training: the stream ``drop_path`` has the key of the step, which is the same for all microbatches;
what draws from it takes the example's row into account (modelzoo/layers/frame/drop.py, dropout.py). All other streams
(flax's own `nn.Dropout` draws from ``dropout``) have a key that the first row of the microbatch is folded into. So no
two microbatches draw alike there; but what is drawn depends on how the batch is split.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier, Loaded, bare, filled


def inputs(module: nn.Module, batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the columns of a batch that a network reads, in the order of its arguments.

    Raises:
        ValueError: the batch lacks one.
    """
    wanted = ft.read_by(module)
    lacking = [name for name in wanted if name not in batch]
    if lacking:
        who = type(getattr(module, 'backbone', module)).__name__
        raise ValueError(
            f'{who} reads {" and ".join(lacking)}, and the batch has {", ".join(sorted(batch))}: take another data '
            'set, a batch transform that makes it, or a network that reads what is there.'
        )
    return tuple(batch[name] for name in wanted)


def penalized(loss: Float[Array, ''], *outputs: ft.Features) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """Returns an objective's loss with what parts of its network ask for, and the metrics of both.

    Args:
        loss: the objective's own, a mean over the batch.
        outputs: the features of the network's runs; the mean of ``penalty``, where it is among them, is added.
    """
    asked = [features[ft.PENALTY].astype(jnp.float32).mean() for features in outputs if ft.PENALTY in features]
    if not asked:
        return loss, {'loss': loss}
    penalty = sum(asked) / len(asked)
    return loss + penalty, {'loss': loss + penalty, 'penalty': penalty}


def init(
    module: nn.Module, rng: Key[Array, ''], *inputs: Any, weights: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Returns first (parameters, state) of a module; state is all that it holds besides parameters.

    Args:
        module: takes `inputs` and ``train``.
        rng: of random values.
        inputs: handed on; only their shapes matter.
        weights: arrays by collection that take the place of random values, a part of the tree of variables.
    """
    return parted(filled(module.init(rng, *inputs, train=False), weights or {}))


def parted(variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the parameters, and what else there is by collection."""
    return variables['params'], {kind: tree for kind, tree in variables.items() if kind != 'params'}


def read(network: Classifier, *inputs: Any) -> dict[str, Any]:
    """Returns the first weights that a network is loaded from, as host arrays; {} for one that starts at random."""
    if not isinstance(network, Loaded):
        return {}
    return network.load(jax.eval_shape(functools.partial(bare(network).init, train=False), jax.random.key(0), *inputs))


def learn(
    module: nn.Module, params: Any, state: Any, *inputs: Any, rng: Key[Array, ''], row: Int[Array, ' b']
) -> tuple[Any, Any]:
    """Runs a module as in training; returns (output, state after it).

    Args:
        module: takes `inputs` and ``train``.
        params, state: from `init`.
        inputs: handed on.
        rng: of the step; with `row` it decides what is random for each example, see above.
        row: number of each example in the whole batch, with no number twice.
    """
    variables = {'params': params, **state, 'example': {'row': row}}
    # A stream that has no key of its own takes that of 'params'.
    rngs = {'drop_path': rng, 'params': jax.random.fold_in(rng, row[0])}
    output, state = module.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state))
    return output, dict(state)


def answer(module: nn.Module, params: Any, state: Any, *inputs: Any) -> Any:
    """Runs a module as it would be deployed."""
    return module.apply({'params': params, **state}, *inputs, train=False)
