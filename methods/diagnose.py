"""Finds where a step stopped being finite."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from longview.methods.task import Batch, Task, TrainState, Transform
from longview.trees import path_of


def first_bad(task: Task, state: TrainState, batch: Batch, rng: Key[Array, ''], transform: Transform) -> str:
    """Repeats the step that follows `state` and names the first thing in it that is not finite.

    Looked at in this order: the weights and the rest of the state, the batch, the transformed batch,
    the modules in the order of their calls, the gradients.
    """
    transform_rng, task_rng = jax.random.split(rng)
    step_rng = jax.random.fold_in(task_rng, state.step)
    v = state.variables
    for name, tree in (
        ('the weight', v.params),
        ('the state', v.state),
        ('the optimizer', state.opt_state),
        ('the batch array', batch),
    ):
        bad = _bad_leaf(tree)
        if bad is not None:
            return f'{name} {bad} held it before the step'
    batch = jax.jit(transform)(batch, transform_rng)
    bad = _bad_leaf(batch)
    if bad is not None:
        return f'the batch transforms made it in {bad}'
    batch = {**batch, 'row': jnp.arange(len(batch['label']), dtype=jnp.int32)}
    return _bad_module(task, state, batch, step_rng)


def _bad_module(task: Task, state: TrainState, batch: Batch, rng: Array) -> str:
    v = state.variables
    called: list[str] = []
    seen: set[int] = set()

    def watch(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = next_fun(*args, **kwargs)
        name = '/'.join(context.module.path) or type(context.module).__name__
        called.append(f'{name} ({type(context.module).__name__})')
        # A callback reaches the host from inside scanned and rematerialised layers as well.
        number = len(called) - 1
        jax.debug.callback(lambda ok: seen.add(number) if not ok else None, _finite(out))
        return out

    def objective(params: Any) -> Any:
        with nn.intercept_methods(watch):
            return task.loss(v._replace(params=params), batch, rng, state.step)

    _, grads = jax.block_until_ready(jax.jit(jax.value_and_grad(objective, has_aux=True))(v.params))
    jax.effects_barrier()
    if seen:
        return f'the module {called[min(seen)]} put out the first value that is not'
    bad = _bad_leaf(grads)
    return f'the gradient of {bad} is the first that is not' if bad else 'the optimizer made the update so'


def _bad_leaf(tree: Any) -> str | None:
    flags = jax.jit(lambda t: jax.tree.map(_finite, t))(tree)
    for path, ok in jax.tree_util.tree_leaves_with_path(jax.device_get(flags)):
        if not ok:
            return path_of(path)
    return None


def _finite(tree: Any) -> Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floats])) if floats else jnp.array(True)
