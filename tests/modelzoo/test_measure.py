"""What ``python -m longview.modelzoo --measure`` says."""

import jax
import jax.numpy as jnp
import pytest

from longview import modelzoo
from longview.modelzoo import __main__ as table


@pytest.fixture
def shortly(monkeypatch) -> None:
    monkeypatch.setattr(table, '_SECONDS', 0.0)


@pytest.mark.parametrize('name', ['vit_test', 'mamba_test'])
def test_memory_holds_parameters_and_what_a_batch_needs(name, shortly):
    small, large = table.measure(name, 1), table.measure(name, 16)
    counted = table.count(name)
    assert small[:3] == large[:3] == counted[:3]
    assert small.seconds > 0 and counted.seconds is None
    assert small.memory > 4 * counted.parameters
    x = table.example(modelzoo.create_model(name).backbone, counted.size)
    assert large.memory - small.memory > 15 * x.size * x.dtype.itemsize, 'more inputs are held, and more beside them'


def test_random_variables_give_finite_logits(shortly):
    """Variances that are negative, or parameters that are zero, would be easier or harder to compute with."""
    model = modelzoo.create_model('resnet_test')
    x = jnp.ones((2, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map_with_path(table._random, shapes)
    logits = jax.device_get(jax.jit(model.apply)(variables, x)['logits'])
    assert jnp.isfinite(logits).all() and (logits != 0).any()


def test_the_table_says_its_units(shortly, capsys):
    assert table.main('vit_test', '--measure', '--batch_size=3') == 0
    said, head, line = capsys.readouterr().out.splitlines()
    assert said == 'on 1 cpu; a batch takes the median of 5 or more runs'
    assert head.split()[-5:] == ['batch', 'a', 'batch', 'inputs/s', 'memory']
    name, *_, size, batch, milliseconds, ms, rate, memory, mebibytes = line.split()
    assert (name, size, batch, ms, mebibytes) == ('vit_test', '32x32', '3', 'ms', 'MiB')
    assert float(rate) == pytest.approx(3e3 / float(milliseconds), rel=0.2)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('--measur',), 'unrecognized arguments: --measur'),
        (('vit_test', '--batch_size=0'), '--batch_size is 0: it must be at least 1'),
        (('vit_test', '--batch_size=x'), "argument --batch_size: invalid int value: 'x'"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, words):
    with pytest.raises(SystemExit) as end:
        table.main(*arguments)
    assert end.value.code.startswith('error: ') and words in end.value.code
    assert len(end.value.code.splitlines()) == 1
