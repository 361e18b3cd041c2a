"""How an objective runs a module: its parameters apart from what else it holds, and the rows of the batch handed on.

`Supervised` and `LanguageModel` do the same in place; these are for the objectives that run more than one module, or
one module more than once.
"""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Int, Key


def start(module: nn.Module, rng: Key[Array, ''], *inputs: Any) -> tuple[Any, Any]:
    """Returns (parameters, state) of a module: state is all that it holds besides parameters."""
    variables = dict(module.init(rng, *inputs, train=False))
    return variables.pop('params'), variables


def learn(
    module: nn.Module, params: Any, state: Any, *inputs: Any, rng: Key[Array, ''], row: Int[Array, ' b']
) -> tuple[Any, Any]:
    """Runs a module as in training; returns (output, state after it).

    Args:
        module: takes `inputs` and ``train``.
        params, state: from `start`.
        inputs: handed on.
        rng: of the step; with `row` it decides what is random for each example.
        row: number of each example in the whole batch, with no number twice.
    """
    variables = {'params': params, **state, 'example': {'row': row}}
    output, state = module.apply(variables, *inputs, train=True, rngs={'drop_path': rng}, mutable=list(state))
    return output, dict(state)


def answer(module: nn.Module, params: Any, state: Any, *inputs: Any) -> Any:
    """Runs a module as it would be deployed."""
    return module.apply({'params': params, **state}, *inputs, train=False)
