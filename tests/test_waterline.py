"""benchmarks/waterline.py: its arithmetic against the paper's statements, and what it finds in a network."""

import csv
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import waterline
from benchmarks.waterline import Kernel, Machine
from longview.kernels.fused_block import fused_block

MACHINE = Machine(peak=100.0, bandwidth=10.0)  # the water stands at 10
WET, DRY = Kernel('wet', 50.0, 50.0), Kernel('dry', 900.0, 30.0)


def test_the_sum_of_rooflines_is_no_less_than_that_of_the_totals():
    """With equality where all kernels are on one side of the water; else a dry kernel does not lift a wet one."""
    both = [WET, DRY]
    assert waterline.attainable(both, MACHINE) == 5.0 + 9.0
    assert waterline.roofline(both, MACHINE) == 9.5
    for same in ([WET, WET], [DRY, DRY, DRY]):
        assert waterline.attainable(same, MACHINE) == pytest.approx(waterline.roofline(same, MACHINE))
    assert MACHINE.water == 10 and WET.intensity < MACHINE.water < DRY.intensity


def test_efficiency_and_gap():
    """The latency is the ideal one times two to the gap."""
    share = waterline.efficiency([WET, DRY], MACHINE)
    assert share == pytest.approx(9.5 / 14)
    assert 9.5 * 2 ** waterline.gap(share) == pytest.approx(14)
    assert waterline.efficiency([DRY, DRY], MACHINE) == 1 and waterline.gap(1) == 0
    assert waterline.gap(waterline.efficiency([WET, DRY], MACHINE, seconds=38.0)) == pytest.approx(2)


@pytest.mark.parametrize('kept', [0.0, 20.0, 60.0])
def test_fusing_never_lowers_the_attainable_efficiency(kept):
    """Nor the intensity below the lower of the two; what is kept is what one writes and the other reads."""
    fused = waterline.together([WET, DRY], kept)
    assert waterline.efficiency([fused], MACHINE) >= waterline.efficiency([WET, DRY], MACHINE)
    assert fused.intensity > WET.intensity and fused.operations == 950 and fused.bytes == 80 - kept


def _block(shape=(2, 8, 8, 16)):
    channels = shape[3]
    sizes = (shape, (3, 3, 8, channels), (channels,), (channels, 64), (64,), (64, channels), (channels,))
    return [jax.ShapeDtypeStruct(size, jnp.bfloat16) for size in sizes]


def test_a_fused_block_is_one_kernel_that_moves_its_arrays_once():
    arrays = _block()
    (found,) = waterline.kernels(fused_block, *arrays)
    x, *weights = (2 * array.size for array in arrays)
    assert found.bytes == 2 * x + sum(weights)
    assert found.operations == 2 * 2 * 8 * 8 * (9 * 8 * 16 + 2 * 16 * 64)


def test_loops_and_platforms():
    """A kernel in a loop stands once for each iteration, and of branches by platform the default stands."""
    step = lambda c, w: (jnp.dot(c, w), None)
    loop = waterline.kernels(lambda c, ws: jax.lax.scan(step, c, ws)[0], jnp.ones((2, 4)), jnp.ones((3, 4, 4)))
    assert [k.operations for k in loop] == [64] * 3 and loop[0].bytes == 4 * (8 + 16 + 8)
    twice = lambda x: x @ x @ x
    choose = functools.partial(jax.lax.platform_dependent, tpu=twice, default=lambda x: x @ x)
    assert len(waterline.kernels(choose, jnp.ones((4, 4)))) == 1


def test_a_network_fused_and_not(tmp_path, capsys, monkeypatch):
    """The same operations and fewer bytes; the table, the CSV and the plot say so."""
    layers, fused = (waterline.of_network('convfirst_test', 2, fused=fused) for fused in (False, True))
    total = lambda found, column: math.fsum(kernel[column] for kernel in found)
    assert total(layers, 1) == total(fused, 1) and total(layers, 2) > total(fused, 2)
    assert len(layers) == len(fused) + 2  # one block of three keeps its shape
    assert any('stage1/block01' in kernel.layer for kernel in fused)
    monkeypatch.setattr(waterline, 'of_network', lambda name, batch, **fields: fused)
    waterline.main(['convfirst_test', '--batch=2', '--fused', '--milliseconds=1', f'--folder={tmp_path}'])
    said = capsys.readouterr().out
    assert 'convfirst_test, fused: ' in said and 'measured 1.000 ms' in said
    with (tmp_path / 'convfirst_test_fused.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row['bytes']) for row in rows] == [kernel.bytes for kernel in fused]
    assert (tmp_path / 'convfirst_test_fused.png').exists() != ('matplotlib is not installed' in said)
