"""Distribution, profiles and plans: what they make of their arguments."""

import dataclasses

import pytest

from longview.runtime import distributed, profiler
from longview.runtime.plan import Plan, Run, resumable

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    'env, tpu_vm, cluster',
    [
        ({}, False, None),
        ({}, True, 'Cloud TPU'),
        ({'COLAB_RELEASE_TAG': 'x'}, True, None),
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, True, None),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True, 'TPU pod'),
        ({'MEGASCALE_COORDINATOR_ADDRESS': 'a'}, True, 'TPU pod'),
        ({'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '1'}, False, None),
        ({'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '4'}, False, 'Slurm'),
        ({'KUBERNETES_SERVICE_HOST': 'x'}, False, None),
        ({'KUBERNETES_SERVICE_HOST': 'x', 'JOB_COMPLETION_INDEX': '0'}, False, 'Kubernetes'),
    ],
)
def test_clusters_are_recognised(env: dict[str, str], tpu_vm: bool, cluster: str | None) -> None:
    assert distributed.cluster(env, tpu_vm) == cluster


def test_distributed_flags_belong_together() -> None:
    with pytest.raises(ValueError, match='belong together'):
        distributed.initialize('localhost:1', 2, None)


@pytest.mark.parametrize('text, span', [(None, None), ('', None), ('3:5', (3, 5)), ('4:4', (4, 4))])
def test_profile_spans(text: str | None, span: tuple[int, int] | None) -> None:
    assert profiler.parse(text) == span


@pytest.mark.parametrize('text', ['5', '5:3', 'a:b', '-1:3', '3:'])
def test_profile_spans_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match='FIRST:LAST'):
        profiler.parse(text)


def test_steps_count_where_they_are_given() -> None:
    run = Run(task=None, data=None, optimizer=None, batch_size=128, epochs=10, steps=3)
    assert Plan.of(run, 1437).steps == 3


def test_plan_counts_steps() -> None:
    run = Run(task=None, data=None, optimizer=None, batch_size=128, epochs=10)
    plan = Plan.of(run, 1437)
    assert (plan.steps, plan.eval_every) == (112, 100)
    assert [s for s in range(1, 113) if plan.evaluates(s)] == [100, 112]


@pytest.mark.parametrize(
    'change, words',
    [
        ({'epochs': None}, 'give one of them'),
        ({'accumulate': 0}, 'config.accumulate is 0'),
        ({'best_mode': 'most'}, "must be 'max' or 'min'"),
    ],
)
def test_plans_that_are_refused(change: dict, words: str) -> None:
    arguments = {'task': None, 'data': None, 'optimizer': None, 'batch_size': 8, 'epochs': 1} | change
    with pytest.raises(ValueError, match=words):
        Run(**arguments)


@dataclasses.dataclass(frozen=True)
class Comparing:
    batchwide: bool


def test_microbatches_are_refused_where_examples_are_compared() -> None:
    made = lambda batchwide: Run(Comparing(batchwide), data=None, optimizer=None, batch_size=8, epochs=1, accumulate=2)
    assert made(False).accumulate == 2
    with pytest.raises(ValueError, match='config.accumulate is 2 and Comparing compares all examples'):
        made(True)


def test_microbatches_may_change_between_parts_of_a_run_unless_they_are_normalized() -> None:
    assert set(resumable(False)) - set(resumable(True)) == {'accumulate'} and 'mesh' in resumable(True)


def test_a_run_without_steps_is_refused() -> None:
    run = Run(task=None, data=None, optimizer=None, batch_size=4096, epochs=0.1)
    with pytest.raises(ValueError, match='the run has 0 steps'):
        Plan.of(run, 100)
