"""Runs a form on each device's shard of images and channels, by custom partitioning.

By itself XLA's partitioner would gather the inputs of a Fourier transform or of a loop over the batch. With
`custom_partitioning` batch and channels stay split, and the gradient of the kernel, a sum over the batch, is summed
over the devices. Under vmap the mapped axis joins the channels, which are independent of each other too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels import derivatives

_WHOLE = ('h', 'w', 'i', 'j', 'o', 'p', 'q')
_RULES = {
    2: 'b h w c, i j o c -> b p q c',
    3: 'b h w c, i j o c, b p q c -> b h w c, i j o c',
}


def on_each_device(form: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Runs `form` on images and a kernel, or on these and a cotangent, for which it has two results.

    It cannot be differentiated, nor can a function under custom partitioning, other than by `derivatives.own_product`.
    """
    if derivatives.plain():
        return form(*arrays)
    shard = custom_partitioning(form)
    shard.def_partition(
        partition=partial(_partition, form),
        sharding_rule=_RULES[len(arrays)],
        need_replication_factors=_WHOLE,
    )

    @jax.custom_batching.custom_vmap
    def run(*arrays: jax.Array) -> Any:
        return shard(*arrays)

    @run.def_vmap
    def _(size: int, batched: list[bool], *arrays: jax.Array) -> tuple[Any, Any]:
        def join(x: jax.Array, mapped: bool) -> jax.Array:
            x = x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            return jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], -1)

        found = on_each_device(form, *map(join, arrays, batched))
        part = lambda x: jnp.moveaxis(x.reshape(*x.shape[:3], size, -1), 3, 0)
        return jax.tree.map(part, found), jax.tree.map(lambda x: True, found)

    return run(*arrays)


def _partition(form: Callable[..., Any], mesh: Any, shapes: Any, result: Any) -> tuple:
    spec = tuple(shapes[0].sharding.spec) + (None,) * 4
    batch, channels = spec[0], spec[3]
    images = NamedSharding(mesh, PartitionSpec(batch, None, None, channels))
    kernels = NamedSharding(mesh, PartitionSpec(None, None, None, channels))

    def shard(*arrays: jax.Array) -> Any:
        found = form(*arrays)
        if len(arrays) == 2 or batch is None:
            return found
        return found[0], lax.psum(found[1], batch)

    given = (images, kernels, images)[: len(shapes)]
    return mesh, shard, images if len(shapes) == 2 else (images, kernels), given
