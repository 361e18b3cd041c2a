"""Runs that go on with another length than they were begun with."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from longview.runtime.errors import RunError
from longview.runtime.plan import Plan, Run
from longview.runtime.workdir import last_checkpoint, recorded

# The keys of a config that say how long a run is.
KEYS = ('steps', 'epochs')


def grows(run: Run, plan: Plan, workdir: pathlib.Path, params: Any) -> bool:
    """Returns whether a run is to go on for longer than it was begun for.

    It may do so where no step depends on the length: where the optimizer's update is the same program for both. A
    cosine does depend on it, a staircase of rates does not.

    Args:
        run, plan: what is asked for now.
        workdir: of the run.
        params: shapes of the parameters.

    Raises:
        RunError: the steps that were done depend on the length.
    """
    if last_checkpoint(workdir) is None:
        return False
    before = {key: recorded(workdir).get(key) for key in KEYS}
    begun = Plan.of(dataclasses.replace(run, **before), run.data.num_train).steps
    if plan.steps <= begun:
        return False
    if _update(run, plan, begun, params) != _update(run, plan, plan.steps, params):
        raise RunError(
            f'{workdir} holds a run of {begun} steps, whose learning rates follow from that number, and {plan.steps} '
            'are asked for: give its own config.steps and config.epochs, or go on from its weights in another '
            '--workdir with methods.start:Start.'
        )
    return True


def _update(run: Run, plan: Plan, steps: int, params: Any) -> tuple[str, list[bytes]]:
    """Returns the optimizer's update of a run of so many steps, as a program in words and its constants."""
    transform = run.optimizer(steps, plan.steps_per_epoch, run.task.depth_of).transform
    program = jax.make_jaxpr(transform.update)(params, jax.eval_shape(transform.init, params), params)
    return str(program), [np.asarray(constant).tobytes() for constant in program.consts]
