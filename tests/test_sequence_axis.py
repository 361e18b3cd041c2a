"""A run on a mesh that splits the tokens of its sequences: the numbers of one that splits examples alone."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from benchmarks import plans
from longview import train
from longview.configs import base, mamba
from longview.engine.dry_run import report
from longview.engine.programs import programs
from longview.runtime import hlo
from longview.runtime.mesh import batch_sharding, make_mesh, replicated
from longview.runtime.plan import Plan, read_run
from longview.trees import by_path
from tests import goldens, runs, toys

DATA, SEQUENCE = {'data': 8}, {'data': 2, 'sequence': 4}


@pytest.fixture(scope='module', autouse=True)
def quickly():
    with runs.quickly():
        yield


def gla() -> ConfigDict:
    """The language model of gated linear attention, in the place of Mamba and under its recipe."""
    config = mamba.get_config('smoke')
    backbone = {'fn': 'modelzoo.sequence.gla:gla', 'variant': 'gla_test', 'vocabulary': 32, 'remat': True, 'scan': True}
    config.task.backbone = backbone
    config.optimizer.decay_rules = ()
    return config


def after_two_steps(config: ConfigDict, mesh: Mapping[str, int], accumulate: int = 1) -> Any:
    """Returns the state after two steps on eight devices."""
    config.mesh.update({'fsdp_min_size': 1} | mesh)
    config.accumulate = accumulate
    run, _ = read_run(config.to_dict())
    plan = Plan.of(run, run.data.num_train)
    optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
    devices = make_mesh(run.mesh)
    with jax.set_mesh(devices):
        made = programs(run, optimizer.transform, devices)
        rng = jax.device_put(jax.random.key(run.seed), replicated(devices))
        state = made.init.lower(rng).compile(goldens.QUICK)(rng)
        step = made.step.lower(made.state, made.batch, rng).compile(goldens.QUICK)
        batches = run.data.train(batch_sharding(devices, sequences=True), run.batch_size, run.seed)
        with contextlib.closing(batches):
            for _ in range(2):
                batch = next(batches)
                assert batch['words'].addressable_shards[0].data.shape[1] == 16 // run.mesh.sequence
                state, _ = step(state, batch, rng)
    return jax.device_get(state)


def mamba_smoke(**changes: Any) -> ConfigDict:
    config = mamba.get_config('smoke')
    config.update(changes)
    return config


@pytest.mark.parametrize(
    'network, mesh, accumulate',
    [
        (mamba_smoke, SEQUENCE, 1),
        (gla, SEQUENCE, 1),
        pytest.param(mamba_smoke, {'data': 1, 'fsdp': 2, 'sequence': 4}, 2, marks=pytest.mark.heavy),
        pytest.param(mamba_smoke, {'data': 2, 'sequence': 2, 'tensor': 2}, 1, marks=pytest.mark.heavy),
    ],
)
def test_steps_give_the_numbers_of_a_mesh_that_splits_examples_alone(network, mesh, accumulate):
    one, other = after_two_steps(network(), DATA), after_two_steps(network(), mesh, accumulate)
    for name in ('loss', 'grad_norm'):
        assert other.meters[name] == pytest.approx(one.meters[name], rel=1e-5)
    wanted, found = by_path(one.variables.params), by_path(other.variables.params)
    moments = {path for path in by_path(one) if '/mu/' in path}
    assert wanted.keys() == found.keys() and len(moments) == len(wanted)
    for path in moments:
        assert runs.relative(by_path(one)[path], by_path(other)[path]) < 1e-5, path


def test_a_run_goes_on_on_another_mesh(tmp_path):
    """Three steps whose tokens are split, then three whose examples are, against all six of the former."""
    split = mamba_smoke()
    split.mesh.update(SEQUENCE)
    train.train(split, tmp_path / 'split')
    runs.copy(tmp_path / 'split', tmp_path / 'moved', 3)
    train.train(mamba_smoke(), tmp_path / 'moved')
    for one, other in zip(runs.rows(tmp_path / 'moved'), runs.rows(tmp_path / 'split'), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    moved, wanted = (runs.checkpoint(tmp_path / name, 6) for name in ('moved', 'split'))
    moments = [path for path in wanted if '/mu/' in path]
    assert len(moments) > 10 and moved.keys() == wanted.keys()
    for path in moments:
        assert runs.relative(wanted[path], moved[path]) < 1e-4, path


def planned(config: ConfigDict, **arguments: Any) -> str:
    return report(config.to_dict(), **arguments)


@pytest.mark.parametrize(
    'config, words',
    [
        (
            toys.config(mesh=base.mesh() | {'sequence': 4}),
            'config.mesh.sequence is 4, and the examples of config.data are no sequences of tokens, which it splits: '
            'set config.mesh.sequence=1',
        ),
        (
            mamba_smoke(mesh={'data': 1, 'sequence': 6}),
            "config.mesh.sequence is 6, which does not divide the 16 tokens of 'words': use sequences of 18, filled up "
            'at the end, or an axis of 2.',
        ),
    ],
    ids=['images', 'odd'],
)
def test_a_batch_that_the_axis_cannot_split_is_refused_in_words(config, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        planned(config, devices=config.mesh.sequence)


def test_a_plan_counts_the_tokens_of_one_device():
    """Of a batch, and of what the network is expected to hold."""
    tables = [planned(mamba_smoke(), devices=1), planned(mamba_smoke(mesh={'data': 1, 'sequence': 4}), devices=4)]
    assert 'mesh data=1 x fsdp=1 x sequence=4 x tensor=1, 4 devices' in tables[1]
    rows = [{line[:14].strip(): line[14:].split() for line in table.splitlines()} for table in tables]
    # Of 16 examples: 16 words and as many labels of 4 bytes, and an epoch and an index.
    assert [row['a batch'][2:] for row in rows] == [['2.125', 'KiB'], ['640', 'B']]
    one, other = (row['activations'] for row in rows)
    assert one[1] == other[1] == 'MiB' and float(one[0]) / 4 < float(other[0]) < float(one[0]) / 2


# Two permutes of one `jax.shard_map` share a channel, as do the two places of a gather that overlaps with other work.
SHARED = """ENTRY %main (x: f32[4]) -> f32[4] {
  %one = f32[4]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1}}
  %two = f32[4]{0} collective-permute(%one), channel_id=1, source_target_pairs={{0,2}}
  %three = f32[4]{0} all-reduce(%two), channel_id=1, replica_groups={{0},{1}}, to_apply=%add
  %four = f32[8]{0} all-gather(%three), channel_id=2, replica_groups={{0,1}}
  %five = f32[8]{0} fusion(%four), calls=%carrying
}

%carrying (x: f32[8]) -> f32[8] {
  %six = f32[8]{0} all-gather(%x), channel_id=2, replica_groups={{0,1}}
}
"""


def test_collectives_of_one_channel_are_told_from_one_that_stands_twice():
    """What a device would exchange with itself is no collective."""
    found = sorted((one.kind, one.bytes) for one in hlo.read(SHARED, 2).collectives)
    assert found == [('all-gather', 32), ('collective-permute', 16), ('collective-permute', 16)]


@pytest.mark.heavy
def test_a_chip_holds_and_exchanges_as_much_whatever_the_length_of_the_sequence():
    """Mamba 130M on 4,096 words a chip: no array of tokens crosses chips, only states, taps and gradients."""
    few, many = (plans.long(topology) for topology in ('v5e:2x2', 'v5e:4x4'))
    assert few.memory == pytest.approx(many.memory, rel=0.05) and many.memory < 5 * 2**30
    assert {one.kind for one in many.collectives} == {'all-reduce', 'collective-permute'}
    # A state of 1,536 channels of 16 numbers, in float32.
    assert max(one.bytes for one in many.collectives if one.kind == 'collective-permute') == 1536 * 16 * 4
    # The largest sum is the gradient of the table of words.
    assert max(one.bytes for one in many.collectives) == 50280 * 768 * 4
