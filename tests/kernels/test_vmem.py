"""Which chip's vector memory a kernel is made for."""

import jax
import numpy as np

from longview.kernels import vmem
from tests.kernels import tpu


def test_half_of_a_chip_and_all_of_the_least():
    assert vmem.limit() == 16 * vmem.MIB  # tests run on a CPU
    for kind, wanted in (
        ('TPU v4', 16),
        ('TPU v5 lite', 64),
        ('TPU v5', 32),
        ('TPU v6 lite', 64),
        ('of the future', 16),
    ):
        with vmem.for_chip(kind):
            assert vmem.limit() == wanted * vmem.MIB, kind


def test_a_mesh_says_it_and_the_setting_comes_first():
    """Also inside of `shard_map` and of `jit`, which traces again for another chip."""
    mesh = jax.sharding.Mesh(np.array(tpu.topology('v5e').devices), ('data',))
    limit = jax.jit(lambda x: x * vmem.limit())
    traced = lambda: limit.trace(jax.ShapeDtypeStruct((), 'int32')).jaxpr.pretty_print(source_info=False)
    assert '16777216' in traced()
    with jax.set_mesh(mesh):
        assert '67108864' in traced()
        spec = jax.sharding.PartitionSpec()
        inside = jax.shard_map(lambda x: x * vmem.limit(), in_specs=spec, out_specs=spec)
        assert '67108864' in str(jax.make_jaxpr(inside)(jax.ShapeDtypeStruct((), 'int32')))
        with vmem.for_chip('TPU v5p'):
            assert '33554432' in traced()
