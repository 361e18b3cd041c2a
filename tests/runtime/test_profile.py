"""What a profile says of a trace made here, of programs and of events whose answers are worked out by hand."""

import json
import os
import pathlib
import re
import types
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from longview.runtime import buffers, chips, profile, xspace
from longview.runtime.chips import Peak
from longview.runtime.profile import Event, Profile, Row
from longview.runtime.profiler import Profiler
from longview.runtime.work import Work, work

STEPS, BATCH, WIDTH = 3, 256, 64


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(nn.Dense(WIDTH, name='up')(x))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for n in range(2):
            x = Block(name=f'block{n:02}')(x)
        return jnp.mean(x)


@pytest.fixture(scope='module')
def compiled() -> tuple[jax.stages.Compiled, tuple]:
    """The gradient of a network, and its arguments."""
    net, x = Net(), jnp.ones((BATCH, WIDTH))
    params = jax.jit(net.init)(jax.random.key(0), x)
    return jax.jit(jax.grad(net.apply)).lower(params, x).compile(), (params, x)


@pytest.fixture(scope='module')
def profiled(compiled, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run in which the gradient was traced three times."""
    folder = tmp_path_factory.mktemp('run')
    step, (params, x) = compiled
    jax.block_until_ready(step(params, x))
    profiler, batches = Profiler((0, STEPS - 1), folder), iter([x] * STEPS)
    for n in range(STEPS):
        profiler.before(n)
        gradient = jax.block_until_ready(step(params, profiler.next(batches)))
        profiler.after(n, gradient)
    return folder


@pytest.fixture(scope='module')
def found(profiled) -> Profile:
    return profile.read(profiled, chip='v5e')


def test_a_trace_names_the_modules_of_both_passes(found: Profile) -> None:
    names = {row.name for row in found.modules}
    assert {'Net/block00/up', 'Net/block01/up', 'Net/block00/up (backward)', 'Net/block01/up (backward)'} <= names
    assert (found.steps, found.program) == (STEPS, 'jit_apply')
    for rows in (found.operations, found.modules, found.memory):
        assert sum(row.share for row in rows) == pytest.approx(1)
    for rows in (found.operations, found.modules):
        assert [row.ms for row in rows] == sorted((row.ms for row in rows), reverse=True)
    assert 0 < found.waits.between < found.span
    assert 0 <= found.waits.input <= found.waits.between
    assert 'Net/block01/up (backward)' in found.table()


def test_a_trace_counts_the_flops_of_its_products(found: Profile) -> None:
    """Two layers have five products: no gradient of the input is asked for; those that are launch only do not count."""
    for rows in (found.operations, found.modules):
        launches = sum(row.launches for row in rows)
        assert launches < STEPS * 5
        products = (STEPS * 5 - launches) * 2 * BATCH * WIDTH * WIDTH
        counted = sum(row.flops * row.ms / 1e3 for row in rows)
        # tanh, its gradient, biases and means are a dozen passes over an array.
        assert products < counted < products + STEPS * 20 * BATCH * WIDTH
        assert not any(row.least for row in rows)
    assert {row.bound for row in found.modules} <= {'compute', 'memory'}


def test_memory_of_a_step_is_what_the_compiler_says_it_needs(compiled, found: Profile) -> None:
    parts = {(part.kind, part.name): part.bytes for part in found.memory}
    assert parts['argument', 'variables'] == 2 * 4 * (WIDTH * WIDTH + WIDTH)
    assert parts['argument', 'args'] == 4 * BATCH * WIDTH
    told = compiled[0].memory_analysis()
    whole = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
    constants = sum(size for (kind, _), size in parts.items() if kind == 'constant')
    assert sum(parts.values()) - constants == pytest.approx(whole, abs=64)
    # The gradient of tanh needs what the first layer gave, while the second one's is on its way.
    alive = sum(size for (kind, _), size in parts.items() if kind == 'temporary')
    assert alive % (4 * BATCH * WIDTH) == 0 and alive >= 2 * 4 * BATCH * WIDTH
    assert parts['temporary', 'Net/block00'] == 4 * BATCH * WIDTH


def test_modules_of_a_depth_count_together(profiled, found: Profile) -> None:
    blocks = profile.read(profiled, depth=2, chip='v5e')
    inside = sum(row.ms for row in found.modules if row.name.startswith('Net/block01') and '(' not in row.name)
    assert {row.name: row.ms for row in blocks.modules}['Net/block01'] == pytest.approx(inside)


def test_the_command_prints_tables_or_json_and_draws(profiled, found: Profile, tmp_path, capsys) -> None:
    picture = tmp_path / 'pictures' / 'profile.png'
    profile.main([str(profiled), '--count=1', '--chip=v5e', f'--picture={picture}'])
    assert capsys.readouterr().out == f'{found.table(1)}\nwritten: {picture}\n'
    assert picture.read_bytes().startswith(b'\x89PNG')
    profile.main([str(profiled), '--json', '--chip=v5e'])
    said = json.loads(capsys.readouterr().out)
    assert said['steps'] == STEPS and said['peak']['flops'] == 197e12
    assert said['memory'][0]['bytes'] == found.memory[0].bytes


def test_a_figure_has_a_bar_for_each_module_in_the_colour_of_what_binds_it(found: Profile) -> None:
    left, right = found.figure().axes
    assert [bar.get_width() for bar in left.patches] == [row.ms for row in found.modules]
    marked = [text.get_text().startswith(' + ') for text in left.texts]
    assert marked == [0 < row.launches < row.count for row in found.modules] and any(marked)
    colours = {bar.get_facecolor() for bar in left.patches}
    assert len(colours) == len({row.bound for row in found.modules}) == len(left.get_legend().texts)
    assert [bar.get_width() * 2**20 for bar in right.patches] == [part.bytes for part in found.memory]


@pytest.mark.parametrize('cut', [lambda data: b'no trace', lambda data: data[: len(data) // 2], lambda data: b'\xff'])
def test_what_is_no_trace_is_refused(cut, profiled, tmp_path) -> None:
    file = tmp_path / 'vm.xplane.pb'
    file.write_bytes(cut(profile.newest(profiled).read_bytes()))
    with pytest.raises(SystemExit, match=rf'error: {file} is no trace that can be read \(.*\): trace the run again.'):
        profile.main([str(tmp_path)])


def test_a_trace_of_nothing_is_refused(tmp_path) -> None:
    (tmp_path / 'vm.xplane.pb').write_bytes(b'')
    with pytest.raises(SystemExit, match='holds no operation that ran: trace steps that the run does, as with --prof'):
        profile.main([str(tmp_path)])


@pytest.mark.quick
@pytest.mark.parametrize(
    'arguments, said',
    [
        (['{}'], r'holds no trace \(\*.xplane.pb\): run train.py with --profile=FIRST:LAST first.'),
        (['{}', '--depth=0'], '0 is no number of at least 1'),
        (['{}', '--chip=v3'], "invalid choice: 'v3'"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], said: str, tmp_path) -> None:
    with pytest.raises(SystemExit, match=f'^error: .*{said}'):
        profile.main([argument.format(tmp_path) for argument in arguments])


@pytest.mark.quick
@pytest.mark.parametrize(
    'path, module',
    [
        ('jit(step)/jvp(Net)/block00/mlp/up/dot_general', 'Net/block00/mlp/up'),
        ('jit(step)/transpose(jvp(Net))/block00/mlp/up/dot_general', 'Net/block00/mlp/up (backward)'),
        ('jit(step)/jvp(ViG)/ViG.encode/block00/mixer/mixer._scan/while/body/branch_1_fun/add', 'ViG/block00/mixer'),
        ('jit(step)/jvp(Net)/mixer/bhij,bhik->bhjk/dot_general', 'Net/mixer'),
        ('jit(step)/jvp(ViG)/block00/mixer_residual.write/add', 'ViG/block00/mixer_residual'),
        ('jit(step)/jvp(ViG)/block00/mlp/mlp/add', 'ViG/block00/mlp/mlp'),
        ('jit(step)/vmap(jvp(Net))/jit(_where)/select_n', 'Net'),
        ('jit(step)/transpose(jvp())/mul', ''),
        ('jit(step)/add', ''),
        ('', ''),
    ],
)
def test_the_module_of_a_path(path: str, module: str) -> None:
    assert profile.module_of(path) == module


def event(run: int | None, start: float, end: float, launch: bool = False) -> Event:
    return Event('op', '', ('step', run), start, end, 0 if launch else end - start, launch)


@pytest.mark.quick
@pytest.mark.parametrize(
    'events, batches, between, batch, inside',
    [
        ([event(0, 0, 10), event(0, 12, 20), event(1, 25, 30)], None, 5, None, 2),
        ([event(1, 25, 30), event(0, 0, 10), event(0, 12, 20)], [(5, 11), (18, 23)], 5, 3, 2),
        ([event(0, 0, 10), event(1, 15, 20)], [(0, 5), (11, 12), (12, 18)], 5, 4, 0),
        # What overlaps, as on several threads, is waited for once.
        ([event(0, 0, 10), event(0, 2, 4), event(1, 11, 20)], [], 1, 0, 0),
        ([event(None, 0, 10), event(None, 15, 20)], None, 0, None, 5),
        # Nobody knows until when it went on that was launched.
        ([event(0, 0, 10, launch=True), event(0, 12, 20), event(1, 25, 30)], None, 5, None, None),
        ([], None, 0, None, 0),
    ],
)
def test_waits(events: list[Event], batches, between: float, batch: float | None, inside: float) -> None:
    assert profile.waits(events, batches) == (between, batch, inside)


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Returns a serialized message of numbers and of bytes."""
    encoded = b''
    for field, value in fields:
        if isinstance(value, int):
            encoded += varint(field << 3) + varint(value)
        else:
            encoded += varint(field << 3 | 2) + varint(len(value)) + value
    return encoded


def varint(value: int) -> bytes:
    low = bytes([value & 127 | 128 * (value > 127)])
    return low + varint(value >> 7) if value > 127 else low


def holding(name: str, path: str, opcode: str = 'fusion', assignment: bytes = b'') -> xspace.Program:
    """Returns a program of one instruction."""
    one = message((1, name.encode()), (2, opcode.encode()), (7, message((2, path.encode()))), (35, 1))
    return xspace.Program('', message((1, message((3, message((2, one))))), (3, assignment)))


def ran(name: str, start: float, duration: float, **stats: object) -> types.SimpleNamespace:
    return types.SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats.items())


@pytest.mark.quick
def test_a_loop_does_not_count_what_is_inside_of_it() -> None:
    inside = [('a', 0, 3), ('while', 0, 10), ('b', 3, 6), ('c', 4, 2)]
    events = [ran(*each, hlo_op=each[0], program_id=7, run_id=0) for each in inside]
    found = profile._nested(profile._operations(events, {7: holding('c', 'jit(step)/Net/mul')}, ()))
    chex.assert_equal({e.operation: e.own for e in found}, {'while': 1, 'a': 3, 'b': 4, 'c': 2})
    assert {e.operation: e.path for e in found}['c'] == 'jit(step)/Net/mul'


@pytest.mark.quick
def test_operations_of_a_tpu_are_of_the_execution_around_them() -> None:
    """Its operations are called by their text and do not say which program they are of."""
    line = lambda name, *events: types.SimpleNamespace(name=name, events=events)
    plane = types.SimpleNamespace(
        lines=[
            line('Steps', ran('0', 0, 30)),
            line('XLA Modules', ran('jit_step(7)', 20, 10), ran('jit_step(7)', 0, 10)),
            line('XLA Ops', ran('%fusion.3 = f32[8]{0} fusion(%x)', 1, 4), ran('%copy.1 = f32[8]{0} copy(%y)', 21, 4)),
            line('Async XLA Ops', ran('%copy-start = f32[8]{0} copy-start(%y)', 1, 20)),
        ]
    )
    found = list(profile._of_device(plane, {7: holding('fusion.3', 'jit(step)/Net/mul')}))
    assert [(e.operation, e.path, e.run) for e in found] == [
        ('fusion.3', 'jit(step)/Net/mul', (7, 0)),
        ('copy.1', '', (7, 1)),
    ]


@pytest.mark.quick
def test_the_roof_of_a_row_is_that_of_each_operation() -> None:
    peak = Peak(100e9, 10e9, 'by hand')
    events = [event(0, 0, 1e6), event(0, 1e6, 4e6)]  # 1 ms and 3 ms
    # At best 0.5 ms of arithmetic, and 1 ms of memory.
    row = profile._row('Net', events, [Work(50_000_000, 1000), Work(1000, 10_000_000)], 8e6, peak)
    assert row == Row(
        'Net',
        4.0,
        0.5,
        2,
        0,
        pytest.approx(50_001_000 / 4e-3),
        pytest.approx(10_001_000 / 4e-3),
        False,
        pytest.approx(1.5 / 4),
        'memory',
    )
    unknown = profile._row('kernel', events[:1], [Work(None, 1_000_000)], 8e6, peak)
    assert unknown.least and unknown.roof == pytest.approx(0.1)
    assert '>=10.0 % memory' in profile._line(unknown)
    assert profile._row('Net', events, [Work(1, 1)] * 2, 8e6, None).roof is None
    fast = profile._row('Net', events[:1], [Work(150_000_000, 1)], 8e6, peak)
    assert '150.0 % compute!' in profile._line(fast) and '!' not in profile._line(row)


@pytest.mark.quick
def test_a_launch_has_no_time_and_counts_for_no_rate() -> None:
    peak = Peak(100e9, 10e9, 'by hand')
    events = [event(0, 0, 1e6), event(0, 1e6, 2e6, launch=True)]
    row = profile._row('Net', events, [Work(50_000_000, 1000), Work(10**12, 10**9)], 1e6, peak)
    assert (row.ms, row.count, row.launches) == (1, 2, 1)
    assert row.flops == pytest.approx(50e9) and row.roof == pytest.approx(0.5)
    assert profile._line(row).split()[:3] == ['1.00+', '100.0', '%']
    alone = profile._row('dot', events[1:], [Work(10**12, 10**9)], 1e6, peak)
    assert (alone.ms, alone.flops, alone.bandwidth, alone.roof) == (0, 0, 0, None)
    assert profile._line(alone).split() == ['-', '-', '1', '-', '-', 'launch', 'only', 'dot']


@pytest.mark.skipif(os.cpu_count() == 1, reason='there is no other thread to hand it to')
def test_a_product_that_is_handed_over_is_launch_only(tmp_path) -> None:
    """XLA computes a product with the transpose of a matrix in threads that its event does not wait for."""
    one = jnp.ones((1024, 1024))
    product = jax.jit(lambda a, b: a.T @ b).lower(one, one).compile()
    jax.block_until_ready(product(one, one))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(product(one, one))
    found = profile.read(tmp_path, chip='v5e')
    (row,) = found.operations
    assert (row.count, row.launches, row.ms, row.flops, row.roof) == (1, 1, 0, 0, None)
    assert f'launch only  {row.name}' in found.table() and 'inside of them not known' in found.table()
    assert 'shows only the launch' in profile.costliest(tmp_path)


@pytest.mark.quick
def test_the_time_of_a_step_is_the_median_from_start_to_start() -> None:
    # The first execution is cut, and another program runs once in between.
    others = [Event('op', '', ('eval', 0), 130, 170, 40)]
    starts = [event(0, 70, 90), event(1, 90, 120), event(2, 200, 230), event(3, 231, 260), event(4, 261, 290)]
    step, found = profile._step([*starts[::-1], event(1, 121, 125), *others])
    assert (step, found) == ('step', [70, 90, 200, 231, 261])
    assert profile._each(found) == 30.5 and profile._each(found[:1]) is None


@pytest.mark.quick
@pytest.mark.parametrize(
    'span, start, steps, said',
    [
        (None, 0, 10, None),
        ((3, 5), 0, 10, None),
        ((3, 5), 3, 10, None),
        ((3, 5), 10, 10, None),
        ((9, 12), 0, 10, None),
        ((10, 12), 0, 10, '--profile=10:12 traces nothing, for this run goes from step 0 to 9: .* --profile=0:2'),
        ((3, 5), 4, 10, '--profile=3:5 traces nothing, for this run goes from step 4 to 9: .* --profile=4:6'),
        ((3, 5), 9, 10, '--profile=3:5 .* --profile=9:9'),
    ],
)
def test_a_trace_that_never_begins_is_said(span, start: int, steps: int, said: str | None, tmp_path) -> None:
    found = Profiler(span, tmp_path).unreached(start, steps)
    assert found is None if said is None else re.match(said, found)


def program_of(function, *shapes: tuple[int, ...]) -> xspace.Program:
    """Returns a function as it is compiled here for float32 arrays."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    module = jax.jit(function).lower(*arrays).compile().runtime_executable().hlo_modules()[0]
    return xspace.Program('', message((1, module.as_serialized_hlo_module_proto())))


def counted(program: xspace.Program) -> int:
    return sum(work(program, name).flops for name in [one.name for one in program.entry.instructions.values()])


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (2,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'))


# Of 9 places with a window of 5 and a stride of 2, the five windows see 3 + 5 + 5 + 5 + 3 of them.
PRODUCTS = 2 * 4 * (3 + 5 + 5 + 5 + 3) * 6 * 8


@pytest.mark.parametrize(
    'function, shapes, flops',
    [
        (lambda a, b: a @ b, [(16, 32), (32, 8)], 2 * 16 * 32 * 8),
        (lambda a, b: jnp.einsum('bij,bjk->bik', a, b), [(3, 16, 32), (3, 32, 8)], 3 * 2 * 16 * 32 * 8),
        (convolution, [(4, 9, 6), (5, 6, 8)], PRODUCTS),
        (lambda x, k, dy: jax.vjp(convolution, x, k)[1](dy)[0], [(4, 9, 6), (5, 6, 8), (4, 5, 8)], PRODUCTS),
        (lambda x, k, dy: jax.vjp(convolution, x, k)[1](dy)[1], [(4, 9, 6), (5, 6, 8), (4, 5, 8)], PRODUCTS),
        (lambda a: jnp.sum(a * a), [(16, 32)], 2 * 16 * 32),
        (lambda a: jnp.fft.fft(a).real, [(4, 64)], 5 * 4 * 64 * 6),
    ],
    ids=['product', 'products', 'convolution', 'gradient_of_input', 'gradient_of_kernel', 'sum', 'fft'],
)
def test_flops_of_a_program(function, shapes, flops: int) -> None:
    assert counted(program_of(function, *shapes)) == flops


def test_a_loop_reads_and_writes_slices_of_what_it_goes_over() -> None:
    def twice(rows: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: jnp.sin(row) * 2, rows)

    program = program_of(twice, (100, 1000))
    body = [key for key in program.named if 'dynamic-update-slice' in key and 'fusion' in key]
    # A row is read, and one written; beside these the number of the row.
    assert [work(program, key).bytes for key in body] == [2 * 4 * 1000 + 4]
    assert [work(program, key) for key, one in program.named.items() if one.opcode == 'while'] == [Work(0, 0)]


@pytest.mark.quick
@pytest.mark.parametrize(
    'kind, given, result, moved',
    [
        ('copy', 1000, 1000, 2 * 4 * 1000),
        ('all-reduce', 1000, 1000, 2 * 4 * 1000),
        ('all-gather', 1000, 4000, 4 * 1000 + 4 * 4000),
    ],
)
def test_what_is_begun_and_ended_counts_once(kind: str, given: int, result: int, moved: int) -> None:
    begun = message((2, 13), (4, array(given)), (4, array(result)), (4, message((2, 8))))
    program = of_entry(
        instruction(1, 'parameter', array(given)),
        instruction(2, f'{kind}-start', begun, (36, 1)),
        instruction(3, f'{kind}-done', array(result), (36, 2)),
    )
    assert [work(program, each) for each in program.named] == [Work(0, 0), Work(0, 0), Work(0, moved)]


@pytest.mark.quick
def test_a_slice_that_is_begun_and_ended_counts_as_the_slice() -> None:
    """A TPU's slice-start is an async-start around a slice, which no event of a trace shows."""
    begun = message((2, 13), (4, message((2, 13), (4, array(1000)))), (4, array(10)), (4, message((2, 8))))
    program = of_entry(
        instruction(1, 'parameter', array(1000)),
        instruction(2, 'async-start', begun, (36, 1), (38, 9)),
        instruction(3, 'async-update', begun, (36, 2)),
        instruction(4, 'async-done', array(10), (36, 3)),
        inside=[instruction(5, 'parameter', array(1000)), instruction(6, 'slice', array(10), (36, 5))],
    )
    names = ('async-start', 'async-update', 'async-done')
    assert [work(program, each) for each in names] == [Work(0, 0), Work(0, 0), Work(0, 2 * 4 * 10)]


def array(size: int) -> bytes:
    """Returns the shape of a float32 array of one axis."""
    return message((2, 11), (3, size))


def instruction(number: int, opcode: str, shape: bytes, *others: tuple[int, int]) -> bytes:
    return message((1, opcode.encode()), (2, opcode.encode()), (3, shape), (35, number), *others)


def of_entry(*instructions: bytes, inside: Sequence[bytes] = ()) -> xspace.Program:
    """Returns a program of instructions, and of those of a computation 9."""
    computations = [
        message(*((2, each) for each in group), (5, key)) for group, key in ((instructions, 8), (inside, 9))
    ]
    return xspace.Program('', message((1, message(*((3, each) for each in computations)))))


def test_what_a_kernel_computes_is_not_known() -> None:
    program = program_of(lambda a: jnp.linalg.cholesky(a), (16, 16))
    calls = [key for key, one in program.named.items() if one.opcode == 'custom-call']
    assert calls and all(work(program, key).flops is None for key in calls)
    assert work(program, 'no such operation') == Work(None, 0)


def heap(*events: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """Returns a trace of (kind, value) or (kind, value, whose place it shares), with a number that is none."""
    of = lambda kind, value, other=0: message((1, kind), (2, value), (5, other))
    return message(*((1, of(*each)) for each in events), (3, 99))


@pytest.mark.quick
def test_what_is_alive_at_the_fullest_moment() -> None:
    new, gone, shares = 0, 1, 2
    sizes = {1: 100, 2: 40, 3: 100, 4: 60, 5: 50, 6: 8}
    # 1 becomes 3 in its place; with 4 there are 200 of 240, and 2 is gone by then. 6 is in no trace.
    events = heap((new, 1), (new, 2), (gone, 2), (gone, 1), (shares, 3, 1), (new, 4), (gone, 3), (new, 5))
    allocations = [
        message((1, 0), (2, 7), (5, 1)),
        message((1, 1), (2, 240), *((9, message((1, key), (3, size))) for key, size in sizes.items())),
        message((1, 2), (2, 4), (3, 1)),
    ]
    assignment = message(
        *((1, message((1, key), (2, size))) for key, size in sizes.items()),
        *((3, each) for each in allocations),
        (4, events),
    )
    program = holding('x', "state.params['w']", 'parameter', assignment)
    assert buffers.held(program) == [
        ('argument', "state.params['w']", 7),
        ('temporary', '', 100),
        ('temporary', '', 60),
        ('temporary', '', 8),
        ('between', '', 72),
    ]


@pytest.mark.quick
def test_peaks() -> None:
    assert chips.of_datasheet('v6e')[:2] == (918e12, 1.640e12)
    stats = {'peak_teraflops_per_second': 197.0, 'peak_hbm_bw_gigabytes_per_second': 819.0, 'device_type_string': 'v5e'}
    assert chips.of_trace(stats)[:2] == (197e12, 819e9)
    assert chips.of_trace({'device_type_string': 'a GPU'}) is None
    with pytest.raises(ValueError, match="'v3' has no datasheet here: name one of v4, v5e"):
        chips.of_datasheet('v3')


def test_a_cpu_is_measured_where_the_trace_is_from(profiled, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(chips, '_BYTES', 1 << 20)
    found = profile.read(profiled)
    assert found.peak.flops > 0 and found.peak.bandwidth > 0 and 'measured here' in found.table()
    (tmp_path / 'elsewhere.xplane.pb').write_bytes(profile.newest(profiled).read_bytes())
    found = profile.read(tmp_path)
    assert found.peak is None and 'at best: not known' in found.table()
