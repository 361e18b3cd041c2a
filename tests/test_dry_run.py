"""A run that is planned: its figures against those worked by hand, and its step compiled for absent TPUs."""

import itertools
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from benchmarks import plans
from longview.configs import base
from longview.counting import multiply_adds, operations
from longview.engine import fit, topology
from longview.engine.activations import estimate
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
    products = 6 * 4**3 + 4 * 4 * 2 * 9
    assert multiply_adds(program, spec(4, 4), spec(2, 1, 3, 3)) == products
    # And 16 tanh in each turn of the loop, and a comparison.
    assert operations(program, spec(4, 4), spec(2, 1, 3, 3)) == 2 * products + 5 * 16 + 1


def test_reductions_count_what_they_read():
    assert operations(lambda x: jnp.max(x + x, axis=0), spec(8, 4)) == 2 * 8 * 4


SQUARE = spec(128, 128)
EACH = 128 * 128 * 4


@pytest.mark.parametrize(
    'program, squares',
    [
        # The first product lives until the second one is there; what is added is part of the second one.
        (lambda x: (x @ x + 1) @ x, 2),
        # An exponential is stored with the product of which it is made: it is read twice.
        (lambda x: (lambda e: (e @ x) @ e)(jnp.exp(x @ x)), 3),
        # It is read once: nothing but the two products.
        (lambda x: jnp.exp(x @ x) @ x, 2),
        # Three products that are needed together, whatever else is computed and not needed.
        (lambda x: (lambda a, b, c: (jnp.sin(a @ b), a, b, c)[1:])(x @ x, x.T @ x, x @ x.T), 3),
        # A loop has what its body holds besides its own result: here two products, of which one goes out of the body.
        (lambda x: jax.lax.scan(lambda c, _: ((c @ x) @ x, None), x, length=9)[0], 3),
        # What a loop hands on of each turn is there at once.
        (lambda x: jax.lax.scan(lambda c, _: (c @ x, c), x, length=9)[1], 11),
        # A call is what it calls.
        (lambda x: jax.jit(lambda x: (x @ x + 1) @ x)(x), 2),
        # The TPU's way, of several.
        (lambda x: jax.lax.platform_dependent(x, tpu=lambda x: x @ x, default=lambda x: (x @ x) @ x), 1),
    ],
)
def test_what_is_held_at_once_is_what_one_works_out(program: Any, squares: int) -> None:
    assert estimate(program, SQUARE).held == squares * EACH


def test_arrays_fill_the_tiles_of_a_tpu():
    # 3 channels are no tile: the best two of the four axes are filled up to 8 x 128.
    assert estimate(lambda x: jnp.cumsum(x, 0), spec(4, 224, 224, 3)).held == 4 * 3 * 224 * 256 * 4
    assert estimate(lambda x: jnp.cumsum(x, 0), spec(5)).held == 128 * 4


def test_what_is_only_read_in_float32_is_stored_in_it():
    program = lambda x: (lambda wide: wide.sum() + (wide * wide).sum())((x @ x + x).astype(jnp.float32))
    assert estimate(program, spec(128, 128, dtype='bfloat16')).held - EACH in range(3 * 128 * 4 + 1)


def test_code_grows_with_the_operations():
    once, twice = (estimate(program, SQUARE).code for program in (jnp.sin, lambda x: jnp.sin(jnp.sin(x))))
    assert twice == 2 * once > 0


def test_recomputing_holds_less():
    def loss(again):
        block = lambda x: jnp.tanh(jnp.tanh(x @ x) @ x)
        return jax.grad(lambda x: jax.lax.scan(lambda c, _: (again(block)(c), None), x, length=8)[0].sum())

    kept, again = (estimate(loss(how), SQUARE).held for how in (lambda f: f, jax.checkpoint))
    # Of each turn its input alone, in place of that and the two tangents.
    assert again <= kept - 8 * EACH


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


def test_one_image_for_each_device_is_planned_where_batches_are_normalized():
    from longview.configs import rotnet

    config = rotnet.get_config('digits')
    config.batch_size = config.eval_batch_size = 8
    assert 'B  estimated' in planned(config, devices=8)


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


def test_a_stage_that_starts_from_a_planned_network_is_planned():
    teacher = toys.config().to_dict()
    network = {
        'fn': 'methods.start:again',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'teacher'}},
        'head': base.linear(),
    }
    student = teacher | {'task': {'fn': 'methods.supervised:Supervised', 'network': network}}
    text = planned(ConfigDict({'stages': {'teacher': teacher, 'student': student}}))
    # The student's own config names no width: it has the teacher's.
    assert text.count('2,410 parameters, 0.002368 M multiply-adds') == 2 and 'stage student\n2,410' in text


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
        (toys.config(), {'topology': 'v5e:4x4x4'}, "--topology is 'v5e:4x4x4': slices of v5e have 2 sides"),
        (toys.config(), {'topology': 'v4:2x2'}, 'slices of v4 have 3 sides and at most 4,096 chips, as in v4:4x4x4'),
        (toys.config(), {'topology': 'v5e:1000x1000'}, 'at most 256 chips'),
        (toys.config(), {'topology': 'v6e'}, "--topology is 'v6e': slices of v6e have 2 sides"),
        (toys.config(), {'num_examples': 0}, '--num_examples is 0: it must be at least 1.'),
        (images('food101'), {'num_examples': 10, 'num_classes': -5}, '--num_classes is -5: it must be at least 1.'),
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
    assert b'mesh data=4 x fsdp=4 x sequence=1 x tensor=1, 16 devices' in done.stdout
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


def test_what_was_compiled_once_is_read(tmp_path: pathlib.Path) -> None:
    one, big = (
        cost(collectives=[hlo.Collective('all-reduce', 8, 4, 2)], loops=[3, None]),
        topology.DoesNotFit('Used 5G of'),
    )
    for number, found in enumerate((one, big)):
        topology._write(tmp_path / f'{number}.json', found)
    assert topology._read(tmp_path / '0.json') == one
    assert topology._read(tmp_path / '1.json').used == big.used == 5 << 30
    (tmp_path / '0.json').write_text('{"arguments": 1')
    assert topology._read(tmp_path / '0.json') is None and topology._read(tmp_path / 'none.json') is None

    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'xla'))
    try:
        program = lambda n: jax.jit(lambda x: x + n).lower(spec(2))
        names = [topology._kept(program(n), place) for n, place in ((1, 'v5e:2x2'), (1, 'v5e:4x4'), (2, 'v5e:2x2'))]
        assert len(set(names)) == 3 and topology._kept(program(1), 'v5e:2x2') == names[0]
        assert {name.parent for name in names} == {tmp_path / 'plans'}
    finally:
        jax.config.update('jax_compilation_cache_dir', before)


# --- what makes a step fit ---

BIG = {'batch_size': 64, 'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1}, 'task': {'backbone': {'remat': False}}}


def searched(room: int, state: int, each: int, **changes: Any) -> list[fit.Try]:
    """Looks for what fits, where a config needs its state and something for each example, less with remat."""

    def needs(config: Mapping[str, Any]) -> int:
        again = config['task']['backbone'].get('remat', False)
        split = 4 if config['mesh']['fsdp'] == -1 else 1
        return state // split + each * config['batch_size'] // 4 // config.get('accumulate', 1) // (4 if again else 1)

    def compiled(config: Mapping[str, Any]) -> topology.Cost:
        # The compiler needs a half more than one thinks.
        if needs(config) * 3 // 2 > 2 * room:
            raise topology.DoesNotFit(f'Used {needs(config) * 3 // 2} of')
        return cost(**dict.fromkeys(('arguments', 'outputs', 'code', 'shared'), 0), temporaries=needs(config) * 3 // 2)

    return fit.search(BIG | changes, 4, room, needs, compiled)


def test_a_step_that_fits_is_compiled_once():
    assert [one.overrides for one in searched(1000, 10, 1)] == [{}]


def test_the_first_change_that_is_expected_to_fit_is_compiled():
    split = {'mesh.data': 1, 'mesh.fsdp': -1}
    overrides = lambda *arguments: [one.overrides for one in searched(*arguments)]
    # Most is state, which is split; most is activations, of which two, then four parts are made, with 8 examples each.
    assert overrides(1000, 900, 1) == [{}, split]
    assert overrides(1000, 100, 50) == [{}, {'accumulate': 2}]
    # Parts of 4 examples are smaller than is good: the activations are computed again.
    assert overrides(1000, 100, 100) == [{}, {'task.backbone.remat': True}]
    assert overrides(1000, 1000, 100) == [{}, {'task.backbone.remat': True} | split]


def test_what_nothing_makes_fit_is_said():
    tried = searched(1000, 100_000, 64)
    text = '\n'.join(fit.lines(tried, 1000))
    assert len(tried) == 2 and tried[-1].cost is None and 'none of them fits' in text
    assert '--config.task.backbone.remat=True --config.mesh.data=1 --config.mesh.fsdp=-1 --config.accumulate=16' in text


def test_there_are_four_compilations_and_ten_minutes():
    def search(hours: float) -> list[fit.Try]:
        clock = itertools.count(step=hours * 3600)
        # One that is always a little more than there is, whatever is expected of it.
        expected = lambda config: 1 if config.get('accumulate', 1) > 1 or config['mesh']['fsdp'] == -1 else 100

        def compiled(config: Mapping[str, Any]) -> topology.Cost:
            raise topology.DoesNotFit('no size')

        return fit.search(BIG, 4, 100, expected, compiled, lambda: next(clock))

    assert len(search(0.0)) == fit.COMPILATIONS == 4
    assert len(search(0.1)) == 1


@pytest.mark.parametrize(
    'said, used',
    [
        ('Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm. Exceeded', 20.5 * 2**30),
        ('the total memory required for HLO temporaries (27.67G) exceeds available HBM (15.75G).', 27.67 * 2**30),
        ('Ran out of memory.', None),
    ],
)
def test_the_compilers_sentence_is_read(said: str, used: float | None) -> None:
    found = topology.DoesNotFit(said)
    assert found.used == (None if used is None else round(used)) and found.partial == ('temporaries' in said)


def test_a_try_says_its_peak_and_what_one_types():
    tried = [fit.Try({}, 20 << 30, None), fit.Try({'mesh.data': 1, 'accumulate': 2}, 9 << 30, cost())]
    text = '\n'.join(fit.lines(tried, 16 << 30))
    assert 'alone' not in text and fit.lines([tried[0]._replace(partial=True)], 1)[1].endswith('temporaries alone')
    assert 'DOES NOT FIT the 16 GiB of a chip' in text and '20 GiB  does not fit  as the config is' in text
    assert text.endswith('it fits with --config.mesh.data=1 --config.accumulate=2')


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
def test_a_step_that_does_not_fit_says_so_and_what_makes_it_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = toys.config(batch_size=2**16)
    config.task.backbone.width = 1024
    # The hidden layer of 2**14 examples, 64 MiB, and its like fill such a chip; parameters and code are nothing.
    monkeypatch.setitem(topology.CHIPS, 'v5e', topology.CHIPS['v5e']._replace(memory=48 << 20))
    text = planned(config, topology='v5e:2x2')
    assert 'the step DOES NOT FIT the 48 MiB of a chip' in text and 'as the config is' in text
    tries = text[text.index('DOES NOT FIT') : text.index('it fits with')].splitlines()[1:]
    assert 2 <= len(tries) <= fit.COMPILATIONS and '  fits  ' in tries[-1] and 'does not fit' in tries[0]
    assert 'it fits with --config.' in text and '%: it fits' in text


@pytest.mark.heavy
def test_a_chip_of_many_does_what_a_chip_of_few_does() -> None:
    costs = [plans.scaled(topology) for topology in plans.PODS]
    assert max(one.counted_flops for one in costs) < 1.02 * min(one.counted_flops for one in costs)
    assert max(one.memory for one in costs) < 1.15 * min(one.memory for one in costs)
    assert all(one.sent > 0 for one in costs)


def test_a_search_does_not_try_the_config_again():
    config = {'mesh': {'data': 1, 'fsdp': -1}, 'task': {}, 'batch_size': 64}
    tried = list(fit.candidates(config, 4))
    assert tried and not any('mesh.fsdp' in overrides for overrides in tried)
    assert any('mesh.fsdp' in overrides for overrides in fit.candidates({**config, 'mesh': {'fsdp': 1}}, 4))


@pytest.mark.parametrize(
    'said, kind',
    [
        ('Ran out of memory in memory space vmem. Used 32.42M of 16.00M vmem.', ValueError),
        ('Ran out of memory in memory space hbm. Used 27.67G of 15.75G hbm.', topology.DoesNotFit),
    ],
)
def test_what_a_kernel_lacks_inside_of_a_chip_is_no_lack_of_its_memory(
    said: str, kind: type[ValueError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile(lowered: Any, compiler_options: Any) -> None:
        raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {said}')

    lowered = jax.jit(jnp.sin).lower(1.0)
    monkeypatch.setattr(jax.stages.Lowered, 'compile', compile)
    with pytest.raises(ValueError) as found:
        topology._compiled(lowered)
    assert type(found.value) is kind
