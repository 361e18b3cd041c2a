"""Finds where a step stopped being finite."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from longview.methods import microbatches
from longview.methods.task import Batch, Task, TrainState, Transform, Variables, with_rows
from longview.trees import path_of


def first_bad(
    task: Task, state: TrainState, batch: Batch, rng: Key[Array, ''], transform: Transform, accumulate: int = 1
) -> str:
    """Repeats the step that follows `state` and names the first thing in it that is not finite.

    Looked at in this order: the weights and the rest of the state, the batch, the transformed batch,
    the modules in the order of their calls, the gradients; of a step in microbatches the last two in one
    microbatch after the other, as they fit into memory.

    Args:
        task, transform, accumulate: as `make_step` got them.
        state, batch, rng: as the step got them.
    """
    transform_rng, task_rng = jax.random.split(rng)
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
    run = _watched(task, jax.random.fold_in(task_rng, state.step), state.step)
    micros = jax.jit(lambda batch: microbatches.split(with_rows(batch), accumulate))(batch)
    for part in range(accumulate):
        task_state, found = run(v, jax.tree.map(lambda x: x[part], micros))
        if found is not None:
            return found
        v = v._replace(state=task_state)
    return 'the optimizer made the update so'


def _watched(task: Task, rng: Array, step: Array) -> Callable[[Variables, Batch], tuple[Any, str | None]]:
    """Returns a function of variables and a (micro)batch that gives the new state and what is not finite, if anything.

    It is compiled once; its modules tell the host whether what they put out is finite.
    """
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

    @jax.jit
    def gradients(v: Variables, batch: Batch) -> tuple[Any, Any]:
        def objective(params: Any) -> tuple[Array, Any]:
            with nn.intercept_methods(watch):
                loss, (state, _) = task.loss(v._replace(params=params), batch, rng, step)
            return loss, state

        return jax.grad(objective, has_aux=True)(v.params)

    def run(v: Variables, batch: Batch) -> tuple[Any, str | None]:
        grads, state = jax.block_until_ready(gradients(v, batch))
        jax.effects_barrier()
        if seen:
            return state, f'the module {called[min(seen)]} put out the first value that is not'
        bad = _bad_leaf(grads)
        return state, f'the gradient of {bad} is the first that is not' if bad else None

    return run


def _bad_leaf(tree: Any) -> str | None:
    flags = jax.jit(lambda t: jax.tree.map(_finite, t))(tree)
    for path, ok in jax.tree_util.tree_leaves_with_path(jax.device_get(flags)):
        if not ok:
            return path_of(path)
    return None


def _finite(tree: Any) -> Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floats])) if floats else jnp.array(True)
