"""The programs of a run, not compiled yet."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn

from longview.layouts import of_rank
from longview.methods.evaluation import make_gather, make_measure
from longview.methods.task import Given, Task, TrainState, Variables, chain, init_state, make_step
from longview.runtime import compiler
from longview.runtime.evaluation import Evaluation
from longview.runtime.mesh import batch_sharding, check_sequences, replicated, tree_shardings
from longview.runtime.plan import Eval, Run


class Programs(NamedTuple):
    """What a run computes on a mesh, not compiled yet; `state` and `batch` are shapes, with their places.

    `init` takes beside the key what the task has read (`Given`), and reads it itself where it is left out.
    """

    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    init: jax.stages.Wrapped
    step: jax.stages.Wrapped
    measure: jax.stages.Wrapped


def programs(run: Run, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> Programs:
    """Returns the programs of a run; to be called, and they to be traced, under ``jax.set_mesh(mesh)``."""
    sharding, everywhere = batch_sharding(mesh, run.data.whole, run.data.sequences), replicated(mesh)
    shapes = run.data.batch_spec(run.batch_size, train=True)
    batches = columns(mesh, run.data, run.batch_size, train=True)
    transform = chain(run.train_transforms)

    def init(rng: jax.Array, given: Given | None = None) -> TrainState:
        # The zeros only lend their shapes: what would be computed from them is never run.
        zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
        return init_state(run.task, tx, rng, zeros, transform, given)

    state = jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), Given())
    places = tree_shardings(state, mesh, run.mesh)
    step = make_step(run.task, tx, transform=transform, accumulate=run.accumulate, log_every=run.log_every)
    place = lambda shape, where: shape.update(sharding=where)
    return Programs(
        jax.tree.map(place, state, places),
        {name: place(x, of_rank(sharding, len(x.shape))) for name, x in shapes.items()},
        jax.jit(init, out_shardings=places),
        jax.jit(step, donate_argnums=0, in_shardings=(places, batches, everywhere), out_shardings=(places, everywhere)),
        forward(
            make_measure(run.task, chain(run.eval_transforms)),
            mesh,
            places.variables,
            columns(mesh, run.data, run.eval_batch_size or run.batch_size),
            everywhere,
            everywhere,
        ),
    )


def columns(mesh: jax.sharding.Mesh, data: Any, batch_size: int, train: bool = False) -> Any:
    """Returns how the batches of a data set lie: one sharding for all columns or, of sequences, one for each.

    Raises:
        ValueError: the mesh splits tokens, and the examples have none or others than it divides.
    """
    sharding, shapes = batch_sharding(mesh, data.whole, data.sequences), data.batch_spec(batch_size, train)
    check_sequences(mesh, data.sequences, shapes)
    return {name: of_rank(sharding, len(x.shape)) for name, x in shapes.items()} if data.sequences else sharding


def forward(program: Callable, mesh: jax.sharding.Mesh, *places: Any) -> jax.stages.Wrapped:
    """Compiles a program without gradients whose answer every process gets; `places` are those of its arguments."""
    return jax.jit(
        program,
        in_shardings=places,
        out_shardings=replicated(mesh),
        compiler_options=compiler.forward_options(mesh.devices.flat[0].platform),
    )


def evaluations(run: Run, made: Programs, mesh: jax.sharding.Mesh) -> list[tuple[int | None, Evaluation]]:
    """Returns how often each evaluation is due, and the evaluation; the run's own comes first.

    None is as often as the run's own.
    """
    everywhere, places = replicated(mesh), jax.tree.map(lambda s: s.sharding, made.state.variables)
    prepare = jax.jit(run.task.prepare, out_shardings=everywhere)

    def evaluation(prefix: str, of: Eval) -> tuple[int | None, Evaluation]:
        data = of.data or run.data
        own = of.transforms is None and (data.whole, data.sequences) == (run.data.whole, run.data.sequences)
        transform = chain(run.eval_transforms if of.transforms is None else of.transforms)
        size = run.eval_batch_size or run.batch_size
        batches = columns(mesh, data, size)
        measure = made.measure
        if not own:
            measure = forward(make_measure(run.task, transform), mesh, places, batches, everywhere, everywhere)
        return of.every, Evaluation(
            prefix=prefix,
            data=data,
            batch_size=size,
            batches=batch_sharding(mesh, data.whole, data.sequences),
            measure=measure,
            figures=run.task.figures,
            prepare=prepare,
            support=of.support,
            gather=forward(
                make_gather(run.task, transform), mesh, places, columns(mesh, of.support or data, size), everywhere
            ),
        )

    named = (evaluation(f'eval/{name}/', of) for name, of in run.evals.items())
    return [evaluation('eval/', Eval(support=run.support)), *named]


def modules_of(task: Task, v: Variables) -> dict[str, nn.Module]:
    """Returns the modules of the networks that a task deploys, by name; of its variables only the shapes matter."""
    found: dict[str, nn.Module] = {}

    def note(v: Variables) -> None:
        found.update({name: network.module for name, network in task.deployed(v).items()})

    jax.eval_shape(note, v)
    return found
