"""The Pallas names that change between releases of jax, in one place; checked on jax 0.10.2.

Kernels import these and, of Pallas itself, only what has stayed since 0.8: `pl.pallas_call`,
`pl.BlockSpec`, `pl.when`, `pl.program_id`, `pl.ds`, `pl.multiple_of`
(https://docs.jax.dev/en/latest/pallas/CHANGELOG.html).
"""

import contextlib

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

CostEstimate = pl.CostEstimate
ANY = pl.ANY
HBM = pltpu.HBM
SMEM = pltpu.SMEM
roll = pltpu.roll


def vmem(shape: tuple[int, ...], dtype: DTypeLike) -> object:
    """Scratch memory of a TPU kernel, kept from one grid step to the next."""
    return pltpu.VMEM(shape, dtype)


@jax.jit
@jax.custom_batching.custom_vmap
def in_hbm(x: jax.Array) -> jax.Array:
    """Keeps an operand of a TPU kernel in the main memory, from where the kernel reads blocks.

    The compiler may otherwise copy the whole of it to the vector memory first, which saves nothing.
    """
    return pltpu.with_memory_space_constraint(x, pltpu.HBM)


@in_hbm.__wrapped__.def_vmap
def _(size: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    return in_hbm(x), batched[0]


def output(shape: tuple[int, ...], dtype: DTypeLike, like: jax.Array) -> jax.ShapeDtypeStruct:
    """An output of a kernel; inside of `jax.shard_map` it differs over the axes `like` does."""
    kind = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=kind)


def tpu_params(dimension_semantics: tuple[str, ...], vmem_limit_bytes: int | None = None) -> object:
    """Compiler parameters of a TPU kernel.

    dimension_semantics: per grid dimension 'parallel' or, where scratch is carried, 'arbitrary'.
    vmem_limit_bytes: what the kernel may take of the vector memory; the compiler's own by default.
    """
    return pltpu.CompilerParams(dimension_semantics=dimension_semantics, vmem_limit_bytes=vmem_limit_bytes)


def gpu_params(warps: int, stages: int = 2) -> object:
    """Compiler parameters of a GPU kernel, which also choose the Triton backend."""
    from jax.experimental.pallas import triton  # deprecated from jax 0.11: a warning for its users

    return triton.CompilerParams(num_warps=warps, num_stages=stages)


def interpret_tpu_kernels() -> contextlib.AbstractContextManager:
    """TPU kernels traced inside run as a simulation of the chip's memories, anywhere.

    Memory not yet written holds NaN, reads out of bounds raise, and races are looked for.
    """
    return pltpu.force_tpu_interpret_mode(
        pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan', out_of_bounds_reads='raise')
    )


def reset_tpu_interpreter() -> None:
    """Forgets what an interpreted kernel that raised left behind."""
    pltpu.reset_tpu_interpret_mode_state()


def races_found() -> bool:
    """Whether the last interpreted kernel raced; a race is otherwise only printed."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    return interpret_pallas_call.races is not None and interpret_pallas_call.races.races_found
