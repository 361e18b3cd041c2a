"""TPU kernels without a TPU: interpreted with a strict model of its memory, and compiled ahead of time for real chips.

libtpu compiles on the CPU host. Its bytes count the body of a loop once, and those of a Pallas kernel by its
CostEstimate; its memory figures are those of the program that would run.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import pytest
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from longview.engine.topology import nothing_cached
from longview.kernels import pallas, vmem

# The chips whose kernels are compiled in tests, with the smallest topology that libtpu knows of each.
CHIPS = {'v4': 'v4:2x2x1', 'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2'}


def on_chips(chip: str) -> pytest.MarkDecorator:
    """Parametrizes a test by `chip`: one by default, the other chips by `-m heavy`."""
    others = [pytest.param(name, marks=pytest.mark.heavy) for name in CHIPS if name != chip]
    return pytest.mark.parametrize('chip', [chip, *others])


class Compiled(NamedTuple):
    """What the compiler says about a program on one chip, in bytes, and the compiled program."""

    bytes: float  # moved to and from HBM
    peak: int
    temp: int
    arguments: int
    program: jax.stages.Compiled


@functools.cache
def topology(chip: str = 'v5e') -> Any:
    """Returns the devices of an absent TPU, given a name of `CHIPS` or a topology such as 'v5e:4x4'."""
    return topologies.get_topology_desc(CHIPS.get(chip, chip), platform='tpu')


def compile_for(function: Callable, *inputs: Any, chip: str = 'v5e', as_in_layers: bool = False) -> Compiled:
    """Compiles for one device of the chip, or for the devices of the inputs.

    `inputs` are trees of jax.ShapeDtypeStruct; their shardings, over devices of `topology`, are kept.

    as_in_layers: whether arrays have channels in their lanes, as a projection before or after the function makes them.
      By default XLA chooses for each argument and result of a program, and puts 2,048 tokens into lanes sooner than 960
      channels: then copies that no network has are a part of the program.
    """
    device = SingleDeviceSharding(topology(chip).devices[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or device)
    inputs = jax.tree.map(place, inputs)
    with vmem.for_chip(topology(chip).devices[0].device_kind):
        how = {}
        if as_in_layers:
            rows = lambda x: Format(Layout(tuple(range(x.ndim))), device)
            outputs = jax.eval_shape(function, *inputs)
            how = {'in_shardings': jax.tree.map(rows, inputs), 'out_shardings': jax.tree.map(rows, outputs)}
        lowered = jax.jit(function, **how).lower(*inputs)
    with nothing_cached():
        program = lowered.compile()
    memory = program.memory_analysis()
    return Compiled(
        program.cost_analysis()['bytes accessed'],
        memory.peak_memory_in_bytes,
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        program,
    )


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """TPU kernels run on the CPU: unwritten memory is NaN, out-of-bounds reads raise, a race fails.

    Call the function of the implementation, not the op with its name, which is for TPUs only. Programs that run inside
    must finish inside (`jax.block_until_ready`). Races are detected in the last kernel that ran.
    """
    try:
        with pallas.interpret_tpu_kernels():
            yield
        assert not pallas.races_found(), 'a race between reads and writes of the last kernel'
    finally:
        pallas.reset_tpu_interpreter()
