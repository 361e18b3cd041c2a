"""Which implementation runs where, and what is said when none can."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kernels import dispatch
from kernels.dispatch import Form

X = jnp.ones(3)
ANYWHERE = {'xla': Form(lambda x: x + 1), 'reference': Form(lambda x: x + 2)}


def test_no_name_takes_the_first_that_runs_anywhere():
    np.testing.assert_array_equal(dispatch.run('op', None, ANYWHERE, X), 2)
    np.testing.assert_array_equal(dispatch.run('op', 'reference', ANYWHERE, X), 3)


def test_a_platform_of_its_own_is_looked_up_at_lowering():
    forms = ANYWHERE | {'pallas_tpu': Form(jnp.sin, platform='tpu'), 'pallas_gpu': Form(jnp.tanh, platform='cuda')}
    run = jax.jit(lambda x: dispatch.run('op', None, forms, x))
    np.testing.assert_array_equal(run(X), 2)
    np.testing.assert_array_equal(dispatch.run('op', None, forms, X), 2)
    texts = {p: run.trace(X).lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'tpu', 'cuda')}
    held = {p: {word for word in ('sine', 'tanh', 'add') if f'stablehlo.{word}' in text} for p, text in texts.items()}
    assert held == {'cpu': {'add'}, 'tpu': {'sine'}, 'cuda': {'tanh'}}


def test_what_a_form_lacks_is_said_when_named_and_passed_over_when_not():
    lacking = Form(jnp.sin, platform='tpu', missing=lambda x: f'{x.shape[0]} channels, wanted a multiple of 128')
    forms = ANYWHERE | {'pallas_tpu': lacking}
    text = jax.jit(lambda x: dispatch.run('op', None, forms, x)).trace(X).lower(lowering_platforms=('tpu',)).as_text()
    assert 'stablehlo.sine' not in text
    with pytest.raises(NotImplementedError, match=r"op: implementation 'pallas_tpu' cannot serve this call: 3 channels"):
        dispatch.run('op', 'pallas_tpu', forms, X)


def test_a_named_form_on_another_platform_is_refused_in_words():
    forms = ANYWHERE | {'pallas_tpu': Form(jnp.sin, platform='tpu')}
    run = jax.jit(lambda x: dispatch.run('op', 'pallas_tpu', forms, x))
    assert 'stablehlo.sine' in run.trace(X).lower(lowering_platforms=('tpu',)).as_text()
    for refused in (run, jax.grad(lambda x: run(x).sum())):
        with pytest.raises(NotImplementedError, match="op: implementation 'pallas_tpu' runs on tpu only, not on cpu"):
            refused(X)


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no implementation 'xle'; it has 'xla', 'reference' \(the nearest is 'xla'\)"):
        dispatch.run('op', 'xle', ANYWHERE, X)


def test_second_derivatives_are_refused_in_words():
    square = dispatch.first_order('op', lambda x: x * x)
    np.testing.assert_array_equal(jax.jit(square)(X), 1)
    with pytest.raises(NotImplementedError, match='op has first derivatives only'):
        jax.grad(lambda x: square(x).sum())(X)


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
