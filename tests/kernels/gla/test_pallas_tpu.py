"""The TPU kernels of gated linear attention, interpreted: unwritten memory is NaN, races and wild reads fail."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.kernels.gla import bidirectional_gla, gla, pallas_tpu, pallas_tpu_layout, pallas_tpu_mild
from tests.kernels import close, tpu
from tests.kernels.gla import cases
from tests.kernels.gla.cases import Case
from tests.kernels.gla.test_numbers import DECAYS

SMALL = (16, 32)  # chunk and block: several of both in the shortest sequences


def _op(case, arrays, sizes):
    q, k, v = (arrays[name] for name in 'qkv')
    how = {'scale': q.shape[-1] ** -0.5, 'sizes': sizes}
    if case.bidirectional:
        gates = arrays['g0'], arrays['g0' if case.shared else 'g1']
        return {'o': pallas_tpu.bidirectional_gla(q, k, v, *gates, **how)}
    o, last = pallas_tpu.gla(q, k, v, arrays['g0'], arrays.get('state'), reverse=case.reverse, **how)
    return {'o': o, 'last': last}


@partial(cases.jit, static_argnums=(0, 2))
def _run(case, arrays, sizes):
    cotangents = {'o': arrays['do']} if case.bidirectional else {'o': arrays['do'], 'last': arrays['dlast']}
    wrt = {name: x for name, x in arrays.items() if name not in ('do', 'dlast')}
    outputs, pull = jax.vjp(lambda wrt: _op(case, wrt, sizes), wrt)
    return outputs | {f'd{name}': x for name, x in pull(cotangents)[0].items()}


def _check(case, sizes=None, decay=cases.mild):
    arrays = cases.inputs(case, decay)
    with tpu.interpreted():
        found = jax.block_until_ready(_run(case, cases.device(case, arrays), sizes))
    target = cases.wanted(case, arrays)
    close.assert_close(found, target, dict.fromkeys(target, close.BARS[case.dtype]))


@pytest.mark.parametrize(
    'case, sizes',
    [
        (Case('odd', state=True, reverse=True), SMALL),
        (Case('odd', gates='kh'), None),
        (Case('even', gates='h', dtype='bfloat16'), (16, 64)),
        (Case('unaligned'), (16, 16)),
        (Case('state_space', gates='h', state=True), (16, 32)),
    ],
    ids=str,
)
def test_outputs_and_gradients(case, sizes):
    _check(case, sizes)


@pytest.mark.heavy
@pytest.mark.parametrize(
    'case, sizes',
    [
        (Case('one_token', state=True), None),
        (Case('prime', state=True, dtype='bfloat16'), None),
        (Case('unaligned', gates='kk'), (16, 16)),
        (Case('unaligned', gates='h', state=True, dtype='bfloat16'), (16, 16)),
        (Case('unaligned_groups', state=True, dtype='bfloat16'), (16, 32)),
        (Case('unaligned_groups', state=True, reverse=True), (16, 32)),
        (Case('unaligned_groups', gates='kh'), (16, 32)),
        (Case('class_token', gates='kk', shared=True), None),
        (Case('class_token', gates='kk', dtype='bfloat16'), (32, 64)),
        (Case('wide', gates='kk'), None),
        (Case('long_prime', state=True), None),
        (Case('one_token', gates='h', state=True), None),
        (Case('odd', gates='h', state=True, reverse=True), SMALL),
        (Case('odd', gates='hh'), SMALL),
        (Case('class_token', gates='hh', shared=True, dtype='bfloat16'), (32, 64)),
        (Case('wide', gates='h', state=True), None),
        (Case('state_space', gates='h', state=True, dtype='bfloat16'), None),
        (Case('state_space', gates='hh'), (16, 48)),
        (Case('state_space', state=True, reverse=True), (16, 48)),
    ],
    ids=str,
)
def test_outputs_and_gradients_of_more(case, sizes):
    _check(case, sizes)


@pytest.mark.parametrize(
    'decay', [pytest.param(name, marks=pytest.mark.heavy) if '-50' in name else name for name in DECAYS]
)
def test_strong_decay(decay):
    _check(Case('odd', gates='kk'), SMALL, DECAYS[decay])


@pytest.mark.parametrize(
    'decay',
    [name if name in ('some -50', 'some -inf') else pytest.param(name, marks=pytest.mark.heavy) for name in DECAYS],
)
def test_strong_decay_per_head(decay):
    _check(Case('odd', gates='hh'), SMALL, DECAYS[decay])


@pytest.mark.parametrize('share', [0.999, pytest.param(1.001, marks=pytest.mark.heavy)])
@pytest.mark.parametrize('gates', ['k', pytest.param('kk', marks=pytest.mark.heavy)])
def test_decay_at_the_limit_of_mild_ones(gates, share):
    """On either side of what decides between one product of queries and keys and many."""
    limit = lambda random, shape: np.full(shape, -share * pallas_tpu_mild.MOST / SMALL[0])
    _check(Case('odd', gates=gates, state=len(gates) == 1), SMALL, limit)


@pytest.mark.heavy
def test_vmap():
    """Over the queries only; other inputs are broadcast."""
    arrays = cases.device(Case('odd'), cases.inputs(Case('odd')))
    q, k, v, g = (arrays[name][:, :20] for name in ('q', 'k', 'v', 'g0'))
    run = cases.jit(lambda q: pallas_tpu.gla(q, k, v, g, scale=0.1, sizes=SMALL)[0])
    with tpu.interpreted():
        found = jax.block_until_ready(jax.vmap(run)(jnp.stack([q, -2 * q])))
        wanted = jax.block_until_ready(run(q))
    np.testing.assert_allclose(found, jnp.stack([wanted, -2 * wanted]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    'case',
    [
        Case('odd', state=True, reverse=True),
        Case('odd', state=True, reverse=True, gates='h'),
        pytest.param(Case('state_space', state=True, reverse=True, gates='h'), marks=pytest.mark.heavy),
        pytest.param(Case('unaligned_groups', state=True, reverse=True), marks=pytest.mark.heavy),
    ],
    ids=str,
)
@pytest.mark.parametrize('names', ['qkvg', pytest.param('g', marks=pytest.mark.heavy)])
def test_a_nan_reaches_no_other_head_and_no_earlier_token(case, names):
    """In outputs and gradients of two heads that share lanes. Scanned in reverse, earlier tokens are further right."""
    arrays = cases.device(case, cases.inputs(case))
    names = [{'g': 'g0'}.get(name, name) for name in names]
    spoilt = arrays | {name: arrays[name].at[1, 21, 0].set(jnp.nan) for name in names}
    with tpu.interpreted():
        clean, found = (jax.device_get(_run(case, x, SMALL)) for x in (arrays, spoilt))
    assert np.isnan(found['o'][1, :22, 0]).all()
    same = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    same(found['o'][1, 22:], clean['o'][1, 22:])
    for name, x in clean.items():
        other = (1, 1) if name in ('last', 'dstate') else (1, slice(None), 1)
        same(found[name][0], x[0], err_msg=name)
        same(found[name][other], x[other], err_msg=name)


def test_chosen_on_tpus_alone():
    x = jnp.ones((1, 3, 1, 4))
    both = jax.jit(lambda x: (gla(x, x, x, -x), bidirectional_gla(x, x, x, -x, -x))).trace(x)
    texts = {p: both.lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'tpu', 'cuda')}
    assert {p: text.count('@tpu_custom_call(') for p, text in texts.items()} == {'cpu': 0, 'tpu': 2, 'cuda': 0}
    with pytest.raises(NotImplementedError, match="gla: implementation 'pallas_tpu' runs on tpu only, not on cpu"):
        jax.jit(lambda x: gla(x, x, x, -x, implementation='pallas_tpu'))(x)


def test_inside_of_shard_map():
    """With its checks and a shared gate; outside, a named form raises when lowered for another platform, not before."""
    mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    x, g = jnp.ones((4, 3, 1, 4)), jnp.ones((1, 3, 1, 4))
    batch, whole = jax.sharding.PartitionSpec('data'), jax.sharding.PartitionSpec()
    loss = lambda x, g: jax.lax.psum(
        jnp.sum(gla(x, x, x, -jnp.broadcast_to(g, x.shape), implementation='pallas_tpu')[0]), 'data'
    )
    run = jax.jit(jax.grad(jax.shard_map(loss, mesh=mesh, in_specs=(batch, whole), out_specs=whole), (0, 1)))
    text = run.trace(x, g).lower(lowering_platforms=('tpu',)).as_text()
    assert text.count('@tpu_custom_call(') == 1
    with pytest.raises(NotImplementedError, match="implementation 'pallas_tpu' runs on tpu only"):
        run(x, g)


def test_what_cannot_be_served_is_said():
    spec = lambda width, dtype=jnp.float32: jnp.ones((1, 8, 1, width), dtype)
    x, half, huge = spec(4), spec(4, jnp.float16), spec(4096)
    assert pallas_tpu.missing(1, x, x, x, x, None) is None
    assert pallas_tpu.missing(1, x, x, half, x, None) == 'an input is float16; wanted float32 or bfloat16'
    assert 'heads of 4096 x 4096 channels do not fit' in pallas_tpu.missing(2, huge, huge, huge, huge, huge)


@pytest.mark.parametrize(
    'heads, keys, values, wanted',
    [
        (4, 64, 128, (1, 2, 64, 128)),  # pairs of heads fill the lanes
        (2, 16, 32, (1, 2, 16, 32)),  # all heads, less than the lanes
        (6, 32, 64, (1, 6, 32, 64)),  # all heads: no group of them is dense
        (9, 60, 60, (9, 1, 128, 128)),  # one after the other out of all
        (12, 80, 64, (8, 1, 128, 128)),  # and out of as many as fill whole rows of lanes
        (6, 96, 96, (4, 1, 128, 128)),
        (16, 80, 80, (8, 1, 128, 128)),  # also where these divide all, if they are many and wide
        (1, 128, 60, (1, 1, 128, 60)),
        (16, 16, 16, (1, 8, 16, 16)),
    ],
)
def test_layout(heads, keys, values, wanted):
    q, v = (jnp.ones((2, 5, heads, width)) for width in (keys, values))
    plan = pallas_tpu_layout.plan_for(q, v, (q,), 1.0)
    assert (plan.parts, *plan.tile[1:4]) == wanted

    @cases.jit
    def there_and_back(state):
        laid = pallas_tpu_layout.to_states(plan, state)
        assert laid.shape == plan.states
        return pallas_tpu_layout.from_states(plan, laid)

    state = np.arange(2 * heads * keys * values, dtype=np.float32).reshape(2, heads, keys, values)
    np.testing.assert_array_equal(there_and_back(state), state)
