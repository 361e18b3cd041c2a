"""How fast devices are at best: datasheets, what a trace says of its device, and this machine, measured."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Chip(NamedTuple):
    """The datasheet of a chip, https://cloud.google.com/tpu/docs/system-architecture-tpu-vm.

    Attributes:
        flops: bfloat16, in 1 / s.
        bandwidth: of its memory, in bytes / s.
        links: what all its links to other chips send together, in one direction, in bytes / s.
        memory: bytes.
        options: of libtpu; a v4 and a v5p are one device each, as jax has them where they are there.
        axes: of a slice.
    """

    flops: float
    bandwidth: float
    links: float
    memory: int
    options: dict[str, Any]
    axes: int


CHIPS = {
    'v4': Chip(275e12, 1.228e12, 300e9, 32 << 30, {'chip_config_name': 'megacore'}, 3),
    'v5e': Chip(197e12, 0.819e12, 200e9, 16 << 30, {}, 2),
    'v5p': Chip(459e12, 2.765e12, 600e9, 95 << 30, {'chip_config_name': 'megacore'}, 3),
    'v6e': Chip(918e12, 1.640e12, 400e9, 32 << 30, {}, 2),
}


class Peak(NamedTuple):
    """The roof of a roofline (Williams, Waterman & Patterson 2009, https://doi.org/10.1145/1498765.1498785).

    Attributes:
        flops: in 1 / s.
        bandwidth: of memory, in bytes / s.
        source: where the two are from.
    """

    flops: float
    bandwidth: float
    source: str

    @property
    def text(self) -> str:
        return f'{self.flops / 1e9:,.4g} GFLOP/s and {self.bandwidth / 1e9:,.4g} GB/s: {self.source}'


# Dense bfloat16 products, and memory; SXM boards, https://www.nvidia.com/en-us/data-center/h200 and its like.
_GPUS = {'a100': (312e12, 2.039e12), 'h100': (989e12, 3.35e12), 'h200': (989e12, 4.8e12)}
NAMES = (*CHIPS, *_GPUS, 'here')

# Of the matrices whose product is measured, and of the array that is negated, which no cache holds.
_SIDE, _BYTES, _TRIES = 1024, 256 << 20, 5


def of_datasheet(name: str) -> Peak:
    """Returns the peak of a chip by its name, one of `NAMES`; of ``here`` the one measured on this machine.

    Raises:
        ValueError: there is no datasheet of that name.
    """
    if name == 'here':
        return measured()
    if name not in NAMES:
        raise ValueError(f'the chip {name!r} has no datasheet here: name one of {", ".join(NAMES)}.')
    flops, bandwidth = _GPUS[name] if name in _GPUS else CHIPS[name][:2]
    return Peak(flops, bandwidth, f'datasheet of {name}, bfloat16')


def of_trace(stats: Mapping[str, Any]) -> Peak | None:
    """Returns the peak that a trace states of its device, as those of TPUs do; None where it states none."""
    flops, bandwidth = stats.get('peak_teraflops_per_second'), stats.get('peak_hbm_bw_gigabytes_per_second')
    if not flops or not bandwidth:
        return None
    device = stats.get('device_type_string', 'its device')
    return Peak(1e12 * float(flops), 1e9 * float(bandwidth), f'as the trace says of {device}')


def measured() -> Peak:
    """Returns the best that this machine's CPU does, in about a second: a product of matrices, and a copy."""
    cpu = jax.devices('cpu')[0]
    with jax.default_device(cpu):
        square = jnp.eye(_SIDE, dtype=jnp.float32)
        product = _fastest(jax.jit(lambda matrix: matrix @ matrix), square)
        # In place: memory that a program has just been given is slower, until it has been touched.
        copy = _fastest(jax.jit(jnp.negative, donate_argnums=0), jnp.ones(_BYTES // 4, jnp.float32))
    said = f'measured here, now: a float32 product of {_SIDE} x {_SIDE} matrices, {_BYTES >> 20} MiB negated in place'
    return Peak(2 * _SIDE**3 / product, 2 * _BYTES / copy, said)


def _fastest(function: Callable[[jax.Array], jax.Array], value: jax.Array) -> float:
    """Returns the seconds of the fastest of a few runs, each on the result of the one before."""
    seconds = []
    for _ in range(_TRIES + 1):
        begin = time.perf_counter()
        value = jax.block_until_ready(function(value))
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])
