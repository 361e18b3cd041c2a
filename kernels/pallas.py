"""What the Pallas kernels of all ops share: names that change between releases of jax, and small helpers.

Checked on jax 0.10.2. Kernels import from Pallas itself only what has stayed the same since 0.8: `pl.BlockSpec`,
`pl.when`, `pl.program_id`, `pl.ds`, `pl.multiple_of` (https://docs.jax.dev/en/latest/pallas/CHANGELOG.html).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

CostEstimate = pl.CostEstimate
ANY = pl.ANY
Element = pl.Element
HBM = pltpu.HBM
SMEM = pltpu.SMEM
roll = pltpu.roll

# Whether kernels are traced for the interpreter; in jit's cache key.
_interpreted = jax.make_user_context(False)


def call(kernel: Callable[..., None], **how: Any) -> Callable[..., Any]:
    """`pl.pallas_call` with numbers of 32 bits, whatever `jax_enable_x64` says.

    Pallas has no 64-bit integers on a TPU, and the flag would make those of a grid or a loop 64 bits wide. Arguments
    are arrays of at most 32 bits (`dispatch.lacking`).
    """
    run = pl.pallas_call(kernel, **how)

    def narrow(*args: Any) -> Any:
        with jax.enable_x64(False):
            return run(*args)

    return narrow


def vmem(shape: tuple[int, ...], dtype: DTypeLike) -> object:
    """Scratch memory of a TPU kernel; it keeps its contents from one grid step to the next."""
    return pltpu.VMEM(shape, dtype)


@jax.jit
@jax.custom_batching.custom_vmap
def in_hbm(x: jax.Array) -> jax.Array:
    """Keeps an operand of a TPU kernel in HBM, from which the kernel reads blocks.

    Otherwise the compiler may first copy the whole operand to VMEM, which saves nothing.
    """
    return pltpu.with_memory_space_constraint(x, pltpu.HBM)


@in_hbm.__wrapped__.def_vmap
def _(size: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    return in_hbm(x), batched[0]


def output(shape: tuple[int, ...], dtype: DTypeLike, like: jax.Array) -> jax.ShapeDtypeStruct:
    """The type of an output; inside of `jax.shard_map` it varies over the same axes as `like`."""
    kind = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=kind)


def output_like(x: jax.Array) -> jax.ShapeDtypeStruct:
    """The type of an output of the shape and dtype of `x`."""
    return output(x.shape, x.dtype, x)


def output_float32(like: jax.Array, *shape: int) -> jax.ShapeDtypeStruct:
    """The type of a float32 output, by default of the shape of `like`."""
    return output(shape or like.shape, jnp.float32, like)


def round_up(size: int, multiple: int) -> int:
    """The least multiple that is no smaller than `size`."""
    return -(-size // multiple) * multiple


def dot_constant(matrix: Any, x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Inside of a kernel: a constant matrix times `x`, operands in `dtype` and sums in float32."""
    precision = lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT
    return jnp.dot(matrix[...], x.astype(dtype), precision=precision, preferred_element_type=jnp.float32)


def word(low: jax.Array, high: jax.Array) -> jax.Array:
    """Inside of a kernel: two float32 arrays, rounded to bfloat16, as the halves of one of uint32."""
    if not _interpreted.value:
        return pltpu.pack_elementwise([low, high], packed_dtype=jnp.bfloat16)
    # The interpreter has no rule for it.
    low, high = (lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32) for x in (low, high))
    return low | high << 16


def unpacked(words: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inside of a kernel: the bfloat16 numbers in the lower and upper halves of words, as float32."""
    whole = lambda bits: lax.bitcast_convert_type(bits, jnp.float32)
    return whole(words << 16), whole(words & jnp.uint32(0xFFFF0000))


def words(x: jax.Array) -> jax.Array:
    """Inside of a kernel: bfloat16 numbers (2 n, lanes) as words (n, lanes), see `halves`."""
    return pltpu.bitcast(x, jnp.uint32)


def halves(words: jax.Array) -> jax.Array:
    """Inside of a kernel: words (n, lanes) as bfloat16 numbers (2 n, lanes), lower and upper half in turn."""
    return pltpu.bitcast(words, jnp.bfloat16)


def joining_batch(run: Callable[[int, dict], dict], batch: int) -> Callable[[dict], dict]:
    """Returns `run(batch, arrays)` as a function of the arrays; under vmap the mapped axis joins the batch.

    Args:
      run: takes the size of the batch, the first axis of every array, and arrays by name; returns arrays by name.
      batch: its size outside of vmap.
    """

    @jax.custom_batching.custom_vmap
    def call(arrays: dict) -> dict:
        return run(batch, arrays)

    @call.def_vmap
    def _(size: int, mapped: list, arrays: dict) -> tuple[dict, dict]:
        def join(x: jax.Array, is_mapped: bool) -> jax.Array:
            x = x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        found = joining_batch(run, size * batch)(jax.tree.map(join, arrays, mapped[0]))
        found = jax.tree.map(lambda x: x.reshape(size, batch, *x.shape[1:]), found)
        return found, jax.tree.map(lambda x: True, found)

    return call


def tpu_params(dimension_semantics: tuple[str, ...], vmem_limit_bytes: int | None = None) -> object:
    """Compiler parameters of a TPU kernel.

    dimension_semantics: 'parallel' per grid dimension, or 'arbitrary' where scratch memory is carried along it.
    vmem_limit_bytes: how much VMEM the kernel may use; by default the compiler's limit.
    """
    return pltpu.CompilerParams(dimension_semantics=dimension_semantics, vmem_limit_bytes=vmem_limit_bytes)


def gpu_params(warps: int, stages: int = 2) -> object:
    """Compiler parameters of a GPU kernel, which also choose the Triton backend."""
    from jax.experimental.pallas import triton  # deprecated from jax 0.11: a warning for its users

    return triton.CompilerParams(num_warps=warps, num_stages=stages)


@contextlib.contextmanager
def interpret_tpu_kernels() -> Iterator[None]:
    """TPU kernels that are traced inside run on any platform, in a simulation of the chip's memories.

    Unwritten memory holds NaN, out-of-bounds reads raise an error, and races are detected.
    """
    strict = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan', out_of_bounds_reads='raise')
    with pltpu.force_tpu_interpret_mode(strict), _interpreted(True):
        yield


def reset_tpu_interpreter() -> None:
    """Clears the state of the interpreter after an interpreted kernel has raised an error."""
    pltpu.reset_tpu_interpret_mode_state()


def races_found() -> bool:
    """Whether the last interpreted kernel raced; a race is otherwise only printed."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    return interpret_pallas_call.races is not None and interpret_pallas_call.races.races_found
