"""How much of its vector memory (VMEM) a TPU kernel may take, by the chip that the program is for.

Blocks are sized while a kernel is traced, which may be on a host that has no TPU. The chip is then the first that is
known of: the one of `for_chip`, the one of the mesh (`jax.set_mesh`, also of devices that are absent), the one that is
attached. If none of them is a TPU, it is the chip with the least vector memory, whose blocks fit all.

Sizes are those of jax's own table, which has no public name for a chip that is absent
(`jax.experimental.pallas.tpu.get_tpu_info`; jax 0.10.2).
"""

import contextlib
from collections.abc import Iterator

import jax

MIB = 2**20
LEAST = 16 * MIB

# Of a core, by kind of device; of a chip that is not here, the least.
_SIZES = {
    'TPU v5e': 128 * MIB,
    'TPU v5 lite': 128 * MIB,
    'TPU v5': 64 * MIB,
    'TPU v5p': 64 * MIB,
    'TPU v6e': 128 * MIB,
    'TPU v6 lite': 128 * MIB,
    'TPU7': 64 * MIB,
    'TPU7x': 64 * MIB,
}

# In jit's cache key.
_kind = jax.make_user_context(None)


@contextlib.contextmanager
def for_chip(kind: str) -> Iterator[None]:
    """Kernels that are traced inside are made for one chip.

        with vmem.for_chip('TPU v5 lite'):
            lowered = jax.jit(step).lower(*inputs)

    Needed only for programs that are compiled without a mesh on a host without that chip.

    Args:
      kind: `device_kind` of its devices.
    """
    with _kind(kind):
        yield


def limit() -> int:
    """Returns the bytes of VMEM that a kernel may take: all of the least, and half of what other chips have.

    What a kernel does not take holds what the program around it keeps from one operation to the next.
    """
    return max(LEAST, _SIZES.get(_device_kind(), 0) // 2)


def _device_kind() -> str:
    if _kind.value is not None:
        return _kind.value
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind
