"""Every op at its edges, the same for all of them: 64-bit numbers, dtypes, second derivatives, NaN, empty batches."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels import dispatch
from tests.kernels.close import assert_close
from tests.kernels.ops import OPS
from tests.modelzoo import tiny

EVERY = pytest.mark.parametrize('name', OPS)


def _slope(op, **how):
    """Returns the outputs and the gradients of a loss that is not linear in them, by name."""

    def loss(arrays):
        found = op(arrays, **how)
        return sum(jnp.sum(jnp.sin(y)) for y in found), found

    def run(arrays):
        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
        return {f'output {n}': y for n, y in enumerate(found)} | gradients

    return run


def test_no_op_is_left_out():
    assert set(OPS) == set(dispatch.OPS)


@EVERY
def test_numbers_of_64_bits_change_nothing_for_those_of_32(name):
    """On a CPU, and the kernel is lowered for a TPU all the same."""
    op = OPS[name]
    arrays, run = op.arrays(), tiny.jit(_slope(op))
    wanted = jax.device_get(run(arrays))
    with jax.enable_x64(True):
        traced = tiny.jit(_slope(op)).trace(arrays)
        found = jax.device_get(traced.lower().compile()(arrays))
        text = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert {x.dtype.name for x in found.values()} == {'float32'}
    assert_close(found, wanted, dict.fromkeys(wanted, 1e-6))
    assert ('tpu_custom_call' in text) == op.kernel


def test_a_form_that_fails_for_another_platform_leaves_the_others_alone():
    """Whether its value, its gradient or its second derivative is asked for; where it is named it fails."""
    seen = []

    def broken(x):
        seen.append(x)
        raise TypeError('no such kernel')

    @jax.custom_vjp
    def half(x):
        return jnp.cos(x)

    half.defvjp(lambda x: (half(x), x), lambda x, dy: broken(x))
    split = dispatch.Split(((dispatch.BATCH,),), (dispatch.BATCH,))
    slope = lambda f: jax.grad(lambda x: f(x).sum())
    for run, depth in ((broken, 0), (half, 1), (half, 2)):
        forms = {'xla': dispatch.Form(jnp.sin), 'pallas_tpu': dispatch.Form(run, platform='tpu')}
        op = lambda x, name=None: dispatch.run('gla', name, forms, x, split=split)
        wanted = jnp.sin
        for _ in range(depth):
            op, wanted = slope(op), slope(wanted)
        with pytest.warns(UserWarning, match="gla: implementation 'pallas_tpu' failed to be traced .*no such kernel"):
            found = jax.jit(op)(jnp.ones(3))
        np.testing.assert_allclose(found, wanted(jnp.ones(3)), rtol=1e-6)
    assert seen
    with pytest.raises(TypeError, match='no such kernel'):
        dispatch.run(
            'gla', 'pallas_tpu', forms | {'pallas_tpu': dispatch.Form(broken, 'tpu')}, jnp.ones(3), split=split
        )


@EVERY
def test_integers_are_refused_by_name(name):
    op = OPS[name]
    function = inspect.unwrap(op.function)  # without the check of annotations, which is there in tests only
    for argument in op.shapes:
        arrays = op.arrays()
        arrays[argument] = arrays[argument].astype('int32')
        with pytest.raises(ValueError, match=f'^{argument} is int32; wanted (real )?floating-point numbers: pass '):
            function(**jax.tree.map(jnp.asarray, arrays), **op.options)


@EVERY
def test_of_two_types_neither_is_cut(name):
    """One argument in bfloat16 and the others in float32: as in float32, but for the type of the outputs."""
    op = OPS[name]
    run = tiny.jit(lambda arrays: op(arrays))
    for argument in list(op.shapes)[:2]:
        arrays = op.arrays()
        mixed = arrays | {argument: jnp.asarray(arrays[argument], 'bfloat16')}
        found, wanted = (
            {str(n): y for n, y in enumerate(run(x))}
            for x in (mixed, arrays | {argument: mixed[argument].astype('float32')})
        )
        bars = {n: 5e-3 if y.dtype == 'bfloat16' else 1e-5 for n, y in found.items()}
        assert_close(jax.tree.map(lambda y: y.astype('float32'), found), wanted, bars)


@EVERY
def test_hessian_vector_products(name):
    """By default, in reverse mode over reverse mode; it is lowered for a TPU and a GPU too."""
    op = OPS[name]
    arrays = op.arrays()

    def along(run):
        slope = jax.grad(lambda arrays: sum(jnp.sum(jnp.sin(y)) for y in run(arrays)))
        return jax.grad(lambda arrays: sum(jnp.vdot(g, arrays[n]) for n, g in slope(arrays).items()))

    traced = tiny.jit(along(op)).trace(arrays)
    found = traced.lower().compile()(arrays)
    wanted = tiny.jit(along(lambda arrays: op(arrays, 'reference')))(arrays)
    assert_close(found, wanted, dict.fromkeys(wanted, 1e-5))
    assert traced.lower(lowering_platforms=('tpu',))


@EVERY
def test_forward_mode_where_plain_forms_are_preferred(name):
    """`jvp` and `linearize`; elsewhere it works, or one sentence names the way."""
    op = OPS[name]
    arrays = op.arrays()
    along = lambda run: lambda arrays: jax.jvp(run, (arrays,), (arrays,))[1]
    line = lambda arrays: jax.linearize(op, arrays)[1](arrays)
    wanted = tiny.jit(along(lambda arrays: op(arrays, 'reference')))(arrays)
    with dispatch.prefer(plain=True):
        for found in tiny.jit(lambda arrays: (along(op)(arrays), line(arrays)))(arrays):
            assert_close(*({str(n): y for n, y in enumerate(x)} for x in (found, wanted)), dict.fromkeys('01', 1e-5))
    if name not in ('long_conv2d', 'global_filter', 'fused_block', 'attention'):  # plain in any case
        with pytest.raises(
            NotImplementedError, match=r'jax\.linearize, jax\.hessian\) inside of `with dispatch\.prefer\('
        ):
            jax.jit(along(op)).lower(arrays)


@EVERY
def test_an_empty_batch_is_answered(name):
    """With outputs as those of one example, and no gradient of what examples share."""
    op = OPS[name]
    arrays = op.arrays()
    arrays |= {argument: arrays[argument][:0] for argument in op.batched}
    single = op.arrays() | {argument: op.arrays()[argument][:1] for argument in op.batched}
    wanted = jax.eval_shape(op, single)
    for implementation in (None, 'reference'):
        found, pull = jax.vjp(lambda arrays: op(arrays, implementation), arrays)
        assert [(y.shape, y.dtype) for y in found] == [((0, *y.shape[1:]), y.dtype) for y in wanted]
        assert not any(jnp.any(x) for x in jax.tree.leaves(pull(found)))


CAUSAL = {
    'gla': 'qkvg',
    'selective_scan': ('u', 'delta', 'B', 'C'),
    'linear_scan': 'ax',
    'long_conv': 'u',
    'causal_conv1d': 'x',
}


@pytest.mark.parametrize('name', CAUSAL)
def test_a_nan_reaches_no_earlier_token(name):
    op = OPS[name]
    run = tiny.jit(lambda arrays: op(arrays)[0])
    for argument in CAUSAL[name]:
        arrays = op.arrays()
        clean = run(arrays)
        arrays[argument][1, 13] = np.nan
        found = np.asarray(run(arrays))
        np.testing.assert_allclose(found[0], clean[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[1, :13], clean[1, :13], rtol=1e-5, atol=1e-5)
        assert np.isnan(found[1, 13]).any()


@pytest.mark.parametrize('name', ['gla', 'bidirectional_gla', 'attention'])
def test_a_nan_reaches_no_other_head(name):
    op = OPS[name]
    run = tiny.jit(lambda arrays: op(arrays)[0])
    for argument in op.shapes:
        arrays = op.arrays()
        clean = run(arrays)
        arrays[argument][1, 13, 0] = np.nan
        found = np.asarray(run(arrays))
        np.testing.assert_allclose(found[:, :, 1], clean[:, :, 1], rtol=1e-5, atol=1e-5)
        assert np.isnan(found[1, 13, 0]).any()
