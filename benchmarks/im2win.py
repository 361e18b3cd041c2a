"""Convolution on windows of rows (im2win) beside explicit im2col and XLA's convolution: memory and time.

    python -m benchmarks.im2win memory [--batch=1]
    python -m benchmarks.im2win cpu [--batch=1] [--layer=conv9]
    python -m benchmarks.im2win tpu [--batch=8] [--on=v5e]

The layers are the twelve of Lu et al., 2023, "Im2win: An Efficient Convolution Paradigm on GPU"
(https://arxiv.org/abs/2306.14316), as in https://github.com/seth-lu/Im2win (commit 3a66cdc, batch 128 there), without
padding.

`memory` compares the window tensor with im2col's array, in elements, and the temporaries of the three programs as XLA
compiles them for a CPU; a compiler may fuse either array away. `cpu` times the programs on one core: float32, CPU time
of the best call in a second. `tpu` compiles for an absent TPU: bytes to and from HBM, by the compiler for XLA and by
the CostEstimate of the kernel, and temporaries; bfloat16, channels in the lanes as in layers, and no seconds.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.peer import seconds
from longview.kernels.conv2d import conv2d
from longview.kernels.conv2d.im2win import windows
from longview.kernels.conv2d.plan import Plan

_BATCH = flags.DEFINE_integer('batch', None, 'Images; by default 1, and 8 for tpu.', lower_bound=1)
_LAYER = flags.DEFINE_string('layer', '', 'Only layers whose name contains this.')
_ON = flags.DEFINE_string('on', 'v5e', 'tpu: which chip; those of tests/kernels/tpu.py.')


class Layer(NamedTuple):
    """Channels and sides of the images, outputs and sides of the kernel, stride."""

    channels: int
    side: int
    outputs: int
    taps: int
    stride: int = 1

    @property
    def plan(self) -> Plan:
        return Plan((self.stride, self.stride), ((0, 0), (0, 0)))

    def arrays(self, batch: int, dtype: Any = jnp.float32) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Returns the types of images and kernel."""
        x = (batch, self.side, self.side, self.channels)
        kernel = (self.taps, self.taps, self.channels, self.outputs)
        return jax.ShapeDtypeStruct(x, dtype), jax.ShapeDtypeStruct(kernel, dtype)

    def programs(self, *names: str) -> dict[str, Callable[..., jax.Array]]:
        """Returns functions of images and kernel by name, im2col among them."""
        found = {name: partial(conv2d, stride=self.stride, padding=0, implementation=name) for name in names}
        return {**found, 'im2col': partial(im2col, self.plan)}


LAYERS = {
    'conv1': Layer(3, 227, 96, 11, 4),
    'conv2': Layer(3, 231, 96, 11, 4),
    'conv3': Layer(3, 227, 64, 7, 2),
    'conv4': Layer(64, 224, 64, 7, 2),
    'conv5': Layer(96, 24, 256, 5),
    'conv6': Layer(256, 12, 512, 3),
    'conv7': Layer(3, 224, 64, 3),
    'conv8': Layer(64, 112, 128, 3),
    'conv9': Layer(64, 56, 64, 3),
    'conv10': Layer(128, 28, 128, 3),
    'conv11': Layer(256, 14, 256, 3),
    'conv12': Layer(512, 7, 512, 3),
}


def columns(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns im2col's array: for every pixel of the output the pixels that it reads, with their channels."""
    sizes, (rows, wide) = plan.sizes(x, kernel), kernel.shape[:2]
    read = jax.vmap(plan.read, in_axes=(0, None, None))
    return jnp.concatenate([read(x, (i, j), sizes) for i in range(rows) for j in range(wide)], axis=3)


def im2col(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution as one product with im2col's array."""
    found = columns(plan, x, kernel)
    y = found.reshape(-1, found.shape[3]) @ kernel.reshape(-1, kernel.shape[3])
    return y.reshape(*found.shape[:3], -1)


def memory(layer: Layer, batch: int) -> list[float]:
    """Returns elements of the windows and of im2col's array, in millions, their ratio, and temporaries in MiB."""
    arrays = layer.arrays(batch)
    sizes = [jax.eval_shape(partial(function, layer.plan), *arrays).size for function in (windows, columns)]
    temporaries = [
        jax.jit(program).lower(*arrays).compile().memory_analysis().temp_size_in_bytes / 2**20
        for program in layer.programs('im2win', 'conv').values()
    ]
    return [*(size / 1e6 for size in sizes), sizes[0] / sizes[1], *temporaries]


def times(layer: Layer, batch: int) -> list[float]:
    """Returns milliseconds of the programs, and the ratio of the first to the second."""
    random = np.random.default_rng(0)
    arrays = [jnp.asarray(random.standard_normal(x.shape), x.dtype) for x in layer.arrays(batch)]
    found = []
    for program in layer.programs('im2win', 'conv').values():
        call = partial(jax.jit(program), *arrays)
        jax.block_until_ready(call())
        found.append(1e3 * seconds(lambda call=call: jax.block_until_ready(call())))
    return [*found, found[0] / found[1]]


def on_tpu(layer: Layer, batch: int) -> list[float]:
    """Returns megabytes moved and MiB of temporaries for each program."""
    from tests.kernels import tpu

    arrays = layer.arrays(batch, jnp.bfloat16)
    programs = layer.programs('im2win_fused', 'im2win', 'conv').values()
    found = [tpu.compile_for(program, *arrays, chip=_ON.value, as_in_layers=True) for program in programs]
    return [figure for one in found for figure in (one.bytes / 1e6, one.temp / 2**20)]


_TABLES = {
    'memory': (memory, 1, 'windows, M | im2col, M | ratio | im2win, MiB | XLA, MiB | im2col, MiB'),
    'cpu': (times, 1, 'im2win, ms | XLA, ms | im2col, ms | im2win / XLA'),
    'tpu': (on_tpu, 8, ' | '.join(f'{name}, MB | MiB' for name in ('fused', 'im2win', 'XLA', 'im2col'))),
}


def table(kind: str, batch: int | None, match: str) -> Iterator[str]:
    """Yields the lines of a table, a layer each."""
    measure, usual, heads = _TABLES[kind]
    yield f'| layer | {heads} |'
    yield f'|{"---|" * (heads.count("|") + 2)}'
    for name, layer in LAYERS.items():
        if match in name:
            figures = ' | '.join(f'{figure:,.2f}' for figure in measure(layer, batch or usual))
            yield f'| {name} | {figures} |'


def main(argv: list[str]) -> None:
    """Prints a table."""
    if len(argv) != 2 or argv[1] not in _TABLES:
        raise app.UsageError(f'found {argv[1:]}; wanted one of {", ".join(_TABLES)}.')
    os.environ['JAX_PLATFORMS'] = 'cpu'
    if argv[1] == 'cpu':
        os.sched_setaffinity(0, {0})
    for line in table(argv[1], _BATCH.value, _LAYER.value):
        print(line, flush=True)


if __name__ == '__main__':
    app.run(main)
