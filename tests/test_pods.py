"""What train.py compiles, for TPUs that are not there."""

import jax
import pytest

from longview.configs import vig_s
from longview.engine.programs import programs
from longview.runtime.mesh import make_mesh
from longview.runtime.plan import Plan, read_run
from tests.kernels import tpu


def lowered(config, topology: str) -> dict[str, jax.stages.Lowered]:
    """The programs of a run on all chips of a topology."""
    run, _ = read_run(config.to_dict())
    plan = Plan.of(run, 10 * run.batch_size)
    mesh = make_mesh(run.mesh, tpu.topology(topology).devices)
    optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
    with jax.default_matmul_precision(run.matmul_precision), jax.set_mesh(mesh):
        made = programs(run, optimizer.transform, mesh)
        key = jax.eval_shape(jax.random.key, 0)
        batch = run.data.batch_spec(run.batch_size, train=False)
        return {
            'init': made.init.lower(key),
            'step': made.step.lower(made.state, made.batch, key),
            'measure': made.measure.lower(made.state.variables, batch, key, None),
        }


def config_on(**axes: int):
    config = vig_s.get_config('digits')
    config.mesh.update(axes)
    config.task.inner.backbone.depth = 1  # all blocks are alike
    return config


def test_a_run_on_a_pod_takes_the_kernels():
    found = lowered(config_on(data=1, fsdp=2, tensor=2), 'v5e')
    assert ['tpu_custom_call' in found[name].as_text() for name in ('init', 'step', 'measure')] == [False, True, True]


@pytest.mark.heavy
@pytest.mark.parametrize('axes', [{'data': 16}, {'data': 4, 'fsdp': 4}, {'data': 4, 'fsdp': 2, 'tensor': 2}], ids=str)
def test_it_compiles_for_a_pod(axes):
    found = lowered(config_on(**axes), 'v5e:4x4')
    assert all('tpu_custom_call' in found[name].compile().as_text() for name in ('step', 'measure'))
