"""Which implementation runs on which platform, and the errors when none can."""

import functools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from longview.configs import base
from longview.kernels import dispatch
from longview.kernels.dispatch import Form
from longview.modelzoo.sequence.gla import GatedLinearAttention
from tests.kernels import cpu
from tests.modelzoo import tiny

X = jnp.ones(3)
run = functools.partial(dispatch.run, split=dispatch.Split(((dispatch.BATCH, dispatch.WIDTH),), (dispatch.BATCH,)))
ANYWHERE = {'xla': Form(lambda x: x + 1), 'reference': Form(lambda x: x + 2)}


def test_no_name_takes_the_first_that_runs_anywhere():
    np.testing.assert_array_equal(run('op', None, ANYWHERE, X), 2)
    np.testing.assert_array_equal(run('op', 'reference', ANYWHERE, X), 3)


def test_a_platform_of_its_own_is_looked_up_at_lowering():
    forms = ANYWHERE | {'pallas_tpu': Form(jnp.sin, platform='tpu'), 'pallas_gpu': Form(jnp.tanh, platform='cuda')}
    jitted = jax.jit(lambda x: run('op', None, forms, x))
    np.testing.assert_array_equal(jitted(X), 2)
    np.testing.assert_array_equal(run('op', None, forms, X), 2)
    texts = {p: jitted.trace(X).lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'tpu', 'cuda')}
    held = {p: {word for word in ('sine', 'tanh', 'add') if f'stablehlo.{word}' in text} for p, text in texts.items()}
    assert held == {'cpu': {'add'}, 'tpu': {'sine'}, 'cuda': {'tanh'}}


def test_tests_of_networks_trace_what_a_cpu_takes_and_leave_nothing_behind():
    forms = ANYWHERE | {'pallas_tpu': Form(jnp.sin, platform='tpu')}
    jitted = jax.jit(lambda x: run('op', None, forms, x))
    with cpu.alone():
        assert 'sin' not in str(jitted.trace(X).jaxpr)
        np.testing.assert_array_equal(jitted(X), 2)
    assert 'sin' in str(jitted.trace(X).jaxpr)


def test_what_a_form_lacks_is_said_when_named_and_passed_over_when_not():
    lacking = Form(jnp.sin, platform='tpu', missing=lambda x: f'{x.shape[0]} channels, wanted a multiple of 128')
    forms = ANYWHERE | {'pallas_tpu': lacking}
    text = jax.jit(lambda x: run('op', None, forms, x)).trace(X).lower(lowering_platforms=('tpu',)).as_text()
    assert 'stablehlo.sine' not in text
    with pytest.raises(
        NotImplementedError, match=r"op: implementation 'pallas_tpu' cannot serve this call: 3 channels"
    ):
        run('op', 'pallas_tpu', forms, X)


def test_a_named_form_on_another_platform_is_refused_in_words():
    forms = ANYWHERE | {'pallas_tpu': Form(jnp.sin, platform='tpu')}
    jitted = jax.jit(lambda x: run('op', 'pallas_tpu', forms, x))
    assert 'stablehlo.sine' in jitted.trace(X).lower(lowering_platforms=('tpu',)).as_text()
    for refused in (jitted, jax.grad(lambda x: jitted(x).sum())):
        with pytest.raises(NotImplementedError, match="op: implementation 'pallas_tpu' runs on tpu only, not on cpu"):
            refused(X)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(
        ValueError, match=r"no implementation 'xle'; it has 'xla', 'reference' \(the nearest is 'xla'\)"
    ):
        run('op', 'xle', ANYWHERE, X)


def test_sharded_is_what_the_partitioner_may_split():
    seen = []

    def look(x):
        seen.append(dispatch.sharded(x))
        return x

    mesh = jax.make_mesh((4, 2), ('data', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, PartitionSpec('data')))
    one = jax.device_put(x, NamedSharding(jax.make_mesh((1,), ('data',), devices=jax.devices()[:1]), PartitionSpec()))
    look(x)
    jax.jit(look)(x)
    jax.jit(jax.shard_map(look, mesh=mesh, in_specs=PartitionSpec('data'), out_specs=PartitionSpec('data')))(x)
    jax.jit(look)(one)
    jax.jit(look)(jnp.ones((8, 2)))
    assert seen == [True, True, False, False, False]


AUTO = jax.sharding.AxisType.Auto
TOKENS = (dispatch.BATCH, None, dispatch.WIDTH)


def _kernel(seen, x, scale):
    """Stands for a kernel that a partitioner cannot split: it takes its input for the whole array."""
    seen.append((x.shape, scale.shape))
    return x * scale[None, None] + jax.lax.axis_index('tensor')


@pytest.mark.parametrize('implementation', [None, 'kernel'])
@pytest.mark.parametrize('channels, piece', [(4, (2, 3, 2)), (5, (2, 3, 5))])
def test_over_automatic_axes_a_platforms_own_form_gets_the_piece_of_each_device(implementation, channels, piece):
    mesh = jax.make_mesh((2, 2, 2), ('data', 'fsdp', 'tensor'), axis_types=(AUTO,) * 3)
    seen = []
    forms = {'xla': Form(lambda x, scale: x), 'kernel': Form(functools.partial(_kernel, seen), platform='cpu')}
    split = dispatch.Split((TOKENS, (dispatch.WIDTH,)), TOKENS)
    x = jax.device_put(jnp.ones((8, 3, channels)), NamedSharding(mesh, PartitionSpec(('data', 'fsdp'))))
    scale = jax.device_put(1.0 + jnp.arange(channels), NamedSharding(mesh, PartitionSpec()))
    if channels == 5:
        # Replicated over the axis, so all devices must agree; the index of a device would not.
        forms['kernel'] = Form(lambda x, scale: (seen.append((x.shape, scale.shape)), x * scale[None, None])[1], 'cpu')
    run = jax.jit(lambda x, scale: dispatch.run('op', implementation, forms, x, scale, split=split))
    wanted = scale + (jnp.arange(4) // 2 if channels == 4 else 0)
    np.testing.assert_array_equal(run(x, scale), jnp.broadcast_to(wanted, x.shape))
    assert set(seen) == {(piece, piece[-1:])}
    slope = jax.jit(jax.grad(lambda scale, x: run(x, scale).sum()))
    np.testing.assert_array_equal(slope(scale, x), 24.0)


def test_a_batch_that_does_not_divide_is_left_to_the_partitioner_or_refused_in_words():
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AUTO,), devices=jax.devices()[:4])
    x = jax.device_put(jnp.ones((6, 2)), NamedSharding(mesh, PartitionSpec()))
    forms = {'xla': Form(lambda x: x + 1), 'kernel': Form(lambda x: x + 2, platform='cpu')}
    np.testing.assert_array_equal(jax.jit(lambda x: run('op', None, forms, x))(x), 2)
    with pytest.raises(NotImplementedError, match='the batch of 6 does not divide over the 4 devices'):
        jax.jit(lambda x: run('op', 'kernel', forms, x))(x)


def test_a_preferred_implementation_reaches_calls_that_name_none_also_under_jit():
    jitted = jax.jit(lambda x: run('gla', None, ANYWHERE, x))
    np.testing.assert_array_equal(jitted(X), 2)
    with dispatch.prefer(gla='reference', conv2d='conv'):
        np.testing.assert_array_equal(jitted(X), 3)
        np.testing.assert_array_equal(run('gla', 'xla', ANYWHERE, X), 2)
        np.testing.assert_array_equal(run('long_conv', None, ANYWHERE, X), 2)
        with dispatch.prefer(gla='xla', conv2d=None):
            np.testing.assert_array_equal(jitted(X), 2)
    np.testing.assert_array_equal(jitted(X), 2)


def test_what_cannot_be_preferred_is_refused_in_words():
    with pytest.raises(ValueError, match="there is no op 'glaa' to prefer an implementation of; did you mean 'gla'?"):
        dispatch.prefer(glaa='xla').__enter__()
    with dispatch.prefer(gla='xle'), pytest.raises(ValueError, match="gla has no implementation 'xle'; it has 'xla'"):
        run('gla', None, ANYWHERE, X)


def test_every_op_that_dispatches_can_be_preferred_and_configs_name_them_all():
    folder = pathlib.Path(dispatch.__file__).parent
    called = {
        op for path in folder.glob('*/api.py') for op in re.findall(r"dispatch\.run\(\s*'(\w+)'", path.read_text())
    }
    assert called == set(dispatch.OPS) == set(base.kernels())


def test_a_layer_has_forward_mode_where_plain_forms_are_preferred():
    layer, x = GatedLinearAttention(heads=1, rank=1), jnp.ones((1, 2, 4))
    params = tiny.jit(layer.init)(jax.random.key(0), x)
    along = tiny.jit(lambda x: jax.jvp(lambda x: layer.apply(params, x), (x,), (x,))[1])
    with pytest.raises(NotImplementedError, match='gla has a derivative of its own, in reverse mode only'):
        along(x)
    with dispatch.prefer(gla='reference', causal_conv1d='reference'):
        wanted = jax.device_get(along(x))
    with dispatch.prefer(plain=True):
        chex.assert_trees_all_close(jax.device_get(along(x)), wanted, rtol=1e-5)
