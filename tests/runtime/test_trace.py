"""What a trace says: modules, steps, and waits, of a trace made here and of events whose answers are known."""

import json
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from longview.runtime import trace
from longview.runtime.trace import Event

STEPS = 3


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(nn.Dense(64, name='up')(x))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for n in range(2):
            x = Block(name=f'block{n:02}')(x)
        return jnp.mean(x)


@pytest.fixture(scope='module')
def profiled(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a run in which the gradient of a network was traced three times."""
    folder = tmp_path_factory.mktemp('run')
    net, x = Net(), jnp.ones((256, 64))
    params = jax.jit(net.init)(jax.random.key(0), x)
    step = jax.jit(jax.grad(net.apply))
    jax.block_until_ready(step(params, x))
    with jax.profiler.trace(str(folder / 'profile')):
        for _ in range(STEPS):
            jax.block_until_ready(step(params, x))
    return folder


def test_a_trace_names_the_modules_of_both_passes(profiled) -> None:
    found = trace.read(profiled)
    names = {row.name for row in found.modules}
    assert {'Net/block00/up', 'Net/block01/up', 'Net/block00/up (backward)', 'Net/block01/up (backward)'} <= names
    assert found.steps == STEPS
    for rows in (found.operations, found.modules):
        assert sum(row.share for row in rows) == pytest.approx(1)
        assert [row.ms for row in rows] == sorted((row.ms for row in rows), reverse=True)
    assert 0 < found.between + found.inside < found.span
    assert 'Net/block01/up (backward)' in found.table()


def test_modules_of_a_depth_count_together(profiled) -> None:
    whole, blocks = trace.read(profiled), trace.read(profiled, depth=2)
    inside = sum(row.ms for row in whole.modules if row.name.startswith('Net/block01') and '(' not in row.name)
    assert {row.name: row.ms for row in blocks.modules}['Net/block01'] == pytest.approx(inside)


def test_the_command_prints_tables_or_json(profiled, tmp_path, capsys) -> None:
    trace.main([str(profiled), '--count=1'])
    assert capsys.readouterr().out.strip() == trace.read(profiled).table(1)
    trace.main([str(profiled), '--json'])
    assert json.loads(capsys.readouterr().out)['steps'] == STEPS
    with pytest.raises(SystemExit) as end:
        trace.main([str(tmp_path)])
    assert (
        end.value.code
        == f'error: {tmp_path} holds no trace (*.xplane.pb): run train.py with --profile=FIRST:LAST first.'
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    'path, module',
    [
        ('jit(step)/jvp(Net)/block00/mlp/up/dot_general', 'Net/block00/mlp/up'),
        ('jit(step)/transpose(jvp(Net))/block00/mlp/up/dot_general', 'Net/block00/mlp/up (backward)'),
        ('jit(step)/jvp(ViG)/ViG.encode/block00/mixer/mixer._scan/while/body/branch_1_fun/add', 'ViG/block00/mixer'),
        ('jit(step)/jvp(Net)/mixer/bhij,bhik->bhjk/dot_general', 'Net/mixer'),
        ('jit(step)/vmap(jvp(Net))/jit(_where)/select_n', 'Net'),
        ('jit(step)/transpose(jvp())/mul', ''),
        ('jit(step)/add', ''),
        ('', ''),
    ],
)
def test_the_module_of_a_path(path: str, module: str) -> None:
    assert trace.module_of(path) == module


def event(run: int | None, start: float, end: float) -> Event:
    return Event('op', '', ('step', run), start, end, end - start)


@pytest.mark.quick
@pytest.mark.parametrize(
    'events, between, inside',
    [
        ([event(0, 0, 10), event(0, 12, 20), event(1, 25, 30)], 5, 2),
        ([event(1, 25, 30), event(0, 0, 10), event(0, 12, 20)], 5, 2),
        # What overlaps, as on several threads, is waited for once.
        ([event(0, 0, 10), event(0, 2, 4), event(1, 11, 20)], 1, 0),
        ([event(None, 0, 10), event(None, 15, 20)], 0, 5),
        ([], 0, 0),
    ],
)
def test_waits(events: list[Event], between: float, inside: float) -> None:
    assert trace.waits(events) == (between, inside)


@pytest.mark.quick
def test_a_loop_does_not_count_what_is_inside_of_it() -> None:
    def ran(name: str, start: float, duration: float) -> types.SimpleNamespace:
        stats = {'hlo_op': name, 'program_id': 7, 'run_id': 0}.items()
        return types.SimpleNamespace(start_ns=start, duration_ns=duration, stats=stats)

    line = types.SimpleNamespace(events=[ran('a', 0, 3), ran('while', 0, 10), ran('b', 3, 6), ran('c', 4, 2)])
    found = {event.operation: event for event in trace._of_line(line, {(7, 'c'): 'jit(step)/Net/mul'})}
    chex.assert_equal({name: event.own for name, event in found.items()}, {'while': 1, 'a': 3, 'b': 4, 'c': 2})
    assert [found[name].module for name in 'bc'] == ['', 'Net']
