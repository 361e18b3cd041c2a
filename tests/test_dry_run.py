"""A run that is planned: its figures against those worked by hand, and its step compiled for absent TPUs."""

import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from longview.configs import base
from longview.counting import multiply_adds
from longview.engine import topology
from longview.engine.dry_run import KNOWN, report
from longview.runtime import hlo, memory
from tests import toys

ROOT = pathlib.Path(__file__).parents[1]


def spec(*shape: int, dtype: str = 'float32') -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def planned(config: ConfigDict, **arguments: Any) -> str:
    return report(config.to_dict(), **arguments)


def images(dataset: str, **changes: Any) -> ConfigDict:
    """The toy on images of 8 x 8 in colour, which are not here."""
    return toys.config(data=base.imagenet_data(8) | {'dataset': dataset} | changes)


# --- counting ---


def test_products_are_counted_in_loops_calls_and_branches():
    def program(x, kernel):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=5)
        x = jax.lax.cond(x[0, 0] > 0, lambda x: jax.jit(jnp.matmul)(x, x), lambda x: x, x)
        return jax.lax.conv(x[None, None], kernel, (1, 1), 'SAME')

    # Five products of 4 x 4 in the loop and one in the costlier branch; 3 x 3 values for each of 4 x 4 x 2 outputs.
    assert multiply_adds(program, spec(4, 4), spec(2, 1, 3, 3)) == 6 * 4**3 + 4 * 4 * 2 * 9


def test_an_array_that_is_split_in_eight_is_an_eighth_on_each_device():
    mesh = AbstractMesh((1, 8, 1), ('data', 'fsdp', 'tensor'))
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    split = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=place('fsdp'))
    whole = jax.ShapeDtypeStruct((10,), jnp.bfloat16, sharding=place())
    assert memory.whole({'a': split, 'b': whole}) == 64 * 32 * 4 + 10 * 2
    assert memory.per_device({'a': split}) == 64 * 32 * 4 // 8
    assert memory.per_device({'a': split, 'b': whole}) == 1024 + 20


TEXT = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (input: f32[8,4]) -> f32[4,4] {
  %all-reduce.7 = f32[8,4]{1,0:T(8,128)} all-reduce(%input), channel_id=7, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%begin (p: bf16[8,4]) -> bf16[16,4] {
  %all-gather.1 = bf16[16,4]{1,0} all-gather(%p), channel_id=3, replica_groups=mesh['a'=2,'b'=2], device_ids=(x) {'b'}
}

%end (p: bf16[8,4]) -> bf16[16,4] {
  %all-gather.2 = bf16[16,4]{1,0} all-gather(%p), channel_id=3, replica_groups=mesh['a'=2,'b'=2], device_ids=(x) {'b'}
}

%inner (p: (s32[])) -> (s32[]) {
  %permuted = u8[100]{0} collective-permute(%p), channel_id=5, source_target_pairs={{0,1},{1,0}}
}

%inner_condition (p: (s32[])) -> pred[] {
  ROOT %less = pred[] compare(%p, %q), direction=LT
}

%body (p: (s32[])) -> (s32[]) {
  %fusion.1 = f32[4,4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %start = (bf16[8,4]) fusion(%y), kind=kCustom, calls=%begin
  %done = bf16[16,4] fusion(%start), kind=kCustom, calls=%end
  %while.2 = (s32[]) while(%t), condition=%inner_condition, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

%condition (p: (s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  ROOT %less = pred[] compare(%p, %limit), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.1 = (s32[]) while(%t), condition=%condition, body=%body
  %both = (f32[10]{0}, pred[6]{0}) all-reduce(%c, %d), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  %scattered = f32[2]{0} reduce-scatter(%e), channel_id=2, dimensions={0}, to_apply=%add
}
"""


def test_collectives_are_read_with_the_runs_of_their_loops():
    found = hlo.read(TEXT, 4)
    assert sorted(found.loops) == [6, 18]
    assert set(found.collectives) == {
        hlo.Collective('all-reduce', 46, 4, 1),
        hlo.Collective('reduce-scatter', 32, 4, 1),
        hlo.Collective('reduce-scatter', 128, 2, 6),
        hlo.Collective('all-gather', 128, 2, 6),
        hlo.Collective('collective-permute', 100, 4, 18),
    }
    sent = {(each.kind, each.times): each.sent for each in found.collectives}
    assert sent['all-reduce', 1] == 2 * 46 * 3 / 4 and sent['all-gather', 6] == 6 * 128 / 2
    assert sent['collective-permute', 18] == 1800


def test_a_loop_without_a_known_end_counts_once():
    text = TEXT.replace('constant(6)', 'parameter(0)')
    assert sorted(hlo.read(text, 4).loops, key=str) == [3, None]


# --- the plan ---


def test_the_plan_of_a_toy_is_what_one_works_out():
    text = planned(toys.config(mesh=base.mesh() | {'fsdp': 8, 'fsdp_min_size': 64}))
    # 64 pixels to 32 and 10 values.
    assert f'{64 * 32 + 32 + 32 * 10 + 10:,} parameters, 0.002368 M multiply-adds' in text
    assert '8 steps of 64 examples, 512 in all: 0.3561 epochs of 1,438, each of 22.4688 steps' in text
    # The two kernels are split, the biases are not: 4 (2410) bytes, and 4 (256 + 40 + 32 + 10) of them on each device.
    assert '  parameters     9.414 KiB      1.32 KiB\n' in text
    assert "    backbone/hidden/kernel  (64, 32) by ('fsdp',), (8, 32)\n" in text
    assert 'bias' not in text
    assert '0.003 at first, 0.003 at step 0, 0.0001142 at last' in text
    assert 'train, in this order:\n  1. Resize(' in text


def test_transforms_are_listed_in_their_order():
    text = planned(toys.recipe(randaugment=True))
    train, evaluation = text[text.index('train, in') :].split('eval, in')
    order = ['1. RandomResizedCrop(', '2. RandAugment(', '3. Normalize(', '4. RandomErasing(', '5. Mix(']
    places = [train.index(name) for name in order]
    assert places == sorted(places)
    assert evaluation.index('1. CenterCrop(') < evaluation.index('2. Normalize(') and '3. ' not in evaluation


def test_a_known_data_set_does_not_have_to_be_here():
    text = planned(images('imagenet2012', data_dir='/nowhere'))
    assert f'epochs of {KNOWN["imagenet2012"].splits["train"]:,}, each of 20018.2 steps' in text
    assert f'{192 * 32 + 32 + 32 * 1000 + 1000:,} parameters' in text


def test_what_is_known_of_our_data_sets_is_true():
    from longview.input_pipeline import Images

    data, known = Images('digits'), KNOWN['digits']
    assert (data.num_train, data.num_eval) == tuple(known.splits.values())
    assert (data.num_classes, data.image_shape) == (known.num_classes, known.shape)


def test_of_another_set_one_says_how_large_it_is():
    text = planned(images('food101', data_dir='/nowhere'), num_examples=75_750, num_classes=101)
    assert 'epochs of 75,750' in text and f'{192 * 32 + 32 + 32 * 101 + 101:,} parameters' in text


def test_of_stages_those_are_planned_that_need_no_other():
    text = planned(toys.staged())
    assert text.startswith('stage teacher\n2,410 parameters') and 'stage losses: is known when teacher is there' in text


@pytest.mark.parametrize(
    'config, arguments, words',
    [
        (images('food101', data_dir='/nowhere'), {}, "'food101' is not prepared here and its size is not known"),
        (images('food101'), {'num_examples': 10}, "the classes of 'food101' are not known: give --num_classes."),
        (
            images('food101', image_size=base.unset(int)),
            {'num_examples': 10, 'num_classes': 2},
            'the size of the images',
        ),
        (toys.config(mesh=base.mesh() | {'fsdp': 3, 'data': 1}), {'devices': 4}, 'does not fit 4 devices'),
        (toys.config(), {'devices': 3}, 'config.batch_size is 64, which does not divide over the 3 devices'),
        (toys.config(), {'devices': 9}, '--devices is 9 and jax was begun with 8: plan the run in a new process.'),
        (toys.config(), {'devices': 2, 'topology': 'v5e:2x2'}, 'which says how many: give one.'),
        (toys.config(), {'topology': 'v3:2x2'}, "--topology is 'v3:2x2': name one of v4, v5e, v5p, v6e"),
        (toys.config(), {'topology': 'v5e:3x5'}, "--topology is 'v5e:3x5', which libtpu does not take"),
    ],
    ids=lambda value: '' if isinstance(value, (ConfigDict, str)) else '-'.join(value),
)
def test_a_mistake_is_one_sentence(config: ConfigDict, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        planned(config, **arguments)
    assert words in str(error.value) and '\n' not in str(error.value)


def test_train_prints_it_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    arguments = ['--config=configs/vig_s.py:digits', '--dry_run', '--devices=16', '--config.mesh.fsdp=4']
    done = subprocess.run([sys.executable, str(ROOT / 'train.py'), *arguments], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b'mesh data=4 x fsdp=4 x tensor=1, 16 devices' in done.stdout
    assert not list(tmp_path.iterdir())


# --- for TPUs that are not there ---


def cost(**changes: int) -> topology.Cost:
    return topology.Cost(**dict.fromkeys(topology.Cost._fields, 1) | {'collectives': [], 'loops': []} | changes)


def test_memory_counts_what_is_shared_once_and_says_what_does_not_fit():
    fits = cost(arguments=10 << 30, outputs=8 << 30, shared=8 << 30, temporaries=5 << 30, code=1 << 30)
    assert fits.memory == (10 + 5 + 1) << 30
    assert '16 GiB of 16 GiB, 100.0 %: it fits' in topology.lines(fits, 'v5e:2x2', 64)[1]
    assert 'DOES NOT FIT' in topology.lines(fits._replace(code=2 << 30), 'v5e:2x2', 64)[1]


def test_the_time_at_best_is_that_of_the_slowest_part():
    gather = hlo.Collective('all-gather', 400_000_000, 2, 1)
    # A millisecond each at 197 TFLOP/s, 819 GB/s and 200 GB/s; of a gather in pairs one half is sent.
    memory_of = dict(arguments=100_000_000, outputs=119_000_000, temporaries=300_000_000)
    found = cost(multiply_adds=197 * 10**9 // 2, **memory_of, collectives=[gather])
    text = '\n'.join(topology.lines(found, 'v5e:2x2', 64))
    assert 'products 1 ms, memory 1 ms, links 1 ms' in text and '64,000 examples/s in all' in text
    assert 'memory 2 ms, links 1 ms: bound by memory, 32,000' in '\n'.join(
        topology.lines(found._replace(arguments=919_000_000), 'v5e:2x2', 64)
    )


@pytest.mark.heavy
@pytest.mark.parametrize('chip', [f'{name}:2x2{"x1" if name in ("v4", "v5p") else ""}' for name in topology.CHIPS])
def test_a_step_is_compiled_for_each_kind_of_chip(chip: str) -> None:
    text = planned(toys.config(), topology=chip)
    assert '4 devices' in text and '%: it fits' in text and 'all-reduce' in text and 'loops' not in text


@pytest.mark.heavy
def test_microbatches_are_a_loop_and_the_same_products() -> None:
    lines = {n: planned(toys.config(accumulate=n), topology='v5e:2x2').splitlines() for n in (1, 4)}
    products = {n: [line for line in found if 'GFLOP of matrix' in line] for n, found in lines.items()}
    # Forward, and the gradient with respect to all but the pixels: 2 (64 32 + 32 10) + 32 10, for 64 / 4 examples.
    each = (2 * (64 * 32 + 32 * 10) + 32 * 10) * 16
    assert (
        products[1]
        == products[4]
        == [f'  products        {2 * each / 1e9:.4g} GFLOP of matrix products and convolutions']
    )
    assert any('their bodies run 4 times' in line for line in lines[4])


@pytest.mark.heavy
def test_a_step_that_does_not_fit_says_so() -> None:
    config = toys.config(batch_size=2**24)
    config.task.backbone.width = 4096
    with pytest.raises(ValueError, match='does NOT FIT') as error:
        planned(config, topology='v5e:2x2')
    assert '\n' not in str(error.value)
