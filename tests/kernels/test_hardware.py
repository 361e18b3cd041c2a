"""Every op on every kind of device, simulated by lowering for its platform: the form chosen, and the errors."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.attention import attention
from longview.kernels.causal_conv1d import causal_conv1d
from longview.kernels.depthwise_conv import depthwise_conv, inception_conv
from longview.kernels.gla import bidirectional_gla, gla
from longview.kernels.linear_scan import linear_scan
from longview.kernels.long_conv import long_conv
from longview.kernels.long_conv2d import global_filter, long_conv2d
from longview.kernels.selective_scan import selective_scan
from tests.kernels import tpu

# Device -> platform of lowering. The model of GPU or TPU is not known then, so all of a platform get the same form.
DEVICES = {
    'CPU': 'cpu',
    'T4': 'cuda',
    'A100': 'cuda',
    'H100': 'cuda',
    'MI300': 'rocm',
    'v4': 'tpu',
    'v5e': 'tpu',
    'v5p': 'tpu',
    'v6e': 'tpu',
}
KERNELS = {'tpu': 'tpu_custom_call', 'cuda': '__gpu$xla.gpu.triton'}
ONLY = {'pallas_tpu': 'tpu', 'pallas_gpu': 'cuda', 'splash': 'tpu'}


class Op(NamedTuple):
    """An op, the shapes of its arguments, and its implementations; arguments shared by all sequences have no batch."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]


def _inception(x: jax.Array, square: jax.Array, column: jax.Array, implementation: str | None = None) -> jax.Array:
    return inception_conv(x, square, jnp.swapaxes(column, 0, 1), column, implementation=implementation)


_ALL = ('xla', 'reference', 'pallas_tpu', 'pallas_gpu')
_QKV = ((1, 24, 2, 64),) * 3
OPS = {
    'gla': Op(gla, (*_QKV, (1, 24, 2, 64)), _ALL),
    'bidirectional_gla': Op(bidirectional_gla, (*_QKV, (1, 24, 2), (1, 24, 2)), _ALL),
    'selective_scan': Op(selective_scan, ((1, 24, 128), (1, 24, 128), (128, 8), (1, 24, 8), (1, 24, 8)), _ALL),
    'linear_scan': Op(linear_scan, ((1, 24, 128), (1, 24, 128)), _ALL),
    'causal_conv1d': Op(causal_conv1d, ((1, 24, 128), (4, 128)), ('xla', 'reference')),
    'depthwise_conv': Op(
        depthwise_conv, ((1, 8, 8, 8), (3, 3, 1, 8)), ('xla', 'reference', 'shift', 'spectral', 'conv', 'pallas_tpu')
    ),
    'inception_conv': Op(_inception, ((1, 8, 8, 8), (3, 3, 1, 2), (5, 1, 1, 2)), ('xla', 'reference', 'pallas_tpu')),
    'long_conv': Op(long_conv, ((1, 24, 8), (24, 8)), ('xla', 'reference', 'fft', 'monarch', 'pallas_tpu')),
    'long_conv2d': Op(long_conv2d, ((1, 8, 8, 8), (8, 8, 8)), ('xla', 'reference', 'pallas_tpu')),
    'global_filter': Op(global_filter, ((1, 8, 8, 8), (5, 2, 8, 8)), ('xla', 'reference', 'pallas_tpu')),
    'attention': Op(attention, _QKV, ('xla', 'reference', 'splash')),
}


@functools.cache
def lowered(name: str, platform: str, implementation: str | None) -> str:
    return traced(name, implementation).lower(lowering_platforms=(platform,)).as_text()


@functools.cache
def traced(name: str, implementation: str | None) -> jax.stages.Traced:
    """Returns an op's value and gradients, traced once for all platforms."""
    op = OPS[name]
    function = functools.partial(op.function, implementation=implementation)
    loss = lambda *x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(*x)))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in op.shapes]
    return jax.jit(jax.value_and_grad(loss, tuple(range(len(inputs))))).trace(*inputs)


@pytest.mark.usefixtures('absent_gpu')
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', OPS)
def test_without_a_name_every_device_is_served(name, device):
    platform = DEVICES[device]
    text = lowered(name, platform, None)
    assert (KERNELS['tpu'] in text) == (platform == 'tpu' and 'pallas_tpu' in OPS[name].names)
    assert KERNELS['cuda'] not in text, 'no kernel was measured on a GPU yet'


@pytest.mark.usefixtures('absent_gpu')
@pytest.mark.parametrize('platform', sorted(set(DEVICES.values())))
@pytest.mark.parametrize('name', OPS)
def test_a_name_is_served_or_refused_in_words(name, platform):
    for implementation in OPS[name].names:
        only = ONLY.get(implementation, platform)
        if only == platform:
            assert lowered(name, platform, implementation)
            continue
        with pytest.raises(NotImplementedError, match=f"'{implementation}' runs on {only} only, not on {platform}"):
            lowered(name, platform, implementation)


@pytest.mark.parametrize('name', [name for name in OPS if 'pallas_tpu' in OPS[name].names])
def test_over_automatic_axes_a_tpu_runs_the_kernel_on_the_batch_of_each_device(name):
    """Compiled for four chips with train.py's layout; only gradients of inputs that sequences share are exchanged."""
    mesh = jax.sharding.Mesh(np.array(tpu.topology('v5e').devices).reshape(2, 2, 1), ('data', 'fsdp', 'tensor'))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(('data', 'fsdp')))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    has_batch = lambda shape: shape[0] == 1
    inputs = [
        jax.ShapeDtypeStruct(
            (8, *shape[1:]) if has_batch(shape) else shape, jnp.float32, sharding=rows if has_batch(shape) else whole
        )
        for shape in OPS[name].shapes
    ]
    loss = lambda *x: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(OPS[name].function(*x)))
    text = tpu.compile_for(jax.grad(loss, tuple(range(len(inputs)))), *inputs).program.as_text()
    assert 'tpu_custom_call' in text
    assert not [word for word in ('all-gather', 'all-to-all', 'collective-permute') if word in text]
